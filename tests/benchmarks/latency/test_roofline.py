"""The limit: the work counted by hand once, and the arithmetic of a limit."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from medprompt.benchmarks.demo import PROMPTS
from medprompt.benchmarks.latency.roofline import Roofline, gflop_of_bundle, machine_rates, roofline_of_bundle
from medprompt.bundles.load import load_bundle
from medprompt.core.manifest import Postprocess
from medprompt.export.checkpoint import family_from_checkpoint
from medprompt.export.embed import bank_from_prompts
from medprompt.export.families.base import Family
from medprompt.export.finetune.small_models.nanos import nano
from medprompt.export.graph.detection_graph import DetectionGraph, input_specs, output_specs
from medprompt.export.graph.onnx_export import onnx_from_graph
from medprompt.prompts.file import prompts_from_yaml
from tests.benchmarks.conftest import TinyDemo


def work_by_hand(side: int, patch: int, width: int, inner: int, layers: int, text: int, phrases: int) -> float:
    """GFLOP of an OWL-ViT on one image, product by product."""
    patches = (side // patch) ** 2
    tokens = patches + 1
    embed = patches * 3 * patch**2 * width
    projections = 4 * tokens * width * width  # query, key, value, output
    attention = 2 * tokens * tokens * width  # scores, and their sum over values
    perceptron = 2 * tokens * width * inner
    box_head = patches * (2 * width * width + 4 * width)
    class_head = patches * (width * text + text * phrases + 2 * width)
    products = embed + layers * (projections + attention + perceptron) + box_head + class_head
    return 2 * products / 1e9


def test_a_models_work_counted_by_hand(tmp_path: Path) -> None:
    """The nano OWL-ViT: 256² in patches of 16, width 192, 576 within, 6 layers, 128 for text; four phrases."""
    family: Family = family_from_checkpoint(nano("owlvit", tmp_path / "nano"))
    specs = input_specs(family)
    graph = DetectionGraph(family.core(), specs, family.preprocess(), Postprocess(top_k=100)).eval()
    path = tmp_path / "model.onnx"
    onnx_from_graph(graph, specs, output_specs(100), path, 20)
    bank = bank_from_prompts(family, prompts_from_yaml(PROMPTS))
    found = gflop_of_bundle(Fake(path, bank))  # type: ignore[arg-type]
    assert found == pytest.approx(work_by_hand(256, 16, 192, 576, 6, 128, 4), rel=0.02)


class Fake:
    """As much of a bundle as the count needs."""

    def __init__(self, model: Path, bank: object) -> None:
        self.model, self.bank = model, bank


@pytest.mark.parametrize(
    ("gflop", "mb", "ms", "bound"), [(10.0, 50.0, 100.0, "products"), (0.1, 500.0, 50.0, "memory")]
)
def test_the_greater_limit_counts(gflop: float, mb: float, ms: float, bound: str) -> None:
    floor = Roofline(gflop, mb, gflops=100.0, gbytes=10.0, threads=2)
    assert floor.ms == pytest.approx(ms)
    table = floor.table({"bundle": 2 * ms})
    assert table.rows[0][2] == "2.00" and bound in table.caption
    assert floor.as_json()["ms"] == floor.ms


def test_rates_and_a_bundles_own_limit(tiny_demo: TinyDemo) -> None:
    gflops, gbytes = machine_rates(1)
    assert 0.1 < gflops < 10_000 and 0.1 < gbytes < 10_000
    floor = roofline_of_bundle(load_bundle(tiny_demo.report.out / "bundle"), 1)
    assert floor is not None and 0 < floor.ms < 10 and math.isfinite(floor.ms)
