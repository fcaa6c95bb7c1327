"""Whole processes: what is measured is the process asked for, and nothing of its starter."""

from __future__ import annotations

import numpy as np
import pytest

from medprompt.benchmarks.latency.processes import measured_process
from medprompt.core.errors import MedpromptError

BALLAST = "held = bytearray(200 << 20)\nheld[::4096] = bytes([1]) * len(held[::4096])"


def test_memory_of_the_process_itself() -> None:
    ballast = np.ones(300 << 17)  # 300 MiB here must not count there
    (small, _), (large, _) = measured_process(["pass"], 1), measured_process([BALLAST], 1)
    assert ballast.nbytes == 300 << 20
    assert small.peak_mib < 60
    assert 190 < large.peak_mib - small.peak_mib < 260
    assert 0 < small.cpu_s and small.wall_s > 0


def test_wall_time_includes_waiting_and_cpu_time_does_not() -> None:
    run, _ = measured_process(["import time; time.sleep(0.5)"], 1)
    assert run.wall_s >= 0.5
    assert run.cpu_s < 0.5


def test_a_failing_program_is_an_error_with_its_text() -> None:
    with pytest.raises(MedpromptError, match="burst") as caught:
        measured_process(["raise SystemExit('burst')"], 1)
    assert caught.value.exit_code == 1


def test_what_it_prints_is_handed_over() -> None:
    assert measured_process(["import sys; print('a\\nb', sys.argv[1:])", "c"], 1)[1] == "a\nb ['c']"
    assert measured_process(["pass"], 1)[1] == ""
