"""What is one kernel, and what a choice of types costs: fp32 islands, by what they keep apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest

from medprompt.export.compile.builder import engine_from_onnx
from medprompt.export.compile.options import CompileOptions
from medprompt.export.precision.blocks import Blocks, blocks_of_model
from medprompt.export.precision.cast import node_types, typed_model
from medprompt.export.precision.cost import CostModel
from medprompt.export.precision.dataflow import Dataflow
from medprompt.export.precision.fusion import attentions_of
from tests.export.precision.conftest import TinyModel
from tests.export.precision.graphs import attention, graph
from tests.export.precision.test_cast import node


def typed(model: Any, kind: str = "fp16") -> tuple[Dataflow, Blocks, tuple[str, ...]]:
    flow, blocks = Dataflow(model), blocks_of_model(model, {"core": "all"})
    return flow, blocks, node_types(flow, blocks, {"all": kind})


def with_fp32(flow: Dataflow, kinds: tuple[str, ...], output: str) -> list[str]:
    """One node more in fp32: the one that makes a tensor."""
    return [("fp32" if output in node.output else kind) for node, kind in zip(flow.nodes, kinds, strict=True)]


@pytest.mark.parametrize(
    ("less_maximum", "kind", "exact", "fused"),
    [
        (False, "fp16", "", True),
        (False, "fp16", "a", True),  # the bias added in fp32
        (False, "fp16", "scores", False),
        (False, "fp16", "o", False),
        (False, "fp32", "", False),
        (True, "fp16", "", False),
    ],
)
def test_an_attention_is_fused_where_its_products_are_half(
    less_maximum: bool, kind: str, exact: str, fused: bool
) -> None:
    flow, _, kinds = typed(attention(less_maximum=less_maximum), kind)
    (one,) = attentions_of(flow)
    assert flow.nodes[one.first].output == ["scores"]
    assert flow.nodes[one.last].output == ["o"]
    assert kinds[one.softmax] == "fp32", "which is no obstacle"
    assert one.is_fused(with_fp32(flow, kinds, exact)) == fused


def test_a_softmax_that_is_no_attentions_is_none() -> None:
    model = graph([node("MatMul", "x w", "a"), node("Softmax", "a", "y")], {"w": [[1.0]]}, {"x": (1, 1)}, "y")
    assert attentions_of(Dataflow(model)) == ()


@pytest.mark.parametrize("factor", [None, 1.702])
def test_the_sigmoid_of_a_gelu_is_half_as_silus_is(factor: float | None) -> None:
    scaled = [] if factor is None else [node("Mul", "a c", "b")]
    gate = [node("Sigmoid", "b" if scaled else "a", "s"), node("Mul", "a s", "m"), node("MatMul", "m w", "y")]
    model = graph([node("MatMul", "x w", "a"), *scaled, *gate], {"w": [[1.0]], "c": factor or 0}, {"x": (1, 1)}, "y")
    assert set(typed(model)[2]) == {"fp16"}


def test_an_island_in_an_attention_has_its_price() -> None:
    model = attention(tokens=1024, heads=8)
    flow, blocks, kinds = typed(model)
    cost = CostModel(model, flow)
    assert cost.islands(kinds, blocks) == (), "a fused attention computes its softmax in fp32"
    split = with_fp32(flow, kinds, "scores")
    island = cost.islands(split, blocks)[0]
    assert (island.block, island.operators, island.splits) == ("all", ("MatMul",), "attention")
    assert island.ms == pytest.approx(cost.ms(split) - cost.ms(kinds))
    scores = 8 * 1024 * 1024 * 2 / 448e9 * 1000
    assert 4 * scores < island.ms < 8 * scores, "written, read, written and read again, in part in fp32"


def test_an_island_after_a_product_is_named() -> None:
    nodes = [node("MatMul", "x w", "a"), node("Elu", "a", "b"), node("MatMul", "b w", "y")]
    model = graph(nodes, {"w": [[0.0] * 256] * 256}, {"x": (4096, 256)}, "y")
    flow, blocks, kinds = typed(model)
    (island,) = CostModel(model, flow).islands(kinds, blocks)
    assert (island.operators, island.splits) == (("Elu",), "products")
    assert island.nodes == ("core/Elu_b", "core/Elu_b")


def test_products_in_fp32_cost_less_with_tf32() -> None:
    model = graph([node("MatMul", "x w", "y")], {"w": [[0.0] * 2048] * 2048}, {"x": (2048, 2048)}, "y")
    flow = Dataflow(model)
    exact, rounded = (CostModel(model, flow, tf32=tf32).ms(["fp32"]) for tf32 in (False, True))
    assert exact == pytest.approx(2 * 2048**3 / 19.2e12 * 1000)
    assert rounded == pytest.approx(2 * 2048**3 / 38.3e12 * 1000)


def test_every_familys_half_model_costs_less(every: TinyModel) -> None:
    flow = Dataflow(every.model)
    cost = CostModel(every.model, flow)
    half = dict.fromkeys(every.blocks.free, "fp16")
    # Of a model this small the casts weigh as much as what half products save.
    most = 1.02 * cost.ms(["fp32"] * len(flow.nodes))
    assert 0 < cost.ms(node_types(flow, every.blocks, half)) < most


def test_the_builder_agrees_on_what_it_fuses(tmp_path: Path) -> None:
    """What ``fusion`` says, asked of TensorRT-RTX: the memory of a fused attention holds no matrix of scores."""
    pytest.importorskip("tensorrt_rtx")
    scores = 4 * 1024 * 1024 * 2
    for less_maximum in (False, True):
        model = attention(1024, 4, less_maximum=less_maximum)
        onnx.save(typed_model(model, blocks_of_model(model, {"core": "all"}), {"all": "fp16"}), tmp_path / "m.onnx")
        built = engine_from_onnx(tmp_path / "m.onnx", [], {}, CompileOptions("trt-rtx", gpu=("sm86",)))
        assert (built.activation_bytes[0] < scores) != less_maximum
