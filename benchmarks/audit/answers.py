"""What a bundle answers for one class at a time, in its own words and in others.

Each class is asked alone: beside others it may lose boxes to them, whatever its own words are. What it loses there is a
question of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medprompt.core.boxes import iou_matrix
from medprompt.core.detections import Detections
from medprompt.data import DetectionSet
from medprompt.metrics.curves import Weights, average_precision
from medprompt.metrics.matching import IOU, Flags, Floats, Ints, Ranked, match_detections
from medprompt.prompts.wording import Question


@dataclass(frozen=True)
class Answer:
    """What was found for a class in every image.

    Attributes:
        ranked: Detections matched to the class's labelled boxes at IoU 0.5, down to the last that is right: what comes
            after it changes no AP.
        scores: float64 ``[images]``: over the class's labelled boxes, the sum of the best score at each (IoU 0.5).
        boxes: int64 ``[images]``: the class's labelled boxes.
        without: bool ``[images]``: nothing of the class is there, nor a region that labels say nothing about.
        reported: int64 ``[images]``: detections at or over the class's threshold.
    """

    ranked: Ranked
    scores: Floats
    boxes: Ints
    without: Flags
    reported: Ints

    def ap50(self, weights: Weights) -> float:
        """AP at IoU 0.5 of images weighted by int64 ``[images]``; NaN without labelled boxes."""
        return average_precision(self.ranked, weights)

    def score(self, weights: Weights) -> float:
        """Mean over labelled boxes of the best score there, 0 where nothing is; NaN without labelled boxes."""
        count = float(weights @ self.boxes)
        return float(weights @ self.scores) / count if count else float("nan")

    def false_reports(self, weights: Weights) -> float:
        """Detections reported an image without the class; NaN where every image has it."""
        without = weights * self.without
        return float(without @ self.reported) / float(without.sum()) if without.sum() else float("nan")


@dataclass(frozen=True)
class ClassAnswers:
    """A class, its own answer, and the answer to each question asked in its place."""

    label: str
    own: Answer
    other: Mapping[Question, Answer]


def answer_of(labelled: DetectionSet, found: Sequence[Detections], threshold: float) -> Answer:
    """Measure detections of one class against a set that holds this class alone."""
    ranked = match_detections(labelled, found).ranked
    end = int(np.flatnonzero(ranked.hits).max(initial=-1)) + 1
    kept = Ranked(ranked.images[:end], ranked.scores[:end], ranked.hits[:end], ranked.box_images)
    pairs = list(zip(labelled.images, found, strict=True))
    return Answer(
        kept,
        np.array([best_scores(image.boxes_xyxy, one).sum() for image, one in pairs], dtype=np.float64),
        np.array([len(image.boxes_xyxy) for image, _ in pairs], dtype=np.int64),
        np.array([not len(image.class_ids) and not len(image.ignored_ids) for image, _ in pairs], dtype=np.bool_),
        np.array([int((one.scores >= threshold).sum()) for _, one in pairs], dtype=np.int64),
    )


def of_class(found: Detections, label: str) -> Detections:
    """The detections of one class."""
    own: Flags = found.class_ids == found.labels.index(label)
    return found[own]


def best_scores(boxes_xyxy: NDArray[np.float32], found: Detections) -> Floats:
    """The best score of a detection at each labelled box, float64 ``[N]``; 0 where none overlaps it by IoU 0.5."""
    near = iou_matrix(found.boxes_xyxy, boxes_xyxy) >= IOU
    best: Floats = np.where(near, found.scores[:, None], 0.0).max(axis=0, initial=0.0).astype(np.float64)
    return best
