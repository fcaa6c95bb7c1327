"""95 % intervals by drawing images with repetition, and paired intervals of the difference between two detectors.

Images are drawn, not boxes: boxes of one image resemble each other. Intervals are percentiles of the draws (Efron and
Tibshirani, An Introduction to the Bootstrap, 1993). A paired difference takes the same draws for both sides, so that
what makes an image hard cancels out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medprompt.core.detections import Detections
from medprompt.data import DetectionSet
from medprompt.metrics.curves import (
    FALSE_POSITIVES,
    Weights,
    average_precisions,
    every_image_once,
    froc,
    mean_measured,
    number,
)
from medprompt.metrics.matching import IOUS, Floats, Matcher, Matches

RESAMPLES = 1000
"""Draws: the percentiles then move by about a twentieth of the interval from seed to seed."""


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval.

    Attributes:
        value: Of the set as it is; NaN where there is nothing to measure.
        low, high: 2.5th and 97.5th percentile over the draws in which it could be measured.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if np.isnan(self.value):
            return "-"
        return f"{self.value:.3f} ({self.low:.3f} … {self.high:.3f})"

    def as_json(self) -> dict[str, float | None]:
        """As JSON values; None for what is not a number."""
        return {"value": number(self.value), "low": number(self.low), "high": number(self.high)}


@dataclass(frozen=True)
class Resampled:
    """Figures of a set as it is and of each draw.

    Attributes:
        names: The figures, see ``figure_names``.
        values: float64 ``[F]``.
        draws: float64 ``[R, F]``.
    """

    names: tuple[str, ...]
    values: Floats
    draws: Floats

    def estimates(self) -> dict[str, Estimate]:
        """Each figure with its interval."""
        return _estimates(self.names, self.values, self.draws)

    def beside(self, other: Resampled) -> Resampled:
        """These figures and others of the same draws."""
        values, draws = np.concatenate([self.values, other.values]), np.concatenate([self.draws, other.draws], axis=1)
        return Resampled((*self.names, *other.names), values, draws)

    def less(self, other: Resampled) -> dict[str, Estimate]:
        """Each figure less that of another detector over the same draws.

        Raises:
            ValueError: Other figures or another number of draws.
        """
        if self.names != other.names or self.draws.shape != other.draws.shape:
            raise ValueError("expected the same figures over the same draws")
        return _estimates(self.names, self.values - other.values, self.draws - other.draws)


class MatchedSet:
    """A set's detections, matched at each of COCO's overlaps.

    Args:
        labelled: The images and their boxes.
        found: One ``Detections`` an image, in the same order.
        ious: Overlaps that AP is the mean over; the first is 0.5.

    Raises:
        ValueError: Another number of images, or another first overlap.
    """

    def __init__(self, labelled: DetectionSet, found: Sequence[Detections], ious: Sequence[float] = IOUS) -> None:
        if ious[0] != IOUS[0]:
            raise ValueError(f"expected {IOUS[0]} first, got {ious[0]}")
        self.matches = Matcher(labelled, found).match(ious)

    @property
    def at_half(self) -> Matches:
        """Matched at IoU 0.5."""
        return self.matches[0]

    def resample(self, draws: NDArray[np.int64]) -> Resampled:
        """Measure the set as it is, and each draw of it: int64 ``[R, images]``, see ``draw_images``."""
        values = self._figures(every_image_once(self.at_half.image_count))
        rows = [self._figures(weights) for weights in draws]
        return Resampled(figure_names(self.at_half.labels), values, np.array(rows).reshape(len(draws), len(values)))

    def _figures(self, weights: Weights) -> Floats:
        precisions = average_precisions(self.matches, weights)
        by_class, curve = precisions[0], froc(self.at_half.ranked, weights)
        sensitivities = [float(froc(ranked, weights).mean) for ranked in self.at_half.by_class]
        overall = [mean_measured(precisions), mean_measured(by_class), curve.mean, *curve.sensitivities]
        return np.array([*overall, *by_class, *sensitivities])


def figure_names(labels: Sequence[str]) -> tuple[str, ...]:
    """What ``MatchedSet`` measures.

    ``ap``, ``ap50``, ``sensitivity`` (mean over the FROC rates), ``sensitivity@RATE``, and ``ap50/LABEL`` and
    ``sensitivity/LABEL`` for each class.
    """
    rates = (f"sensitivity@{rate:g}" for rate in FALSE_POSITIVES)
    by_class = (f"{name}/{label}" for name in ("ap50", "sensitivity") for label in labels)
    return ("ap", "ap50", "sensitivity", *rates, *by_class)


def draw_images(images: int, resamples: int = RESAMPLES, seed: int = 0) -> NDArray[np.int64]:
    """How often each image is in each draw: int64 ``[resamples, images]``, every row sums to ``images``."""
    if not images:
        return np.zeros((resamples, 0), dtype=np.int64)
    random = np.random.default_rng(seed)
    # Counts, not indices: a figure of a draw is then a weighted sum, without another matching.
    return random.multinomial(images, np.full(images, 1 / images), size=resamples).astype(np.int64)


def _estimates(names: Sequence[str], values: Floats, draws: Floats) -> dict[str, Estimate]:
    return {name: _estimate(float(values[index]), draws[:, index]) for index, name in enumerate(names)}


def _estimate(value: float, draws: Floats) -> Estimate:
    measured = draws[np.isfinite(draws)]
    low, high = np.percentile(measured, [2.5, 97.5]) if len(measured) else (np.nan, np.nan)
    return Estimate(value, float(low), float(high))
