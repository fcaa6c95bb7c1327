"""A node in the hospital's network: receives images, detects, and sends reports and pictures back."""
