"""The prompt language: what a class is called in a report, and what the model is told."""
