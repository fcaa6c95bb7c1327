"""Small graphs of products, to type, round and price."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from tests.export.precision.test_cast import node


def graph(nodes: list[Any], constants: Mapping[str, Any], inputs: Mapping[str, Sequence[int]], output: str) -> Any:
    """A model from float inputs to one float output of any shape."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)) for name, shape in inputs.items()]
    arrays = [numpy_helper.from_array(np.asarray(value, dtype=np.float32), name) for name, value in constants.items()]
    made = helper.make_graph(nodes, "g", ends, [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)], arrays)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def attention(tokens: int = 64, heads: int = 2, *, less_maximum: bool = False) -> Any:
    """``y = softmax(scale · q · k + bias) · v``, ``[1, heads, tokens, 64]``; the maximum subtracted before, or not."""
    shapes = {
        "q": (1, heads, tokens, 64),
        "k": (1, heads, 64, tokens),
        "v": (1, heads, tokens, 64),
    }
    scores = [node("Mul", "q scale", "scaled"), node("MatMul", "scaled k", "scores"), node("Add", "scores bias", "a")]
    less = [node("ReduceMax", "a last", "m"), node("Sub", "a m", "b")] if less_maximum else []
    weights = [node("Softmax", "b" if less else "a", "weights", axis=-1), node("MatMul", "weights v", "o")]
    constants = {"scale": 0.125, "bias": np.zeros((1, 1, 1, tokens)), "two": 2.0}
    made = graph([*scores, *less, *weights, node("Mul", "o two", "y")], constants, shapes, "y")
    made.graph.initializer.append(numpy_helper.from_array(np.array([-1]), "last"))
    return made
