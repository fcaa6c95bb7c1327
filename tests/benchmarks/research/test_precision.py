"""The table of precisions, on the tiny demo."""

from __future__ import annotations

import json

import pytest

from medprompt.benchmarks.demo import sample_sets
from medprompt.benchmarks.research.precision import COLUMNS, _as_json, _images_of, compare_precisions
from tests.benchmarks.conftest import TinyDemo


def test_measures_every_precision_on_every_set(tiny_demo: TinyDemo) -> None:
    sets = sample_sets(tiny_demo.samples)
    found = compare_precisions(tiny_demo.report.out / "bundle", tiny_demo.checkpoint, sets, sets)
    names = ["fp32", "naive fp16", "fp16", "auto", "auto, as served", "bf16", "int8", "fp8"]
    assert [entry.variant.name for entry in found] == names * 2
    exact = found[0]
    assert (exact.delta_ap, exact.parity.kept, exact.variant.share) == (0.0, 1.0, 0.0)
    by_name = {entry.variant.name: entry for entry in found[:7]}
    assert by_name["naive fp16"].variant.share == by_name["fp16"].variant.share == pytest.approx(1.0)
    assert by_name["auto"].variant.plan is not None
    assert by_name["auto"].parity.kept >= by_name["naive fp16"].parity.kept - 0.05
    assert by_name["bf16"].parity.mean_score_delta > by_name["fp16"].parity.mean_score_delta > 0
    for entry in found:
        assert len(entry.row()) == len(COLUMNS)
        assert json.loads(json.dumps(_as_json(entry)))["data"] == entry.data


def test_types_are_chosen_on_images_of_every_set(tiny_demo: TinyDemo) -> None:
    sets = sample_sets(tiny_demo.samples)
    images = _images_of(sets)
    assert len(images) == 3
    assert "3 images of" in images.source
