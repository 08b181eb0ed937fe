"""Readers of files of rows: by suffix, column by column, several files as one frame."""
