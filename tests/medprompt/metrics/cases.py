"""Small labelled sets and detections, made in code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medprompt import Detections
from medprompt.data import DetectionSet, LabelledImage

SIZE_HW = (400, 400)
LABELS = ("RBC", "WBC")
Row = tuple[Sequence[float], int]
Found = tuple[Sequence[float], int, float]


def image(rows: Sequence[Row]) -> LabelledImage:
    """An image with these boxes and classes."""
    boxes = np.array([box for box, _ in rows], dtype=np.float32).reshape(-1, 4)
    return LabelledImage(Path("a.png"), SIZE_HW, boxes, np.array([one for _, one in rows], dtype=np.int64))


def labelled(*images: Sequence[Row], labels: tuple[str, ...] = LABELS) -> DetectionSet:
    """A set of such images."""
    return DetectionSet("set", labels, tuple(map(image, images)))


def found(rows: Sequence[Found], labels: tuple[str, ...] = LABELS) -> Detections:
    """Detections of one image: box, class, score, in any order."""
    rows = sorted(rows, key=lambda row: -row[2])
    return Detections(
        np.array([box for box, _, _ in rows], dtype=np.float32).reshape(-1, 4),
        np.array([score for _, _, score in rows], dtype=np.float32),
        np.array([one for _, one, _ in rows], dtype=np.int64),
        np.zeros(len(rows), dtype=np.int64),
        labels,
        ("x",),
        SIZE_HW,
    )


def random_set(seed: int, images: int = 8, most: int = 12, noise: float = 5.0, empty: int = 0) -> Any:
    """Labels and imperfect answers of several sizes; the first ``empty`` images have neither or only one of both."""
    random = np.random.default_rng(seed)
    truths, answers = [], []
    for number in range(images):
        count = 0 if number < empty else int(random.integers(0, most + 1))
        corners = random.uniform(0, 250, (count, 2))
        boxes = np.concatenate([corners, corners + random.uniform(8, 140, (count, 2))], axis=1).round(1)
        classes = random.integers(0, 2, count)
        truths.append([(box.tolist(), int(one)) for box, one in zip(boxes, classes, strict=True)])
        answers.append(found(_answers(random, boxes, classes, noise, extra=0 if number < empty // 2 else 4)))
    return labelled(*truths), answers


def _answers(random: np.random.Generator, boxes: Any, classes: Any, noise: float, extra: int) -> list[Found]:
    """Each labelled box once or twice, shifted; some under the other name; some where nothing is."""
    again = random.random(len(boxes)) < 0.4
    boxes, classes = np.concatenate([boxes, boxes[again]]), np.concatenate([classes, classes[again]])
    shifted = boxes + random.normal(0, noise, boxes.shape)
    wrong = random.random(len(classes)) < 0.1
    corners = random.uniform(0, 300, (extra, 2))
    every = np.concatenate([shifted, np.concatenate([corners, corners + 40], axis=1)])
    every[:, 2:] = np.maximum(every[:, 2:], every[:, :2] + 1)
    names = np.concatenate([np.where(wrong, 1 - classes, classes), random.integers(0, 2, extra)])
    # Two digits, so that scores tie.
    scores = random.random(len(every)).round(2)
    return [(box.tolist(), int(one), float(score)) for box, one, score in zip(every, names, scores, strict=True)]
