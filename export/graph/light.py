"""Models without their large weights: what is asked of a graph alone must not copy hundreds of megabytes."""

from __future__ import annotations

import math
from typing import Any

import onnx

SMALL = 64
"""Constants up to this many elements may be shapes, axes, indices or scales; larger ones are weights and tables that no
shape depends on. The exporter keeps constants this small in the graph file."""


def without_large_weights(model: Any, over: int = SMALL) -> Any:
    """The model with weights of more than ``over`` elements as inputs, so that nothing copies hundreds of megabytes."""
    graph = model.graph
    weights = [tensor for tensor in graph.initializer if math.prod(tensor.dims) > over]
    shaped = [onnx.helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in weights]
    kept = [tensor for tensor in graph.initializer if math.prod(tensor.dims) <= over]
    light = onnx.helper.make_graph(graph.node, "light", [*graph.input, *shaped], graph.output, kept)
    return onnx.helper.make_model(light, opset_imports=model.opset_import, ir_version=model.ir_version)
