"""Experiments behind docs/research and the tables of docs/results; run from a checkout, not part of the wheel."""
