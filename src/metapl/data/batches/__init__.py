"""Batches: split, folds, stream, preprocessing and views."""
