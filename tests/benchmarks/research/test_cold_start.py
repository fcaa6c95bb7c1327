"""``medprompt infer`` against transformers' pipeline, whole processes."""

from __future__ import annotations

import pytest

from medprompt.benchmarks.research.cold_start import OWN, RIVAL, ColdStartReport, Process, measure_cold_start
from medprompt.core.errors import BundleError
from tests.benchmarks.conftest import TinyDemo


def test_shares_are_ours_over_theirs() -> None:
    theirs, ours = Process(8.0, 6.0, 400.0), Process(1.0, 0.5, 100.0)
    report = ColdStartReport({RIVAL: (theirs,) * 3, OWN: (ours,) * 3}, threads=1)
    assert report.share("wall_s").median == 1 / 8
    assert report.share("peak_mib").median == 1 / 4
    assert report.rows()[-1][1].startswith("0.12")
    assert report.as_json()["share"]["cpu_s"]["high"] == pytest.approx(1 / 12)


def test_not_a_bundle_is_refused_before_anything_starts(tiny_demo: TinyDemo) -> None:
    with pytest.raises(BundleError):
        measure_cold_start(tiny_demo.samples, tiny_demo.checkpoint, tiny_demo.samples / "none.png", threads=1)


@pytest.mark.slow
def test_a_bundle_starts_in_an_eighth_of_the_time_and_a_third_of_the_memory(tiny_demo: TinyDemo) -> None:
    image = tiny_demo.samples / "smear" / "smear1.png"
    report = measure_cold_start(
        tiny_demo.report.out / "bundle", tiny_demo.checkpoint, image, rounds=3, threads=1, device="ort-cpu"
    )
    assert report.share("cpu_s").median <= 1 / 8
    assert report.share("peak_mib").median <= 1 / 3
