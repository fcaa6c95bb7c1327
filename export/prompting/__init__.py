"""Prompt generators' models: masked language models and visual question answering, through transformers."""
