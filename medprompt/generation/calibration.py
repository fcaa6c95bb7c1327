"""Where phrases and classes decide best on labelled boxes, and marks that keep a calibration from judging itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medprompt.core.boxes import iou_matrix
from medprompt.core.files import sha256_of_file
from medprompt.data import DetectionSet
from medprompt.metrics.matching import greedy_answers
from medprompt.prompts.schema import Calibration, Prompts

SKETCH = 64
"""Image hashes that a calibration keeps. Two sets that share a third of 200 images go unnoticed with a chance below
1e-9, and 64 hashes are a few lines of YAML."""

NEAR_BEST = 0.9
"""Share of its class's best F1 from which a phrase counts as good. A phrase that the model reads as something else has
tiny scores and a tiny threshold: were that the scale, it would speak as loudly as the good ones. Measured with the pack
cpm17 on nuclei: "small purple, round spot in tissue" has F1 0.28 at 0.011, its neighbours 0.54 at 0.44; AP fell by
half."""

DIGITS = 4
"""Decimals of weights and thresholds in a prompts file."""


@dataclass(frozen=True)
class OperatingPoint:
    """The threshold at which a score decides best.

    Attributes:
        threshold: Halfway between the last score that is let in and the next; 0 where nothing is ever found.
        f1: Harmonic mean of precision and recall, 0 … 1.
        precision, recall: Share of what is let in that finds a box; share of the boxes that are found.
        boxes: Labelled boxes.
    """

    threshold: float
    f1: float
    precision: float
    recall: float
    boxes: int


def best_f1(scores: NDArray[Any], hits: NDArray[np.bool_], boxes: int) -> OperatingPoint:
    """Find the threshold of best F1; of equals, the highest.

    Args:
        scores: ``[N]``, 0 … 1, in any order.
        hits: ``[N]``: whether each finds a box of its own.
        boxes: Labelled boxes, 1 or more.

    >>> best_f1(np.array([0.9, 0.8, 0.4, 0.2]), np.array([True, False, True, False]), 2)
    OperatingPoint(threshold=0.3, f1=0.8, precision=0.6666666666666666, recall=1.0, boxes=2)
    """
    order = np.argsort(-scores, kind="stable")
    ranked, found = scores[order].astype(np.float64), np.cumsum(hits[order])
    if not len(ranked) or not found[-1] or not ranked[0]:
        return OperatingPoint(0.0, 0.0, 0.0, 0.0, boxes)
    following = np.append(ranked[1:], 0.0)
    shown = np.arange(1, len(ranked) + 1)
    f1 = np.where(ranked > following, 2 * found / (shown + boxes), -1.0)  # a threshold cannot cut between equals
    best = int(f1.argmax())
    threshold, hit = round(float(ranked[best] + following[best]) / 2, 12), int(found[best])
    return OperatingPoint(threshold, float(f1[best]), hit / int(shown[best]), hit / boxes, boxes)


def hits_of_image(found_xyxy: NDArray[Any], scores: NDArray[Any], boxes_xyxy: NDArray[Any]) -> NDArray[np.bool_]:
    """Match one class's detections in one image (``[N, 4]`` pixels, scores ``[N]``) to its boxes ``[M, 4]``.

    Returns:
        Bool ``[N]``, in the given order; see ``medprompt.metrics.matching``.
    """
    order = np.argsort(-scores, kind="stable")
    overlaps = np.asarray(iou_matrix(found_xyxy.astype(np.float64), boxes_xyxy.astype(np.float64)), dtype=np.float64)
    hits = np.zeros(len(found_xyxy), dtype=np.bool_)
    hits[order] = greedy_answers(overlaps[order])[0, 0] >= 0
    return hits


def scale_weights(points: Sequence[OperatingPoint]) -> tuple[float, ...]:
    """Weights that bring the good phrases of a class to one scale: the least threshold of theirs over each one's own.

    A good phrase's score at its threshold, times its weight, is then the same number for all of them. Others are
    brought down to it, but never up: their threshold takes no part in the scale. ``points`` are one a phrase, each with
    an F1 over 0; weights are over 0, up to 1, with ``DIGITS`` decimals.

    >>> good, better, poor = (OperatingPoint(t, f1, f1, f1, 9) for t, f1 in ((0.2, 0.5), (0.4, 0.52), (0.01, 0.2)))
    >>> scale_weights([good, better, poor])
    (1.0, 0.5, 1.0)
    """
    best = max((point.f1 for point in points), default=0.0)
    scale = min((point.threshold for point in points if point.f1 >= NEAR_BEST * best), default=0.0)
    return tuple(min(1.0, max(round(scale / point.threshold, DIGITS), 10.0**-DIGITS)) for point in points)


def image_marks(labelled: DetectionSet) -> tuple[str, ...]:
    """The first 8 hex digits of each image file's SHA-256, sorted, each once."""
    return tuple(sorted({sha256_of_file(image.path)[:8] for image in labelled.images}))


def sketch_of_marks(marks: Iterable[str]) -> str:
    """The least marks: a fair sample of the images, and the same one for the same images."""
    return " ".join(sorted(marks)[:SKETCH])


def records_that_saw(
    prompts: Prompts, labels: Iterable[str], marks: Iterable[str], *, weights_only: bool = True
) -> tuple[Calibration, ...]:
    """Calibrations of classes ``labels`` that were made on some images of these ``marks``, see ``image_marks``.

    ``weights_only`` leaves out those that set thresholds alone, which do not change AP.
    """
    wanted, seen = set(labels), set(marks)
    return tuple(
        record
        for record in prompts.calibration or ()
        if wanted & set(record.labels) and seen & set(record.sketch.split()) and (record.weights or not weights_only)
    )


def calibrated_labels(prompts: Prompts) -> frozenset[str]:
    """Labels of the classes whose phrase weights were calibrated."""
    records = (record for record in prompts.calibration or () if record.weights)
    return frozenset(label for record in records for label in record.labels)


def without_weights(prompts: Prompts) -> Prompts:
    """The prompts as they were before calibration: weights of calibrated classes are 1."""
    known = calibrated_labels(prompts)
    plain = {e.label: e.with_phrases(p.model_copy(update={"weight": 1.0}) for p in e.phrases) for e in prompts.classes}
    return prompts.with_classes(plain[e.label] if e.label in known else e for e in prompts.classes)
