"""Long runs: a leak shows as a slope, and what fills up at the start does not."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from medprompt.benchmarks.latency.stages import peak_mib, resident_mib
from medprompt.benchmarks.research.endurance import READ_EVERY, endure
from medprompt.core.errors import InputError

PATHS = [Path("a"), Path("b"), Path("c")]


@pytest.mark.parametrize(
    ("memory", "slope"),
    [
        (lambda call: 100.0, 0.0),
        (lambda call: 100.0 + 0.002 * call, 2.0),
        (lambda call: min(100.0 + call, 180.0), 0.0),  # pools that fill within the first tenth
    ],
)
def test_slope(memory, slope):
    counted = itertools.count(READ_EVERY, READ_EVERY)
    asked = []
    report = endure(asked.append, PATHS, 1000, resident=lambda: memory(next(counted)))
    assert report.slope == pytest.approx(slope, abs=1e-6)
    assert asked == [PATHS[n % 3] for n in range(1000)]
    assert len(report.wall_ms) == 1000 and len(report.rows()) == 4 and len(report.as_json()["resident_mib"]) == 20


def test_few_calls_are_refused():
    with pytest.raises(InputError, match="1000 or more"):
        endure(print, PATHS, 999)


def test_memory_now_is_no_more_than_the_most_there_was():
    assert 10 < resident_mib() <= peak_mib()
