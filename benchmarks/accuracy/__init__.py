"""How well a bundle detects, beside PyTorch."""
