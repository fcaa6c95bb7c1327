"""Phrases made by rules and by other models' answers, and the search among them."""
