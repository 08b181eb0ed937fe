"""The report of a run: what came out, why, and which rows to look at, as one HTML page that needs nothing else."""
