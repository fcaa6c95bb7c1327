"""Whole processes: what is measured is the process asked for, and nothing of its starter."""

from __future__ import annotations

import numpy as np
import pytest

from medprompt.benchmarks.cold_start import (
    OWN,
    RIVAL,
    ColdStartReport,
    Process,
    measure_cold_start,
    run_process,
)
from medprompt.errors import BundleError, MedpromptError
from tests.benchmarks.conftest import TinyDemo

BALLAST = "held = bytearray(200 << 20)\nheld[::4096] = bytes([1]) * len(held[::4096])"


def test_memory_of_the_process_itself() -> None:
    ballast = np.ones(300 << 17)  # 300 MiB here must not count there
    small, large = run_process(["pass"], 1), run_process([BALLAST], 1)
    assert ballast.nbytes == 300 << 20
    assert small.peak_mib < 60
    assert 190 < large.peak_mib - small.peak_mib < 260
    assert 0 < small.cpu_s and small.wall_s > 0


def test_wall_time_includes_waiting_and_cpu_time_does_not() -> None:
    run = run_process(["import time; time.sleep(0.5)"], 1)
    assert run.wall_s >= 0.5
    assert run.cpu_s < 0.5


def test_a_failing_program_is_an_error_with_its_text() -> None:
    with pytest.raises(MedpromptError, match="burst") as caught:
        run_process(["raise SystemExit('burst')"], 1)
    assert caught.value.exit_code == 1


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
