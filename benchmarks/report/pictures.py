"""The report's pictures: each image with both sides' boxes, those on which most decisions differ first."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medprompt.benchmarks.accuracy.evaluation import SetResult
from medprompt.bundles.load import Bundle
from medprompt.core.detections import Detections
from medprompt.core.manifest import Tolerance
from medprompt.core.overlay import COLOURS, mask_layer, readable_on
from medprompt.data import DetectionSet
from medprompt.images.read import load_image
from medprompt.metrics.agreement import check_decisions
from medprompt.runtime.verify import tolerance_of_device

MAX_SIDE = 900
"""Pixels of a picture in the page."""
MAX_PICTURES, MAX_DISAGREEMENTS = 6, 10


@dataclass(frozen=True)
class Mark:
    """A box in the picture's pixels, the colour of its class and of the text on it, and what its tag says."""

    x: float
    y: float
    width: float
    height: float
    colour: str
    ink: str
    tag: str


@dataclass(frozen=True)
class Pair:
    """One image with both sides' boxes.

    Attributes:
        picture: The image (data URI), ``width`` x ``height`` pixels.
        before: PyTorch's boxes, or the labels where PyTorch was not run.
        after: The bundle's.
        before_masks, after_masks: Their masks as a picture to lay over it (data URI); empty where there are none.
        caption: How far they agree.
    """

    name: str
    picture: str
    width: int
    height: int
    before: tuple[Mark, ...]
    after: tuple[Mark, ...]
    caption: str
    before_masks: str = ""
    after_masks: str = ""


def class_colours(labels: Iterable[str]) -> dict[str, str]:
    """A colour for each class, by its name in lower case: the bundle's first, so that all pictures and plots agree."""
    names = dict.fromkeys(label.casefold() for label in labels)
    return {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(names)}


def pairs_of_set(entry: SetResult, bundle: Bundle, device: str, colours: Mapping[str, str]) -> Iterator[Pair]:
    """The images of a set on which most decisions differ, then others from its start.

    Without PyTorch's predictions the labels stand in their place. ``device`` served: its tolerance counts.
    ``colours``: see ``class_colours``.
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
        image = predictions.labelled.images[index]
        uri, (width, height) = _picture(load_image(image.path))
        scale = width / image.size_hw[1]
        after = _reported(predictions.bundle[index], thresholds)
        before = (
            _reported(predictions.reference[index], thresholds)
            if predictions.reference
            else _labels_as_detections(predictions.labelled, index, masks=after.masks is not None)
        )
        marks = _marks(before, colours, scale, scores=bool(predictions.reference)), _marks(after, colours, scale)
        layers = (_masks(side, colours, (width, height)) for side in (before, after))
        yield Pair(names[index], uri, width, height, *marks, differences[index][1], *layers)


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


def _labels_as_detections(labelled: DetectionSet, index: int, *, masks: bool) -> Detections:
    image = labelled.images[index]
    boxes, ids = image.boxes_xyxy.astype(np.float32), image.class_ids
    scores, phrases = np.ones(len(ids), np.float32), np.zeros(len(ids), np.int64)
    names, drawn = (labelled.labels, ("label",)), image.masks if masks else None
    return Detections(boxes, scores, ids, phrases, *names, image.size_hw, masks=drawn)


def _marks(found: Detections, colours: Mapping[str, str], scale: float, *, scores: bool = True) -> tuple[Mark, ...]:
    """Boxes to draw, the best last, so that it lies on top."""
    marks = []
    for row in range(len(found) - 1, -1, -1):
        left, top, right, bottom = (found.boxes_xyxy[row] * scale).round(1).tolist()
        label = found.labels[found.class_ids[row]]
        colour = colours[label.casefold()]
        tag = f"{label} {found.scores[row]:.2f}" if scores else label
        marks.append(Mark(left, top, right - left, bottom - top, colour, readable_on(colour), tag))
    return tuple(marks)


def _masks(found: Detections, colours: Mapping[str, str], size: tuple[int, int]) -> str:
    """Masks as a PNG of ``size``, width and height, to lay over the picture: a data URI, the best on top."""
    if found.masks is None or not len(found):
        return ""
    layer, scale = Image.new("RGBA", size), size[0] / found.size_hw[1]
    for row in range(len(found) - 1, -1, -1):
        corner, pixels = found.masks.part(row)
        if pixels.size:
            sides = (max(1, round(side * scale)) for side in reversed(pixels.shape))
            part = Image.fromarray(pixels).resize(tuple(sides), Image.Resampling.NEAREST)
            covers = mask_layer(part, max(1, size[0] // 500))
            drawn = Image.new("RGBA", covers.size, colours[found.labels[found.class_ids[row]].casefold()])
            drawn.putalpha(covers)
            left, top = (round(side * scale) - 1 for side in reversed(corner))
            layer.alpha_composite(drawn, (max(left, 0), max(top, 0)), (max(-left, 0), max(-top, 0)))
    return _uri(layer, "PNG", optimize=True)


def _picture(pixels: NDArray[np.uint8]) -> tuple[str, tuple[int, int]]:
    """A JPEG as data URI, and its width and height."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    return _uri(picture, "JPEG", quality=82), picture.size


def _uri(picture: Image.Image, kind: str, **options: Any) -> str:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(stream.getvalue()).decode()}"
