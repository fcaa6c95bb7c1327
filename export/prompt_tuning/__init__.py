"""Prompts measured, calibrated, searched and tuned with a checkpoint."""
