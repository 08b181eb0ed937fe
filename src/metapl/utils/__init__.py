"""Helpers that know nothing of data or methods."""
