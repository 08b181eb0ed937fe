"""Data: from what a user names to the batch of a step."""
