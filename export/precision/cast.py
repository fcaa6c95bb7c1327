"""One strongly typed ONNX from a choice of types by block.

Every operator gets one element type on all its float inputs, which is what TensorRT's strongly typed networks demand;
casts stand where the type changes and nowhere else. Inputs and outputs of the graph keep their types.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

from medprompt.core.errors import MedpromptError
from medprompt.export.graph.light import without_large_weights
from medprompt.export.precision.blocks import Blocks
from medprompt.export.precision.dataflow import FLOAT32_INPUTS, Dataflow
from medprompt.export.precision.fp32_nodes import fp32_nodes

ELEMENT_TYPES = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
NUMPY_TYPES = {"fp16": np.dtype(np.float16), "bf16": np.dtype(ml_dtypes.bfloat16)}
ONNX_NAMES = {"fp16": "tensor(float16)", "bf16": "tensor(bfloat16)"}
BF16_OPSET = 22
"""The first operator set in which Conv, GridSample, InstanceNormalization and others take bf16. From 18 to here the
operators that exported graphs use gained types and lost nothing, so the number is raised and the nodes stay."""

FLOATING = frozenset(ELEMENT_TYPES.values())

MIXED_BY_SPECIFICATION = frozenset({"Cast", "QuantizeLinear", "DequantizeLinear"})
"""Operators whose float inputs and outputs may differ in type."""


def node_types(flow: Dataflow, blocks: Blocks, types: Mapping[str, str], *, keep_fp32: bool = True) -> tuple[str, ...]:
    """The type of each node.

    By index in ``graph.node``: ``fp32``, ``fp16`` or ``bf16``, as ``types`` has it by block; a block left out is fp32,
    and so are the nodes of ``medprompt.export.precision.fp32_nodes`` unless ``keep_fp32`` is off.
    """
    chosen = [types.get(block, "fp32") for block in blocks.of_node]
    half = frozenset(index for index, kind in enumerate(chosen) if kind != "fp32" and flow.has_floats(index))
    half = frozenset(index for index in half if _takes(flow.nodes[index].op_type, chosen[index]))
    kept = fp32_nodes(flow, half) if keep_fp32 else frozenset()
    return tuple(kind if index in half - kept else "fp32" for index, kind in enumerate(chosen))


def _takes(operator: str, kind: str) -> bool:
    """Whether ONNX lets an operator compute in a type: Einsum and TopK, for two, take no bf16, and Range no fp16."""
    constraints = onnx.defs.get_schema(operator, BF16_OPSET).type_constraints
    return any(ONNX_NAMES[kind] in constraint.allowed_type_strs for constraint in constraints)


def typed_model(model: Any, blocks: Blocks, types: Mapping[str, str], *, keep_fp32: bool = True) -> Any:
    """Give each block of an fp32 model its type.

    Constants of a half node that fp16 cannot hold (a finite value over 65504, or nothing but values that it makes zero)
    keep their node in fp32, as an fp32 node; otherwise they are clamped to ±65504.

    The fp32 model is not changed. The new one's graph inputs and outputs have the types they had; it is of operator set
    ``BF16_OPSET`` at least where a node is bf16. See ``node_types`` for ``types`` and ``keep_fp32``.

    Raises:
        MedpromptError: A type of another name, or a graph with subgraphs.
    """
    unknown = set(types.values()) - ELEMENT_TYPES.keys()
    if unknown:
        raise MedpromptError("There is no such precision.", expected=", ".join(ELEMENT_TYPES), got=str(sorted(unknown)))
    flow = Dataflow(model)
    return _Caster(model, flow, node_types(flow, blocks, types, keep_fp32=keep_fp32)).model()


def naive_model(model: Any, blocks: Blocks, kind: str = "fp16") -> Any:
    """Everything half, preprocessing, top-K and all: what a converter without a plan makes, for comparison."""
    return typed_model(model, blocks, dict.fromkeys(blocks.names, kind), keep_fp32=False)


class _Caster:
    """Rewrites a graph node by node, making each cast and each converted constant once."""

    def __init__(self, model: Any, flow: Dataflow, kinds: tuple[str, ...]) -> None:
        self._source = model
        self._flow = flow
        self._kinds = kinds
        self._nodes: list[Any] = []
        self._converted: dict[str, Any] = {}
        self._cast: set[str] = set()
        self._kept: set[str] = set()

    def model(self) -> Any:
        """The typed model."""
        for index, node in enumerate(self._flow.nodes):
            self._nodes.append(self._typed(node, self._kinds[index]))
        self._give_back_outputs()
        graph = self._source.graph
        floats = self._flow.constants
        constants = [t for t in graph.initializer if t.name not in floats or t.name in self._kept]
        typed = helper.make_graph(
            self._nodes, graph.name, graph.input, graph.output, [*constants, *self._converted.values()]
        )
        opset = helper.make_opsetid("", self._opset())
        # The source's IR version: the onnx package's newest may be above what an engine reads.
        return helper.make_model(typed, opset_imports=[opset], ir_version=self._source.ir_version)

    def _opset(self) -> int:
        own = int(self._source.opset_import[0].version)
        return max(own, BF16_OPSET) if "bf16" in self._kinds else own

    def _typed(self, node: Any, kind: str) -> Any:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        fixed = FLOAT32_INPUTS.get(node.op_type, ())
        for index, name in enumerate(node.input):
            if name in self._flow.floats:
                copy.input[index] = self._as(name, "fp32" if index in fixed else kind)
        for index, name in enumerate(node.output):
            copy.output[index] = self._made_name(name)
        if kind != "fp32":
            _convert_attributes(copy, kind)
        return copy

    def _kind_of(self, name: str) -> str:
        maker = self._flow.maker_of(name)
        return "fp32" if maker is None else self._kinds[maker]

    def _made_name(self, name: str) -> str:
        """A graph output that is made in half gets another name, so that its cast can have the name."""
        if name in self._flow.outputs and name in self._flow.floats and self._kind_of(name) != "fp32":
            return f"{name}/{self._kind_of(name)}"
        return name

    def _as(self, name: str, kind: str) -> str:
        """Name of a tensor in a type, cast or converted where it has another."""
        if name in self._flow.constants:
            return self._constant(name, kind)
        own = self._kind_of(name)
        if own == kind:
            return self._made_name(name)
        return self._cast_to(self._made_name(name), f"{name}/{kind}", kind)

    def _cast_to(self, source: str, target: str, kind: str) -> str:
        if target not in self._cast:
            self._cast.add(target)
            cast = helper.make_node("Cast", [source], [target], name=f"{target}/Cast", to=ELEMENT_TYPES[kind])
            self._nodes.append(cast)
        return target

    def _constant(self, name: str, kind: str) -> str:
        if kind == "fp32":
            self._kept.add(name)
            return name
        target = f"{name}/{kind}"
        if target not in self._converted:
            self._converted[target] = numpy_helper.from_array(_rounded(self._flow.constants[name], kind), target)
        return target

    def _give_back_outputs(self) -> None:
        for value in self._source.graph.output:
            made = self._made_name(value.name)
            if made != value.name:
                self._cast_to(made, value.name, "fp32")


def _rounded(tensor: Any, kind: str) -> Any:
    """A constant's values in half; what fp16 would make infinite is clamped, infinity itself is kept."""
    values = numpy_helper.to_array(tensor)
    if kind == "fp16":
        limit = float(np.finfo(np.float16).max)
        values = np.where(np.isinf(values), values, np.clip(values, -limit, limit))
    return values.astype(NUMPY_TYPES[kind])


