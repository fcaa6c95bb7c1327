"""The work of each matrix product and convolution, for given sizes of the dynamic axes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from medprompt.core.errors import MedpromptError
from medprompt.export.graph.light import SMALL, without_large_weights

MATRIX_OPS = ("MatMul", "Gemm", "Conv", "Einsum")

TYPICAL_SIZES = {"B": 1, "P": 4, "C": 4, "T": 14, "L": 3, "H": 1080, "W": 1920, "h": 750, "w": 1333}
"""A few phrases and a full-HD source, and what Grounding DINO's processor makes of it: what shares of work are stated
for where nobody says otherwise."""

Shape = tuple[int, ...]


def flops_of_nodes(model: Any, sizes: Mapping[str, int] = TYPICAL_SIZES) -> dict[int, int]:
    """Floating-point operations (a multiplication and an addition count as two) of matrix work.

    By the node's index in ``graph.node``, for nodes of ``MATRIX_OPS``. ``sizes`` gives each dynamic axis by name.
    Weights may be left out (``load_external_data=False``).

    Raises:
        MedpromptError: A shape cannot be found out.
    """
    shapes = shapes_of_tensors(model, sizes)
    found = {}
    for index, node in enumerate(model.graph.node):
        if node.op_type in MATRIX_OPS:
            unknown = [name for name in (*node.input, node.output[0]) if name and name not in shapes]
            if unknown:
                raise MedpromptError(
                    "The shape of a tensor is unknown.",
                    where=node.name,
                    got=", ".join(unknown),
                    fix="report it: the graph has an axis that medprompt does not know",
                )
            found[index] = 2 * _products(node, [shapes.get(n, ()) for n in node.input], shapes[node.output[0]])
    return found


def shapes_of_tensors(model: Any, sizes: Mapping[str, int]) -> dict[str, Shape]:
    """Shapes of all tensors that inference can find, with computed shapes folded in between."""
    sized = _with_sizes(model, sizes)
    shapes: dict[str, Shape] = {}
    # Each round turns computed shapes into constants: a layer of a Swin that serves any size needs some of its own.
    while True:
        inferred = shape_inference.infer_shapes(sized, data_prop=True)
        before, shapes = len(shapes), _known_shapes(inferred.graph)
        if len(shapes) == before or not _fold_integers(sized.graph, shapes):
            return shapes


def _with_sizes(model: Any, sizes: Mapping[str, int]) -> Any:
    """A copy without large weights and stale shapes, whose inputs have the sizes requested."""
    sized = onnx.ModelProto()
    sized.CopyFrom(without_large_weights(model))
    for value in sized.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_value = sizes[dim.dim_param]
    # Output shapes were written for dynamic sizes; inference must find them anew.
    for value in sized.graph.output:
        value.type.tensor_type.ClearField("shape")
    return sized


def _known_shapes(graph: Any) -> dict[str, Shape]:
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            shapes[value.name] = tuple(dim.dim_value for dim in dims)
    return shapes


def _fold_integers(graph: Any, shapes: Mapping[str, Shape]) -> bool:
    """Turn integer nodes of known value into constants; return whether there was one."""
    values: dict[str, NDArray[Any]] = {t.name: numpy_helper.to_array(t) for t in graph.initializer if _is_shape(t)}
    folded = []
    for node in graph.node:
        if node.op_type == "Shape" and node.input[0] in shapes:
            start = next((a.i for a in node.attribute if a.name == "start"), 0)
            end = next((a.i for a in node.attribute if a.name == "end"), None)
            values[node.output[0]] = np.array(shapes[node.input[0]][start:end], dtype=np.int64)
        elif len(node.output) == 1 and node.input and all(not name or name in values for name in node.input):
            feeds = {name: values[name] for name in node.input if name}
            values[node.output[0]] = ReferenceEvaluator(node).run(None, feeds)[0]
        else:
            continue
        folded.append(node)
    for node in folded:
        graph.node.remove(node)
        graph.initializer.append(numpy_helper.from_array(values[node.output[0]], node.output[0]))
    return bool(folded)


def _is_shape(tensor: Any) -> bool:
    return tensor.data_type in (TensorProto.INT64, TensorProto.INT32) and math.prod(tensor.dims) <= SMALL


def _products(node: Any, inputs: list[Shape], output: Shape) -> int:
    """Multiply-adds of one node: elements of the output times the length of each sum."""
    if node.op_type == "Conv":
        return math.prod(output) * math.prod(inputs[1][1:])
    if node.op_type == "Gemm":
        transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
        return math.prod(output) * inputs[0][0 if transposed else 1]
    # Einsum: the only equation that the families' graphs have is a batched product over the last axis.
    return math.prod(output) * inputs[0][-1]
