"""Who makes and who reads each tensor of an ONNX graph, and which tensors are float."""

from __future__ import annotations

from typing import Any

import onnx
from onnx import TensorProto, shape_inference

from medprompt.core.errors import MedpromptError
from medprompt.export.graph.light import without_large_weights

FLOAT32_INPUTS = {"Resize": (1, 2)}
"""Inputs that ONNX declares as float32 whatever the type of the others: a Resize's region and scales."""


class Dataflow:
    """The wiring of one fp32 model.

    Attributes:
        constants: Its float initialisers by name.
        floats: Names of all float32 tensors.
        range_of: Largest finite and largest absolute value of the constants looked at so far.

    Raises:
        MedpromptError: The model has subgraphs or functions, which no family's graph has.
    """

    def __init__(self, model: Any) -> None:
        graph = model.graph
        if model.functions or any(a.type == onnx.AttributeProto.GRAPH for n in graph.node for a in n.attribute):
            raise MedpromptError(
                "A graph with subgraphs cannot be given types block by block.",
                fix="export the checkpoint with medprompt, whose graphs have none",
            )
        self.nodes = list(graph.node)
        self.constants = {t.name: t for t in graph.initializer if t.data_type == TensorProto.FLOAT}
        self.outputs = frozenset(value.name for value in graph.output)
        self.floats = frozenset(_float_tensors(model)) | self.constants.keys()
        self.range_of: dict[str, tuple[float, float]] = {}
        self._makers = {name: index for index, node in enumerate(self.nodes) for name in node.output if name}
        self._readers: dict[str, list[int]] = {}
        for index, node in enumerate(self.nodes):
            for name in node.input:
                self._readers.setdefault(name, []).append(index)

    def maker_of(self, name: str) -> int | None:
        """Index of the node that makes a tensor; None for inputs and constants."""
        return self._makers.get(name)

    def readers_of(self, name: str) -> list[int]:
        """Indices of the nodes that read a tensor."""
        return self._readers.get(name, [])

    def float_inputs(self, position: int) -> list[str]:
        """A node's float inputs that follow its type."""
        node = self.nodes[position]
        fixed = FLOAT32_INPUTS.get(node.op_type, ())
        return [name for index, name in enumerate(node.input) if name in self.floats and index not in fixed]

    def has_floats(self, index: int) -> bool:
        """Whether a node reads or makes a float tensor that could be half."""
        return bool(self.float_inputs(index)) or any(name in self.floats for name in self.nodes[index].output)


def _float_tensors(model: Any) -> list[str]:
    inferred = shape_inference.infer_shapes(without_large_weights(model))
    values = (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output)
    return [value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT]
