"""Does a bundle fit a site: its images without labels, and what it finds there with a few."""
