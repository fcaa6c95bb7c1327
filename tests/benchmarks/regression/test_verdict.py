"""Verdicts: within, beyond, or too noisy, with how much more it would take."""

from __future__ import annotations

import json

import numpy as np
import pytest

from medprompt.benchmarks.regression.verdict import Check, Outcome, exact, latency_check

NAN = float("nan")


@pytest.mark.parametrize(
    ("change", "low", "high", "outcome", "more"),
    [
        (0.0, 0.0, 0.0, Outcome.passed, None),
        (0.005, 0.0, 0.01, Outcome.passed, None),  # on the limit is within it
        (0.03, 0.011, 0.05, Outcome.failed, None),
        (-0.02, -0.05, -0.01, Outcome.passed, None),  # better
        (
            0.006,
            -0.002,
            0.014,
            Outcome.unclear,
            300,
        ),  # half an interval of 0.008 at a distance of 0.004: 4 x the images
        (0.014, 0.004, 0.02, Outcome.unclear, 525),  # 0.010 at 0.004: 6.25 x
        (0.01, 0.0, 0.02, Outcome.unclear, None),  # no count would do
        (NAN, NAN, NAN, Outcome.unclear, None),
    ],
)
def test_outcomes(change: float, low: float, high: float, outcome: Outcome, more: int | None) -> None:
    check = Check("AP50 loss", change, low, high, 0.01, 100, "images")
    assert (check.outcome, check.more) == (outcome, more)
    assert bool(check.advice) == (outcome is Outcome.unclear)
    assert json.loads(json.dumps(check.as_json(), allow_nan=False))["more"] == more


def test_what_has_no_noise_always_has_a_verdict() -> None:
    assert exact("size", 1.1, 1.1, 1, "bundles").outcome is Outcome.passed
    assert exact("size", 1.11, 1.1, 1, "bundles").outcome is Outcome.failed
    assert exact("decisions", NAN, 0.1, 0, "decisions").outcome is Outcome.unclear


def rounds(random: np.random.Generator, slower: float = 1.0, count: int = 30, noise: float = 0.05) -> np.ndarray:
    return slower * 0.5 * np.exp(random.normal(0, noise, count))


def outcomes(slower: float, seed: int, runs: int, **changes: float) -> list[Outcome]:
    random = np.random.default_rng(seed)
    return [
        latency_check(rounds(random, slower, **changes), list(rounds(random, **changes)), 1.10).outcome  # type: ignore[arg-type]
        for _ in range(runs)
    ]


def test_unchanged_reruns_raise_no_false_alarm_and_a_fifth_slower_is_caught() -> None:
    """Rounds that scatter by 5 %, 30 of them: of 100 unchanged none fails, of 100 slower by a fifth none passes."""
    same, slower = outcomes(1.0, 1, 100), outcomes(1.2, 2, 100)
    assert same.count(Outcome.failed) == 0
    assert same.count(Outcome.passed) >= 98
    assert slower.count(Outcome.passed) == 0
    assert slower.count(Outcome.failed) >= 98


def test_noise_gives_no_verdict_rather_than_a_wrong_one() -> None:
    noisy = outcomes(1.2, 3, 50, count=8, noise=0.4)
    assert noisy.count(Outcome.unclear) > 25
    assert noisy.count(Outcome.passed) <= 2


def test_against_the_old_bundle_itself_no_earlier_rounds_count() -> None:
    check = latency_check(np.array([1.2, 1.2, 1.2, 1.2]), None, 1.1)
    assert (check.change, check.low, check.high, check.outcome) == (1.2, 1.2, 1.2, Outcome.failed)
