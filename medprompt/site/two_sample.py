"""Are two sets of rows draws from one distribution? A permutation test over many statistics at one level.

Values become normal scores of their ranks. Each column is compared in place (van der Waerden, 1952) and in spread
(Klotz, 1962), the largest difference counting; and all columns jointly by the Mahalanobis distance of the means
(Hotelling), which sees where figures no longer go together as they did. Both are held against random splits of the same
rows (max-T and min-P: Westfall and Young, Resampling-Based Multiple Testing, 1993). So all of it together raises a
false alarm at its level, however columns depend on each other, whatever their distribution is, and for few rows as
well. Rows are taken for independent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

PERMUTATIONS = 1999
SEED = 20
RIDGE = 0.02
"""Added to the variances of the columns' common directions, of 1 on average: those of rounding alone say nothing."""

NINE_OF_TEN = NormalDist().inv_cdf(0.9)
ROUNDING = 1e-9


@dataclass(frozen=True)
class TwoSampleTest:
    """What came of the comparison.

    Attributes:
        p: Chance of a difference as large as here, where both sets are draws from one distribution.
        place: float64 ``[F]``: chance that any column's place differs as much as this one's.
        spread: float64 ``[F]``: the same of its spread.
        joint: The same of the columns taken together.
        residuals: float64 ``[F]``: how far each column's mean is from what the other columns let expect, in standard
            errors of independent rows.
        detectable: Shift of one normal column, in standard deviations, that is seen nine times of ten.
    """

    p: float
    place: Floats
    spread: Floats
    joint: float
    residuals: Floats
    detectable: float


def compare_samples(
    first: Floats, second: Floats, level: float, permutations: int = PERMUTATIONS, seed: int = SEED
) -> TwoSampleTest:
    """Compare rows ``[N, F]`` with rows ``[M, F]``; ``seed`` of the random splits, so that an answer repeats.

    Raises:
        ValueError: A set without rows, other columns, or a value that is not finite.
    """
    rows = np.concatenate([first, second])
    if not (len(first) and len(second) and np.isfinite(rows).all()):
        raise ValueError("expected finite rows on both sides")
    scores = _normal_scores(rows)
    places, spreads = _standard(scores), _standard(scores**2)
    precision = _precision(places)
    splits = _splits(len(first), len(second), permutations, seed) / math.sqrt(len(first) * len(second) / len(rows))
    sums, widths = splits @ places, np.abs(splits @ spreads)
    single = np.concatenate([np.abs(sums), widths], axis=1)
    largest, distances = single.max(axis=1), np.einsum("rf,fg,rg->r", sums, precision, sums, optimize=True)
    chances = np.stack([_chance(largest, largest), _chance(distances, distances)])
    smallest = chances.min(axis=0)
    place, spread = np.split(_chance(largest, single[0]), 2)
    critical = float(np.quantile(largest, 1 - level / 2))
    return TwoSampleTest(
        p=float((smallest <= smallest[0] + ROUNDING).mean()),
        place=place,
        spread=spread,
        joint=float(chances[1, 0]),
        residuals=precision @ sums[0] / np.sqrt(np.diag(precision)),
        detectable=(critical + NINE_OF_TEN) * math.sqrt(1 / len(first) + 1 / len(second)),
    )


def _normal_scores(rows: Floats) -> Floats:
    """Normal quantiles of each column's ranks; equal values share the mean of their ranks."""
    quantiles = np.array([NormalDist().inv_cdf((rank + 1) / (2 * len(rows) + 2)) for rank in range(2 * len(rows) + 1)])
    scores = np.empty_like(rows)
    for column in range(rows.shape[1]):
        _, place, counts = np.unique(rows[:, column], return_inverse=True, return_counts=True)
        twice_the_rank = 2 * np.cumsum(counts) - counts  # 1 … 2N - 1: whole for shared ranks too
        scores[:, column] = quantiles[twice_the_rank][place]
    return scores


def _standard(scores: Floats) -> Floats:
    """Mean 0 and variance 1 of each column; 0 where all values are equal."""
    centred = scores - scores.mean(axis=0)
    deviation = centred.std(axis=0)
    standard: Floats = centred / np.where(deviation > ROUNDING, deviation, np.inf)
    return standard


def _precision(places: Floats) -> Floats:
    """Inverse of the columns' correlations, with the ridge."""
    correlations = places.T @ places / len(places)
    return np.asarray(np.linalg.inv(correlations + RIDGE * np.eye(len(correlations))), dtype=np.float64)


def _splits(first: int, second: int, count: int, seed: int) -> Floats:
    """The real split, then random ones of the same sizes: float64 ``[1 + count, N + M]``, 1 for rows of the second."""
    real = np.concatenate([np.zeros(first), np.ones(second)])
    drawn = np.random.default_rng(seed).permuted(np.tile(real, (count, 1)), axis=1)
    return np.concatenate([real[None], drawn])


def _chance(largest: Floats, found: Floats) -> Floats:
    """Share of splits, the real one among them, with a statistic as large as each of those found."""
    smaller = np.searchsorted(np.sort(largest), found - ROUNDING)
    chance: Floats = 1 - smaller / len(largest)
    return chance
