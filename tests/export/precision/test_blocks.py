"""Nodes in blocks, and the work of each."""

from __future__ import annotations

from typing import Any

import pytest
from onnx import TensorProto, helper

from medprompt.core.errors import MedpromptError
from medprompt.export.precision.blocks import FIXED, UNNAMED, blocks_of_model
from medprompt.export.precision.flops import flops_of_nodes
from tests.export.precision.conftest import TinyModel

SIZES = {"B": 1, "P": 4, "C": 3, "T": 12, "L": 4}
RULES = {"core.a": "first", "core.a.deep": "second", "core.layers.{i}": "layer{i}", "core.{any}.tail": "tail"}


def chain(*scopes: str) -> Any:
    """Relu after Relu, each named after a module."""
    nodes = [helper.make_node("Relu", [f"t{n}"], [f"t{n + 1}"], name=f"{s}/Relu_{n}") for n, s in enumerate(scopes)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("t0", f"t{len(scopes)}")]
    return helper.make_model(helper.make_graph(nodes, "chain", ends[:1], ends[1:]))


@pytest.mark.parametrize(
    ("scopes", "wanted"),
    [
        (["core.a", "core.a.deep", "core.a.deeper"], ["first", "second", "first"]),
        (["core.layers.3.fc", "core.layers.11"], ["layer3", "layer11"]),
        (["core.x.tail"], ["tail"]),
        (["core.layers.x"], [UNNAMED]),
        (["core", "core.a", "core", "view_7"], ["first", "first", "first", "first"]),
        (["normalise", "graph", "core.a.deep", "select"], ["preprocess", "preprocess", "second", "postprocess"]),
        (["resize_front", "core.a"], ["preprocess", "first"]),
        (["other", "another"], [UNNAMED, UNNAMED]),
    ],
)
def test_a_node_belongs_to_its_module_or_to_what_feeds_it(scopes: list[str], wanted: list[str]) -> None:
    assert list(blocks_of_model(chain(*scopes), RULES).of_node) == wanted


def test_blocks_come_in_the_order_of_the_datas_way() -> None:
    names = ["select", "core.layers.10", "core.layers.9", "core.a", "normalise"]
    blocks = blocks_of_model(chain(*names), RULES)
    assert blocks.names == ("preprocess", "first", "layer9", "layer10", "postprocess")
    assert blocks.free == ("first", "layer9", "layer10")


def test_the_work_of_every_family_is_in_named_blocks(every: TinyModel) -> None:
    flops = flops_of_nodes(every.model, SIZES)
    named = sum(work for place, work in flops.items() if every.blocks.of_node[place] not in FIXED)
    assert named >= 0.99 * sum(flops.values()) > 0
    assert len(every.blocks.of_node) == len(every.model.graph.node)
    assert len(every.blocks.free) >= 6


def test_flops_of_owl_by_hand(owl: TinyModel) -> None:
    """64 × 64 pixels, patches of 8 × 8, width 32, two layers with an MLP of 64, 4 phrases."""
    patches, tokens, width = 64, 65, 32
    layer = 4 * tokens * width * width + 2 * tokens * tokens * width + 2 * tokens * width * 2 * width
    heads = {
        "backbone.embed": patches * 3 * 8 * 8 * width,
        "backbone.layer0": layer,
        "backbone.layer1": layer,
        "class head": patches * (width * width + 2 * width + width * 4),
        "box head": patches * (2 * width * width + width * 4),
    }
    found: dict[str, int] = {}
    for place, work in flops_of_nodes(owl.model, SIZES).items():
        found[owl.blocks.of_node[place]] = found.get(owl.blocks.of_node[place], 0) + work
    assert found == {name: 2 * products for name, products in heads.items()}


def test_flops_follow_the_axes(owl: TinyModel) -> None:
    one, two = (sum(flops_of_nodes(owl.model, {**SIZES, "B": b}).values()) for b in (1, 2))
    assert two == 2 * one


def test_an_unknown_shape_is_an_error() -> None:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("a", "b", "c")]
    node = helper.make_node("MatMul", ["a", "b"], ["c"], name="core/MatMul_0")
    model = helper.make_model(helper.make_graph([node], "g", ends[:2], ends[2:]))
    with pytest.raises(MedpromptError, match="core/MatMul_0"):
        flops_of_nodes(model, {})
