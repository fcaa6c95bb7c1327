"""A family as the canonical graph, and the graph as ONNX."""
