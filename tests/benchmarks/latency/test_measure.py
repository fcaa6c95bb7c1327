"""A bundle timed against PyTorch: the report says who, on what, and how often."""

from __future__ import annotations

import json

import numpy as np
import pytest

from medprompt.benchmarks.latency.measure import AUTOCAST, PYTORCH, bench_bundle, many_phrases
from medprompt.core.errors import EngineError
from tests.benchmarks.conftest import TinyDemo


def test_bundle_against_pytorch(tiny_demo: TinyDemo, picture: np.ndarray) -> None:
    report = bench_bundle(
        tiny_demo.report.out / "bundle",
        tiny_demo.checkpoint,
        [picture, picture[:20]],
        threads=1,
        rounds=3,
        devices=["ort-cpu"],
        autocast=True,
    )
    assert list(report.series) == [PYTORCH, AUTOCAST, "bundle on ort-cpu"]
    assert {len(series.wall_ms) for series in report.series.values()} == {3}
    assert all((series.wall_ms > 0).all() and (series.load_ms or 0) > 0 for series in report.series.values())
    content = json.loads(json.dumps(report.as_json()))
    assert (content["threads"], content["images"], content["rounds"]) == (1, 2, 3)
    assert content["baseline"] == PYTORCH
    assert content["rivals"][PYTORCH]["ratio"]["median"] == 1.0


@pytest.mark.parametrize("count", [1, 7, 100])
def test_phrases_are_distinct(count: int) -> None:
    assert len(set(many_phrases(count).texts)) == count


@pytest.mark.parametrize("count", [0, 101])
def test_no_more_phrases_than_there_are(count: int) -> None:
    with pytest.raises(ValueError, match="expected 1 … 100"):
        many_phrases(count)


def test_unknown_device_and_no_image(tiny_demo: TinyDemo, picture: np.ndarray) -> None:
    bundle = tiny_demo.report.out / "bundle"
    with pytest.raises(EngineError, match="no such device"):
        bench_bundle(bundle, tiny_demo.checkpoint, [picture], threads=1, rounds=1, devices=["warp"])
    with pytest.raises(ValueError, match="at least one image"):
        bench_bundle(bundle, tiny_demo.checkpoint, [], threads=1, rounds=1)
