"""Which engine serves a bundle here, and whether it is proven."""
