"""The product measured against PyTorch: latency, accuracy, cold start, and the demo."""
