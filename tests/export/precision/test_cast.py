"""Typed models: one type a node, casts at borders only, the same answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from medprompt.core.errors import MedpromptError
from medprompt.export.precision.blocks import blocks_of_model
from medprompt.export.precision.cast import (
    BF16_OPSET,
    check_strongly_typed,
    naive_model,
    node_types,
    type_conflicts,
    typed_model,
)
from medprompt.export.precision.dataflow import Dataflow
from tests.export.precision.conftest import TinyModel

HALF = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


def all_half(tiny: TinyModel, kind: str) -> Any:
    return typed_model(tiny.model, tiny.blocks, dict.fromkeys(tiny.blocks.free, kind))


def scores(model: Any, feeds: dict[str, Any]) -> Any:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["scores"], feeds)[0]


def signature(model: Any) -> list[Any]:
    return [value.SerializeToString() for value in (*model.graph.input, *model.graph.output)]


@pytest.mark.parametrize("kind", ["fp16", "bf16"])
@pytest.mark.parametrize("make", [all_half, lambda tiny, kind: naive_model(tiny.model, tiny.blocks, kind)])
def test_every_family_is_strongly_typed(every: TinyModel, make: Any, kind: str) -> None:
    typed = make(every, kind)
    check_strongly_typed(typed)
    onnx.checker.check_model(typed, full_check=True)
    assert signature(typed) == signature(every.model)
    assert HALF[kind] in {tensor.data_type for tensor in typed.graph.initializer}
    assert typed.opset_import[0].version == (BF16_OPSET if kind == "bf16" else 20)


def test_no_tensor_is_cast_twice(every: TinyModel) -> None:
    typed = all_half(every, "fp16")
    casts = [(n.input[0], n.attribute[0].i) for n in typed.graph.node if n.op_type == "Cast"]
    assert len(set(casts)) == len(casts)
    made = {name for node in typed.graph.node for name in node.output if node.op_type == "Cast"}
    added = {n.output[0] for n in typed.graph.node if n.op_type == "Cast" and n.name.endswith("/Cast")}
    read = {n.input[0] for n in typed.graph.node if n.name.endswith("/Cast")}
    assert not read & made & added, "a cast of a cast"
    names = [node.name for node in typed.graph.node]
    assert len(set(names)) == len(names)


def test_all_fp32_is_the_model_itself(every: TinyModel) -> None:
    same = typed_model(every.model, every.blocks, {})
    assert [n.SerializeToString() for n in same.graph.node] == [n.SerializeToString() for n in every.model.graph.node]


def test_the_source_is_not_changed(owl: TinyModel) -> None:
    before = owl.model.SerializeToString(deterministic=True)
    all_half(owl, "fp16")
    assert owl.model.SerializeToString(deterministic=True) == before


def test_scores_stay_close(owl: TinyModel) -> None:
    delta = np.abs(scores(all_half(owl, "fp16"), owl.feeds) - scores(owl.model, owl.feeds))
    assert 0 < delta.max() < 0.01


def test_matrix_products_are_half_and_islands_are_not(every: TinyModel) -> None:
    kinds = node_types(Dataflow(every.model), every.blocks, dict.fromkeys(every.blocks.free, "fp16"))
    by_operator: dict[str, set[str]] = {}
    for place, node in enumerate(every.model.graph.node):
        if every.blocks.of_node[place] in every.blocks.free:
            by_operator.setdefault(node.op_type, set()).add(kinds[place])
    assert by_operator["MatMul"] == by_operator["Conv"] == {"fp16"}
    for operator in ("LayerNormalization", "Softmax", "GridSample", "TopK", "Log", "Sin", "ReduceMax", "ReduceL2"):
        assert by_operator.get(operator, {"fp32"}) == {"fp32"}, operator


def test_only_chosen_blocks_change(owl: TinyModel) -> None:
    kinds = node_types(Dataflow(owl.model), owl.blocks, {"backbone.layer1": "fp16"})
    assert {block for block, kind in zip(owl.blocks.of_node, kinds, strict=True) if kind == "fp16"} == {
        "backbone.layer1"
    }


def small(nodes: list[Any], constants: dict[str, Any], opset: int = 20) -> Any:
    """A graph from ``x [2]`` to ``y [2]``."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("x", "y")]
    arrays = [numpy_helper.from_array(np.array(value, dtype=np.float32), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], arrays)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def node(operator: str, inputs: str, output: str, **attributes: Any) -> Any:
    return helper.make_node(operator, inputs.split(), [output], name=f"core/{operator}_{output}", **attributes)


@pytest.mark.parametrize(
    ("constant", "kept"),
    [
        ([65519.0, 1.0], False),
        ([65520.0, 1.0], True),
        ([-1e9, 1.0], True),
        ([np.inf, -np.inf], False),
        ([1e-8, 0.0], True),
        ([1e-7, 0.0], False),
        ([1e-9, 1.0], False),
        ([0.0, 0.0], False),
    ],
)
def test_constants_that_fp16_cannot_hold_keep_their_node_fp32(constant: list[float], kept: bool) -> None:
    model = small([node("Relu", "x", "a"), node("Add", "a c", "b"), node("Relu", "b", "y")], {"c": constant})
    blocks = blocks_of_model(model, {"core": "all"})
    kinds = node_types(Dataflow(model), blocks, {"all": "fp16"})
    assert kinds == ("fp16", "fp32" if kept else "fp16", "fp16")


def test_without_islands_constants_are_clamped() -> None:
    model = small([node("Min", "x c", "y")], {"c": [1e9, np.inf]})
    naive = naive_model(model, blocks_of_model(model, {"core": "all"}))
    assert numpy_helper.to_array(naive.graph.initializer[0]).tolist() == [65504.0, float("inf")]


def test_the_sigmoid_of_silu_is_half_and_that_of_a_score_is_not() -> None:
    silu = [node("Relu", "x", "a"), node("Sigmoid", "a", "s"), node("Mul", "a s", "m")]
    score = [node("MatMul", "m w", "b"), node("Mul", "b two", "z"), node("Sigmoid", "z", "y")]
    model = small([*silu, *score], {"w": np.eye(2), "two": [2.0]})
    kinds = node_types(Dataflow(model), blocks_of_model(model, {"core": "all"}), {"all": "fp16"})
    assert kinds == ("fp16", "fp16", "fp16", "fp16", "fp32", "fp32")


@pytest.mark.parametrize(
    ("nodes", "fault"),
    [
        ([node("Cast", "x", "h", to=TensorProto.FLOAT16), node("Cast", "h", "y", to=TensorProto.FLOAT)], ""),
        ([node("Cast", "x", "h", to=TensorProto.FLOAT16), node("Add", "x h", "y")], "Add"),
        ([node("Cast", "x", "h", to=TensorProto.FLOAT), node("Relu", "h", "y")], "casts to the type it has"),
        ([node("Cast", "x", "h", to=TensorProto.FLOAT16), node("Relu", "h", "y")], "FLOAT16|float16|\\(10\\)"),
    ],
)
def test_the_checker_finds_conflicts(nodes: list[Any], fault: str) -> None:
    model = small(nodes, {})
    if not fault:
        assert type_conflicts(model) == []
        return
    with pytest.raises(MedpromptError, match=fault):
        check_strongly_typed(model)


def test_an_unknown_type_is_refused(owl: TinyModel) -> None:
    with pytest.raises(MedpromptError, match="fp8"):
        typed_model(owl.model, owl.blocks, {"box head": "fp8"})
