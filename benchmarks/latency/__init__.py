"""How fast a bundle detects, beside PyTorch."""
