"""Measuring again: how runs are compared, and real ones on the fake engine."""

from __future__ import annotations

import pytest

from medprompt.benchmarks.latency.timing import Ratio
from medprompt.benchmarks.research.repeats import Agreement, agreement, latency_again, ratios_of, regress_again
from medprompt.core.errors import MedpromptError
from tests.benchmarks.fakes import LEVELS, fake_bundle, write_set


def ratio(median: float) -> Ratio:
    return Ratio(median, median - 0.1, median + 0.1, median - 0.3, median + 0.3)


@pytest.mark.parametrize(
    ("medians", "expected"),
    [
        ((1.0, 1.0, 1.0), Agreement(2, 2, 2)),
        ((1.0, 1.25, 1.0), Agreement(2, 0, 2)),  # apart, but no further than was said
        ((1.0, 1.5), Agreement(1, 0, 0)),
        ((1.0,), Agreement(0, 0, 0)),
        ((), Agreement(0, 0, 0)),
    ],
)
def test_each_run_is_compared_with_the_next(medians, expected):
    assert agreement([ratio(median) for median in medians]) == expected


@pytest.fixture
def data(tmp_path):
    return write_set(tmp_path / "data", LEVELS)


def test_runs_of_the_command_itself(tmp_path, data):
    said = latency_again(fake_bundle(tmp_path / "bundle"), data.parent, "fake", 2)
    assert [one.median for one in ratios_of(said, "fake")] == [1.0, 1.0]  # the only contender is what ratios are over
    assert agreement(ratios_of(said, "fake", "cpu_ratio")).pairs == 1


def test_outcomes_of_an_unchanged_bundle_are_counted(tmp_path, data):
    outcomes = regress_again(fake_bundle(tmp_path / "bundle"), [str(data)], "fake", 2)
    assert sum(outcomes.values()) == 2
    assert set(outcomes) <= {"passed", "failed", "no verdict"}


def test_an_error_is_no_outcome(tmp_path, data):
    with pytest.raises(MedpromptError, match="no such device"):
        regress_again(fake_bundle(tmp_path / "bundle"), [str(data)], "warp", 1)
