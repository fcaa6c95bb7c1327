"""The two-sample test: false alarms at its level, shifts seen in place, in spread and in what goes with what."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from medprompt.site.two_sample import compare_samples

Floats = NDArray[np.float64]
COLUMNS = 6


def rows(count: int, seed: int) -> Floats:
    """Columns as figures are: one follows another, one is whole numbers with ties, one never changes."""
    values = np.random.default_rng(seed).normal(size=(count, COLUMNS))
    values[:, 1] = values[:, 0] + 0.2 * values[:, 1]
    values[:, 2] = np.exp(2 * values[:, 2])
    values[:, 3] = values[:, 3].round()
    values[:, 4] = 640
    return values


def test_false_alarms_keep_the_level() -> None:
    found = [
        compare_samples(rows(40, 2 * seed), rows(12, 2 * seed + 1), 0.05, permutations=99, seed=seed).p
        for seed in range(200)
    ]
    alarms = int((np.array(found) <= 0.05).sum())
    assert 3 <= alarms <= 18  # 10 are expected; outside of this once in 200


def shifted(count: int, seed: int) -> Floats:
    moved = rows(count, seed)
    moved[:, 0:2] += 2
    return moved


def wider(count: int, seed: int) -> Floats:
    moved = rows(count, seed)
    moved[:, 5] *= 4
    return moved


def parted(count: int, seed: int) -> Floats:
    """The second column no longer is the first one and a little noise: 0.5 more, half of its spread."""
    moved = rows(count, seed)
    moved[:, 1] += 0.5
    return moved


def test_place() -> None:
    found = compare_samples(rows(60, 0), shifted(30, 1), 0.01)
    assert found.p == pytest.approx(1 / 2000)
    assert [index for index in range(COLUMNS) if found.place[index] <= 0.01] == [0, 1]
    assert (found.spread > 0.01).all()


def test_spread() -> None:
    found = compare_samples(rows(60, 0), wider(40, 1), 0.01)
    assert found.p <= 0.01
    assert [index for index in range(COLUMNS) if found.spread[index] <= 0.01] == [5]


def test_what_no_longer_goes_together() -> None:
    found = compare_samples(rows(60, 0), parted(30, 1), 0.01)
    assert min(found.place.min(), found.spread.min()) > 0.05
    assert (found.p <= 0.01, found.joint <= 0.01) == (True, True)
    assert set(np.argsort(-np.abs(found.residuals))[:2]) == {0, 1}


def test_equal_rows_and_rows_of_one_value() -> None:
    same, still = rows(20, 0), np.full((15, 3), 7.0)
    assert compare_samples(same, same, 0.01).p == 1
    assert compare_samples(still, still, 0.01).p == 1
    assert compare_samples(still, still + 1, 0.01).p == pytest.approx(1 / 2000)


def test_an_answer_repeats_and_more_rows_see_more() -> None:
    few, many = (compare_samples(rows(count, 0), rows(count, 1), 0.01) for count in (12, 100))
    assert few.p == compare_samples(rows(12, 0), rows(12, 1), 0.01).p
    assert few.detectable > 1.5 > many.detectable


@pytest.mark.parametrize(
    ("first", "second"), [(np.zeros((0, 2)), np.ones((3, 2))), (np.ones((3, 1)), np.full((3, 1), np.nan))]
)
def test_what_cannot_be_compared(first: Floats, second: Floats) -> None:
    with pytest.raises(ValueError, match="finite rows"):
        compare_samples(first, second, 0.01)
