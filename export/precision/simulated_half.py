"""A simulated-half model: computes in fp32, and rounds every tensor that the typed model would keep in half.

ONNX Runtime's CPU has no bf16 kernels, and runs chains of fp16 nodes in fp32 without rounding between them. This model
rounds after every half node, as a GPU that accumulates in fp32 and stores in half does; overflow becomes infinity as it
would there. It does not show fp16 accumulation or fused attention. The file that is served is the typed one, not this.
"""

from __future__ import annotations

from typing import Any

import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

from medprompt.export.graph.light import without_large_weights

HALVES = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})

DATA_MOVEMENT_OPS = frozenset(
    {
        *("Reshape", "Transpose", "Unsqueeze", "Squeeze", "Flatten", "Expand", "Tile", "Identity", "Concat", "Slice"),
        *("Split", "Gather", "GatherElements", "GatherND", "Relu"),
    }
)
"""Operators that make no new values: their outputs are rounded if their inputs were."""


def simulated_half_model(typed: Any) -> Any:
    """Make the simulated-half model of a typed model.

    It has the same inputs and outputs, and ONNX Runtime's CPU computes it as it stands. The typed one is not changed.
    """
    kinds = _half_tensors(typed)
    nodes: list[Any] = []
    for node in typed.graph.node:
        nodes.extend(_rounded(node, kinds))
    graph = typed.graph
    constants = [_widened(tensor) for tensor in graph.initializer]
    simulated = helper.make_graph(nodes, graph.name, graph.input, graph.output, constants)
    return helper.make_model(simulated, opset_imports=typed.opset_import, ir_version=typed.ir_version)


def _half_tensors(typed: Any) -> dict[str, int]:
    inferred = shape_inference.infer_shapes(without_large_weights(typed))
    kinds = {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}
    return {name: kind for name, kind in kinds.items() if kind in HALVES}


def _rounded(node: Any, kinds: dict[str, int]) -> list[Any]:
    """The node in fp32, and for each half output a cast there and back."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    for attribute in copy.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i in HALVES:
            attribute.i = TensorProto.FLOAT
        if attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type in HALVES:
            attribute.t.CopyFrom(_widened(attribute.t))
    made = [copy]
    # Rounded by a cast there and back: the next node still computes in fp32.
    for index, name in enumerate(node.output):
        if name in kinds and node.op_type not in DATA_MOVEMENT_OPS:
            copy.output[index] = f"{name}/exact"
            made.append(_cast(f"{name}/exact", f"{name}/rounded", kinds[name]))
            made.append(_cast(f"{name}/rounded", name, TensorProto.FLOAT))
    return made


def _cast(source: str, target: str, kind: int) -> Any:
    return helper.make_node("Cast", [source], [target], name=f"{target}/Round", to=kind)


def _widened(tensor: Any) -> Any:
    if tensor.data_type not in HALVES:
        return tensor
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype("float32"), tensor.name)
