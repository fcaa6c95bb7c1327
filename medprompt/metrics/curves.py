"""FROC and precision over recall, of a set as it is or of images drawn from it with repetition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medprompt.metrics.matching import Floats, Ints, Matches, Ranked

FALSE_POSITIVES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""False positives an image at which sensitivity is read: those of the LUNA16 and ANODE09 challenges."""

RECALLS = np.linspace(0.0, 1.0, 101)
"""COCO's recall levels."""

Weights = NDArray[np.int64]
"""int64 ``[images]``: how often each image is counted."""


@dataclass(frozen=True)
class Froc:
    """Sensitivity at given rates of false positives.

    A rate's sensitivity is the largest that a threshold reaches without more false positives an image than that: no
    interpolation, since between two thresholds there is nothing to set. Past the last detection it stays as it is.

    Attributes:
        rates: float64 ``[N]``: false positives an image.
        sensitivities: float64 ``[N]``: share of labelled boxes found; NaN where none is labelled.
        thresholds: float64 ``[N]``: the score to report from; NaN where the first detection is too many.
        reached: False positives an image with all detections counted: the curve ends there.
    """

    rates: Floats
    sensitivities: Floats
    thresholds: Floats
    reached: float

    @property
    def mean(self) -> float:
        """Mean sensitivity over the rates: the FROC score of those challenges."""
        return float(self.sensitivities.mean())

    def as_json(self) -> dict[str, Any]:
        """As JSON values; None for what is not a number."""
        rows = zip(self.rates, self.sensitivities, self.thresholds, strict=True)
        return {
            "points": [
                {"false_positives_an_image": float(r), "sensitivity": number(s), "threshold": number(t)}
                for r, s, t in rows
            ],
            "mean_sensitivity": number(self.mean),
            "false_positives_an_image_in_all": self.reached,
        }


def number(value: float) -> float | None:
    """A float for JSON, which has no NaN: None."""
    return float(value) if np.isfinite(value) else None


def froc(ranked: Ranked, weights: Weights, rates: tuple[float, ...] = FALSE_POSITIVES) -> Froc:
    """Read a FROC curve.

    Args:
        ranked: Detections and labelled boxes.
        weights: How often each image counts; ones for the set as it is.
        rates: False positives an image, rising.
    """
    targets, images = np.array(rates), int(weights.sum())
    ends = threshold_ends(ranked.scores)
    counts = weights[ranked.images]
    false_rate = np.cumsum(counts * ~ranked.hits)[ends] / max(images, 1)
    sensitivity = np.cumsum(counts * ranked.hits)[ends] / positives(ranked, weights)
    # The rate before the first detection is 0, with nothing found.
    # A rate that is exactly k / images must count as reached in spite of rounding.
    index = np.searchsorted(false_rate, targets + 1e-12, side="right")
    scores = ranked.scores[ends]
    return Froc(
        targets,
        np.concatenate([[0.0 * positives(ranked, weights)], sensitivity])[index],
        np.concatenate([[np.nan], scores])[index],
        float(false_rate[-1]) if len(false_rate) else 0.0,
    )


def threshold_ends(scores: Floats) -> Ints:
    """The last of each run of equal scores: a threshold keeps all of them or none."""
    return np.flatnonzero(np.append(scores[1:] != scores[:-1], True)[: len(scores)])


def positives(ranked: Ranked, weights: Weights) -> float:
    """Labelled boxes; NaN for none, so that shares of them are NaN too."""
    return float(weights[ranked.box_images].sum()) or float("nan")


def precision_by_recall(ranked: Ranked, weights: Weights) -> Floats:
    """COCO's interpolated precision ``[101]`` at ``RECALLS``; NaN where nothing is labelled."""
    counts, labelled = weights[ranked.images], positives(ranked, weights)
    if np.isnan(labelled):
        return np.full(len(RECALLS), np.nan)
    true = np.cumsum(counts * ranked.hits)
    # COCO's own guard against 0 / 0: images that were not drawn weigh 0.
    precision = true / (np.cumsum(counts) + np.spacing(1))
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    index = np.searchsorted(true / labelled, RECALLS, side="left")
    # Recalls that no threshold reaches have precision 0, as in COCO.
    return np.append(envelope, 0.0)[index]


def average_precision(ranked: Ranked, weights: Weights) -> float:
    """COCO's average precision at the overlap of the matching; NaN where nothing is labelled."""
    return float(precision_by_recall(ranked, weights).mean())


def average_precisions(matched: Sequence[Matches], weights: Weights) -> Floats:
    """``average_precision`` of each matching and class: float64 ``[matchings, classes]``."""
    return np.array([[average_precision(ranked, weights) for ranked in matches.by_class] for matches in matched])


def mean_measured(values: Floats) -> float:
    """Mean over what was measured, as COCO takes it; NaN where nothing was."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else float("nan")


def precision_recall_points(ranked: Ranked, limit: int = 200) -> dict[str, list[float]]:
    """The curve itself for plots, at no more than ``limit`` thresholds: ``recall``, ``precision``, ``threshold``.

    Precision is measured, not interpolated.
    """
    ends = threshold_ends(ranked.scores)
    if len(ends) > limit:
        ends = ends[np.unique(np.linspace(0, len(ends) - 1, limit).round().astype(np.int64))]
    true: Floats = np.cumsum(ranked.hits)[ends].astype(np.float64)
    labelled = len(ranked.box_images)
    return {
        "recall": (true / labelled).tolist() if labelled else [],
        "precision": (true / (ends + 1)).tolist() if labelled else [],
        "threshold": ranked.scores[ends].tolist() if labelled else [],
    }


def every_image_once(images: int) -> Weights:
    """The weights of the set as it is."""
    return np.ones(images, dtype=np.int64)
