"""A trained model outside of metapl: as a file for other programs, and as a small web service."""
