"""A release gate: did accuracy, latency or memory regress?"""
