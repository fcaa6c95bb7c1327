"""A bundle timed against PyTorch: the report says who, on what, and how often."""

from __future__ import annotations

import json

import numpy as np
import pytest

from medprompt.benchmarks.latency.measure import AUTOCAST, PYTORCH, LatencyOptions, bench_bundle
from medprompt.core.errors import EngineError
from tests.benchmarks.conftest import TinyDemo


def test_bundle_against_pytorch(tiny_demo: TinyDemo, picture: np.ndarray) -> None:
    report = bench_bundle(
        tiny_demo.report.out / "bundle",
        tiny_demo.checkpoint,
        [picture, picture[:20]],
        LatencyOptions(["ort-cpu"], rounds=3, autocast=True),
    )
    assert list(report.series) == [PYTORCH, AUTOCAST, "bundle on ort-cpu"]
    assert {len(series.wall_ms) for series in report.series.values()} == {3}
    assert all((series.wall_ms > 0).all() and (series.load_ms or 0) > 0 for series in report.series.values())
    content = json.loads(json.dumps(report.as_json()))
    assert (content["threads"], content["images"], content["rounds"]) == (1, 2, 3)
    assert content["baseline"] == PYTORCH
    assert content["rivals"][PYTORCH]["ratio"]["median"] == 1.0


def test_unknown_device_and_no_image(tiny_demo: TinyDemo, picture: np.ndarray) -> None:
    bundle = tiny_demo.report.out / "bundle"
    with pytest.raises(EngineError, match="no such device"):
        bench_bundle(bundle, tiny_demo.checkpoint, [picture], LatencyOptions(["warp"], rounds=1))
    with pytest.raises(ValueError, match="at least one image"):
        bench_bundle(bundle, tiny_demo.checkpoint, [], LatencyOptions())
