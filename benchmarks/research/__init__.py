"""Experiments: in the repository, not in the wheel."""
