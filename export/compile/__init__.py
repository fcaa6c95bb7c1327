"""ONNX in, compiled engine out. Knows builders and axes, not model families."""
