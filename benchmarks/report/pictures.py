"""The report's pictures: each image with both sides' boxes, those on which most decisions differ first."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medprompt.benchmarks.accuracy.evaluation import SetResult
from medprompt.bundles.load import Bundle
from medprompt.core.detections import Detections
from medprompt.core.manifest import Tolerance
from medprompt.core.overlay import draw_overlay
from medprompt.data import DetectionSet
from medprompt.images.read import load_image
from medprompt.metrics.agreement import check_decisions
from medprompt.runtime.verify import tolerance_of_device

MAX_SIDE = 900
"""Pixels of a picture in the page."""
MAX_PICTURES, MAX_DISAGREEMENTS = 6, 10


@dataclass(frozen=True)
class Pair:
    """One image with both sides' boxes.

    Attributes:
        before: PyTorch's boxes, or the labels where PyTorch was not run (data URI).
        after: The bundle's (data URI).
        sentence: How far they agree.
        lost: Decisions that differ.
    """

    name: str
    before: str
    after: str
    caption: str
    lost: int


def pairs_of_set(entry: SetResult, bundle: Bundle, device: str) -> Iterator[Pair]:
    """The images of a set on which most decisions differ, then others from its start.

    Without PyTorch's predictions the labels stand in their place. ``device`` served: its tolerance counts.
    """
    predictions = entry.predictions
    names = [image.path.name for image in predictions.labelled.images]
    if predictions.reference:
        limits, threshold = tolerance_of_device(bundle, device), bundle.manifest.default_threshold
        sides = zip(predictions.reference, predictions.bundle, names, strict=True)
        differences = [_disagreement(before, after, threshold, limits, name) for before, after, name in sides]
    else:
        differences = [(0, "labels, and what the bundle found")] * len(names)
    order = sorted(range(len(names)), key=lambda index: -differences[index][0])
    worst = [index for index in order if differences[index][0]][:MAX_DISAGREEMENTS]
    others = [index for index in order if not differences[index][0]][:MAX_PICTURES]
    thresholds = dict(zip(map(str.casefold, predictions.labelled.labels), entry.bundle.thresholds, strict=True))
    for index in [*worst, *others]:
        pixels = load_image(predictions.labelled.images[index].path)
        after = _reported(predictions.bundle[index], thresholds)
        before = (
            _reported(predictions.reference[index], thresholds)
            if predictions.reference
            else _labels_as_detections(predictions.labelled, index)
        )
        lost, caption = differences[index]
        yield Pair(names[index], _picture(pixels, before), _picture(pixels, after), caption, lost)


def _disagreement(
    before: Detections, after: Detections, threshold: float, tolerance: Tolerance, name: str
) -> tuple[int, str]:
    """How many decisions differ on an image, and a sentence about it."""
    record = check_decisions([(before, after)], threshold, tolerance, name)
    lost = round((1 - record.kept) * record.decisions)
    caption = f"{record.decisions} decisions, {lost} lost, {record.extra} more, max Δscore {record.max_score_delta:.4f}"
    return lost + record.extra, caption


def _reported(found: Detections, thresholds: dict[str, float]) -> Detections:
    """What the bundle would report of an answer that holds every score."""
    thresholds_of_class = np.array([thresholds.get(label.casefold(), 2.0) for label in found.labels])
    return found[found.scores >= thresholds_of_class[found.class_ids]]


def _labels_as_detections(labelled: DetectionSet, index: int) -> Detections:
    image = labelled.images[index]
    boxes, ids = image.boxes_xyxy.astype(np.float32), image.class_ids
    scores, phrases = np.ones(len(ids), np.float32), np.zeros(len(ids), np.int64)
    return Detections(boxes, scores, ids, phrases, labelled.labels, ("label",), image.size_hw)


def _picture(pixels: NDArray[np.uint8], found: Detections) -> str:
    drawn = draw_overlay(pixels, found)
    drawn.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    drawn.save(stream, "JPEG", quality=82)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
