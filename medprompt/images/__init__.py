"""Images in: read, checked, resized."""