def _convert_attributes(node: Any, kind: str) -> None:
    """The element type that a node states itself: a Cast's target, a constant's tensor."""
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
            attribute.i = ELEMENT_TYPES[kind]
        if attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == TensorProto.FLOAT:
            attribute.t.CopyFrom(numpy_helper.from_array(_rounded(attribute.t, kind), attribute.t.name))


def type_conflicts(model: Any) -> list[str]:
    """Name every node whose float inputs differ in type, and every cast that changes nothing.

    Raises:
        onnx.shape_inference.InferenceError: ONNX's own strict inference finds a contradiction.
    """
    inferred = shape_inference.infer_shapes(without_large_weights(model), check_type=True, strict_mode=True)
    values = (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output)
    kinds = {value.name: value.type.tensor_type.elem_type for value in values}
    kinds.update({tensor.name: tensor.data_type for tensor in inferred.graph.initializer})
    return list(_conflicts(inferred.graph.node, kinds))


def _conflicts(nodes: Any, kinds: Mapping[str, int]) -> Iterator[str]:
    for node in nodes:
        missing = [name for name in (*node.input, *node.output) if name and name not in kinds]
        if missing:
            yield f"{node.name}: no type for {', '.join(missing)}"
        fixed = FLOAT32_INPUTS.get(node.op_type, ())
        read = {kinds.get(name, 0) for index, name in enumerate(node.input) if index not in fixed} & FLOATING
        made = {kinds.get(name, 0) for name in node.output} & FLOATING
        if node.op_type == "Cast" and read == made and read:
            yield f"{node.name}: casts to the type it has"
        if node.op_type not in MIXED_BY_SPECIFICATION and len(read | made) > 1:
            names = ", ".join(sorted(TensorProto.DataType.Name(kind) for kind in read | made))
            yield f"{node.name} ({node.op_type}): {names}"


def check_strongly_typed(model: Any) -> None:
    """Refuse a model that a strongly typed network cannot be parsed from.

    Raises:
        MedpromptError: A node whose float inputs and outputs differ in type.
    """
    try:
        conflicts = type_conflicts(model)
    except shape_inference.InferenceError as error:
        conflicts = [str(error).strip()]
    if conflicts:
        raise MedpromptError(
            "The model is not strongly typed.",
            expected="one element type on all float inputs and outputs of every node but Cast",
            got="; ".join(conflicts[:5]) + (f"; and {len(conflicts) - 5} more" if len(conflicts) > 5 else ""),
            fix="report it, with the family and the precision; precision=fp32 is not concerned",
        )
