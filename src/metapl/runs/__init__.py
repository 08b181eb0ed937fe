"""Run folders: what is stored, how it is stored, and how it is read back."""
