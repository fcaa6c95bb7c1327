"""What a detector makes of an image, in a few numbers: its own view of whether an image is like those it knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from medprompt.core.boxes import area
from medprompt.core.detections import Detections

MOST_CLASSES = 12
"""Up to so many classes each has a count of its own; of more, each would be rare."""

NEAR = 0.5, 1.5
"""Scores near the threshold, as multiples of it: findings that could as well have gone the other way."""

FIGURES: Mapping[str, str] = {
    "best score": "0 … 1",
    "all scores": "sum",
    "detections": "count",
    "near the threshold": "count",
    "score of detections": "0 … 1",
    "side of boxes": "px",
}


def detector_columns(labels: Sequence[str]) -> Mapping[str, str]:
    """Names and units of ``detector_statistics``, in order."""
    return {**FIGURES, **{f"detections of {label}": "count" for label in counted_labels(labels)}}


def counted_labels(labels: Sequence[str]) -> Sequence[str]:
    """Classes with a count of their own."""
    return labels if 1 < len(labels) <= MOST_CLASSES else ()


def detector_statistics(found: Detections, threshold: float) -> NDArray[np.float64]:
    """Describe all K detections of an image, from score 0: float64 ``[F]`` in the order of ``detector_columns``.

    A detection is one at or over ``threshold``, the same for all classes; where there is none its score and side are 0.
    """
    reported = found[found.scores >= threshold]
    near = (found.scores >= NEAR[0] * threshold) & (found.scores < NEAR[1] * threshold)
    counts = np.bincount(reported.class_ids, minlength=len(found.labels))
    return np.array(
        [
            found.scores.max(initial=0.0),
            found.scores.sum(dtype=np.float64),
            len(reported),
            near.sum(),
            reported.scores.mean() if len(reported) else 0.0,
            np.median(np.sqrt(area(reported.boxes_xyxy))) if len(reported) else 0.0,
            *counts[: len(counted_labels(found.labels))],
        ],
        dtype=np.float64,
    )
