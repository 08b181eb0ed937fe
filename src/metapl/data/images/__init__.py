"""Images: files and folders, decoding, sizes, caches and pixel operations."""
