"""Small checkpoints of each family, to be trained from the start."""
