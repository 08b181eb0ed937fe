"""Rows that are in memory already: arrays, NumPy files, data sets of other libraries."""
