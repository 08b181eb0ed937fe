"""The report of a run as one HTML page: its result, the reasons, and the rows to look at."""
