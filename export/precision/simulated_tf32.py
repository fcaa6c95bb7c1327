"""A model with TF32 products: their fp32 operands are rounded to 10 bits of mantissa, and sums stay fp32.

That is what NVIDIA's GPUs do from Ampere on where TF32 is allowed ("rounding the inputs to 10-bit mantissas before
multiplying", NvInfer.h). The rounding is Dekker's split in three nodes, so that any ONNX engine computes it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, shape_inference

from medprompt.export.graph.light import without_large_weights
from medprompt.export.precision.flops import MATRIX_OPS

SPLITTER = np.float32(2**13 + 1)
"""Of 24 bits of mantissa, the hidden one included, 11 stay."""

CONSTANT = "tf32/splitter"


def tf32_model(model: Any) -> Any:
    """Make the model whose fp32 products are TF32's. The source is not changed; half and quantised products stay."""
    return _Rounder(model).model()


def rounded_to_tf32(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Values to the nearest of 10 bits of mantissa, ties to even."""
    scaled = values * SPLITTER
    kept: NDArray[np.float32] = scaled - (scaled - values)
    return kept


class _Rounder:
    """Rounds each operand once, before the first product that reads it."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._weights = {t.name: t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT}
        self._floats = _float_tensors(model) | self._weights.keys()
        self._quantised = {n.output[0] for n in model.graph.node if n.op_type == "DequantizeLinear"}
        self._nodes: list[Any] = []
        self._made: dict[str, Any] = {}
        self._rounded: set[str] = set()

    def model(self) -> Any:
        """The model with TF32 products."""
        for node in self._model.graph.node:
            self._nodes.append(self._with_rounded_operands(node) if self._is_fp32_product(node) else node)
        graph = self._model.graph
        splitter = numpy_helper.from_array(np.array(SPLITTER), CONSTANT)
        read = {name for node in self._nodes for name in node.input}
        kept = [tensor for tensor in graph.initializer if tensor.name in read]
        constants = [*kept, *self._made.values(), splitter]
        made = helper.make_graph(self._nodes, graph.name, graph.input, graph.output, constants)
        return helper.make_model(made, opset_imports=self._model.opset_import, ir_version=self._model.ir_version)

    def _is_fp32_product(self, node: Any) -> bool:
        operands = set(node.input[:2])
        return node.op_type in MATRIX_OPS and operands <= self._floats and not operands <= self._quantised

    def _with_rounded_operands(self, node: Any) -> Any:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for index, name in enumerate(node.input[:2]):  # a bias is added in fp32
            copy.input[index] = self._constant(name) if name in self._weights else self._computed(name)
        return copy

    def _constant(self, name: str) -> str:
        target = f"{name}/tf32"
        if target not in self._made:
            values = numpy_helper.to_array(self._weights[name])
            self._made[target] = numpy_helper.from_array(rounded_to_tf32(values), target)
        return target

    def _computed(self, name: str) -> str:
        target = f"{name}/tf32"
        if target not in self._rounded:
            self._rounded.add(target)
            self._nodes += [
                helper.make_node("Mul", [name, CONSTANT], [f"{target}/scaled"], name=f"{target}/Mul"),
                helper.make_node("Sub", [f"{target}/scaled", name], [f"{target}/rest"], name=f"{target}/Rest"),
                helper.make_node("Sub", [f"{target}/scaled", f"{target}/rest"], [target], name=f"{target}/Round"),
            ]
        return target


def _float_tensors(model: Any) -> set[str]:
    inferred = shape_inference.infer_shapes(without_large_weights(model)).graph
    values = (*inferred.input, *inferred.value_info)
    return {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}
