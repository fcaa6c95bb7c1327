"""The proof that a bundle decides as PyTorch does."""
