"""Tables: files of rows, columns and their roles, DataFrames."""
