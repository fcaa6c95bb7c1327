"""The prompt language: what a class is called in a report, and its prompts."""
