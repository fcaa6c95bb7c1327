"""The load on the server: how its figures are made."""

from __future__ import annotations

import random

import pytest

from medprompt.benchmarks.research.serve_load import median_and_interval


@pytest.mark.parametrize(
    ("count", "ranks"),
    [
        (1, (1, 1)),
        (5, (1, 5)),
        (6, (1, 6)),
        (10, (2, 9)),
        (80, (31, 50)),
        (100, (40, 61)),
    ],  # of the sign test
)
def test_the_interval_of_a_median_is_of_order_statistics(count: int, ranks: tuple[int, int]) -> None:
    values = [float(value) for value in range(1, count + 1)]
    random.Random(0).shuffle(values)
    least, middle, most = median_and_interval(values)
    assert ((least, most), middle) == (ranks, (count + 1) / 2)
