"""Texts: reading, tokens and views."""
