"""A bundle: read, verified, signed."""
