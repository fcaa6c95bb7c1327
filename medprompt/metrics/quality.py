"""What a reader of the boxes meets: are the scores probabilities, do the boxes sit, are small lesions found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medprompt.core.boxes import area
from medprompt.metrics.curves import number
from medprompt.metrics.matching import Flags, Floats, Matches, Ranked

SMALL_PX2, LARGE_PX2 = 32.0**2, 96.0**2
"""COCO's borders between small, medium and large boxes, in square source pixels."""

SIZES = {"small": (0.0, SMALL_PX2), "medium": (SMALL_PX2, LARGE_PX2), "large": (LARGE_PX2, np.inf)}

BINS = 10
"""Bins of equal width over scores 0 … 1."""

MIN_SCORE = 0.05
"""Detections under it are left out of calibration: hundreds of background boxes an image, all near 0 and rightly so,
would hide how the scores that people see behave."""


@dataclass(frozen=True)
class Calibration:
    """Scores against the share of true positives.

    Attributes:
        counts: int64 ``[BINS]``: detections in each bin.
        scores: float64 ``[BINS]``: their mean score; NaN for an empty bin.
        precisions: float64 ``[BINS]``: share of true positives among them; NaN for an empty bin.
    """

    counts: Any
    scores: Floats
    precisions: Floats

    @property
    def ece(self) -> float:
        """Expected calibration error: mean over detections of their bin's |score - precision|; NaN without any.

        Guo et al., On Calibration of Modern Neural Networks, 2017; for detections Kueppers et al., Multivariate
        Confidence Calibration for Object Detection, 2020.
        """
        total = self.counts.sum()
        gaps = np.abs(np.nan_to_num(self.scores - self.precisions))
        return float((self.counts * gaps).sum() / total) if total else float("nan")

    def as_json(self) -> dict[str, Any]:
        """ECE and the bins of the reliability diagram."""
        edges = np.linspace(0, 1, BINS + 1).tolist()
        rows = zip(edges[:-1], edges[1:], self.counts, self.scores, self.precisions, strict=True)
        return {
            "ece": number(self.ece),
            "least_score": MIN_SCORE,
            "bins": [
                {"from": round(a, 6), "to": round(b, 6), "count": int(n), "score": number(s), "precision": number(p)}
                for a, b, n, s, p in rows
            ],
        }


def calibration(ranked: Ranked) -> Calibration:
    """Sort detections of at least ``MIN_SCORE`` into bins; a score on a border belongs to the bin above it."""
    kept = ranked.scores >= MIN_SCORE
    scores, hits = ranked.scores[kept], ranked.hits[kept]
    bins = np.minimum((scores * BINS + 1e-9).astype(np.int64), BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    filled = np.where(counts > 0, counts, np.nan)
    score = np.bincount(bins, scores, BINS) / filled
    precision = np.bincount(bins, hits.astype(np.float64), BINS) / filled
    return Calibration(counts, score, precision)


@dataclass(frozen=True)
class BoxShift:
    """How far true positives lie from their labels, in source pixels.

    Attributes:
        centres: float64 ``[N]``: distance of the centres.
        sides: float64 ``[N]``: the largest distance among the four sides.
    """

    centres: Floats
    sides: Floats

    def as_json(self) -> dict[str, Any]:
        """Median and 95th percentile of each; None without true positives."""
        cuts = {"median": 50, "p95": 95}
        named = {"centre_px": self.centres, "side_px": self.sides}
        return {"true_positives": len(self.centres)} | {
            name: {cut: float(np.percentile(values, at)) if len(values) else None for cut, at in cuts.items()}
            for name, values in named.items()
        }


def box_shift(matches: Matches, rows: Flags) -> BoxShift:
    """Compare the true positives among ``rows`` (bool ``[D]``) with their labels."""
    chosen = rows & matches.hits
    deltas = matches.boxes_xyxy[chosen] - matches.truth_xyxy[matches.answers[chosen]]
    centres = np.hypot(*((deltas[:, :2] + deltas[:, 2:]) / 2).T)
    return BoxShift(centres, np.abs(deltas).max(axis=1, initial=0.0))


def recall_by_size(matches: Matches, rows: Flags) -> dict[str, dict[str, Any]]:
    """Share of small, medium and large labelled boxes that ``rows`` (bool ``[D]``) find.

    Returns:
        By size: ``labelled``, ``found`` and ``recall`` (None where none is labelled). A size includes its lower border.
    """
    found, sizes = matches.found(rows), area(matches.truth_xyxy)
    table = {}
    for name, (low, high) in SIZES.items():
        own = (sizes >= low) & (sizes < high)
        labelled, hit = int(own.sum()), int((own & found).sum())
        table[name] = {"labelled": labelled, "found": hit, "recall": hit / labelled if labelled else None}
    return table


@dataclass(frozen=True)
class OperatingPoint:
    """What is reported at the thresholds that a bundle serves with; ``missed`` are labelled boxes, unanswered."""

    true_positives: int
    false_positives: int
    missed: int
    images: int

    def as_json(self) -> dict[str, Any]:
        """Counts, sensitivity, precision and false positives an image."""
        labelled, reported = self.true_positives + self.missed, self.true_positives + self.false_positives
        return vars(self) | {
            "sensitivity": self.true_positives / labelled if labelled else None,
            "precision": self.true_positives / reported if reported else None,
            "false_positives_an_image": self.false_positives / self.images if self.images else None,
        }


def operating_point(matches: Matches, thresholds: Sequence[float]) -> OperatingPoint:
    """Count at one threshold a class, in the order of ``matches.labels``."""
    rows = matches.reported(thresholds)
    true = int((rows & matches.hits).sum())
    return OperatingPoint(true, int(rows.sum()) - true, len(matches.box_images) - true, matches.image_count)


def operating_points(matches: Matches, thresholds: Sequence[float]) -> dict[str, OperatingPoint]:
    """The same of each class by itself, by label."""
    points, rows = {}, matches.reported(thresholds)
    for index, label in enumerate(matches.labels):
        own = rows & (matches.classes == index)
        true, boxes = int((own & matches.hits).sum()), int((matches.box_classes == index).sum())
        points[label] = OperatingPoint(true, int(own.sum()) - true, boxes - true, matches.image_count)
    return points
