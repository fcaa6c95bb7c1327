"""A checkpoint on labelled images: features, losses, accuracy."""
