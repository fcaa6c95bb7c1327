"""Asking with phrases of one's own, timed on one engine against the whole bank."""

from __future__ import annotations

import numpy as np
import pytest

from medprompt.benchmarks.research.prompt_latency import bench_own_phrases, own_phrases, phrases_in_classes
from tests.benchmarks.conftest import TinyDemo


def test_three_ways_on_one_engine(tiny_demo: TinyDemo, picture: np.ndarray) -> None:
    bundle = tiny_demo.report.out / "bundle"
    report = bench_own_phrases(
        bundle, tiny_demo.checkpoint, picture, threads=1, rounds=2, count=6, device="ort-cpu", warmup=1
    )
    assert list(report.series) == ["whole bank", "own phrases", "top:1"]
    assert all((series.wall_ms > 0).all() for series in report.series.values())
    assert (report.context["phrases"], report.context["device"], report.rounds) == (6, "ort-cpu", 2)


@pytest.mark.parametrize(("count", "sizes", "sets"), [(3, [1, 1, 1], 1), (10, [4, 3, 3], 3), (30, [10, 10, 10], 10)])
def test_phrases_are_dealt_out(count: int, sizes: list[int], sets: int) -> None:
    prompts = phrases_in_classes(count)
    assert [len(entry.phrases) for entry in prompts.classes] == sizes
    assert len(set(prompts.texts)) == count
    own = own_phrases(prompts)
    assert len(own) == len(set(own)) == sets
    assert {len(texts) for texts in own} == {3}


@pytest.mark.parametrize("count", [0, 2, 101])
def test_too_few_or_too_many(count: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        phrases_in_classes(count)
