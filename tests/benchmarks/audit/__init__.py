"""Audits of prompts."""
