"""The report: one HTML file for a reviewer."""
