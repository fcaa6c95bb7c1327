"""COCO average precision of detections against labels, by faster-coco-eval."""

from __future__ import annotations

import contextlib
import gc
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medprompt.core.detections import Detections
from medprompt.core.errors import missing_extra
from medprompt.data import DetectionSet

MAX_DETECTIONS = 300
"""Detections counted an image. COCO's own cap of 100 would punish crowded slides (up to 151 nuclei an image)."""


@dataclass(frozen=True)
class Accuracy:
    """COCO figures, 0 … 1; NaN where there is nothing to measure.

    Attributes:
        ap: Mean over IoU 0.50 … 0.95 and classes.
        ap50: At IoU 0.50.
        ap_by_label, ap50_by_label: The same for each class.
    """

    ap: float
    ap50: float
    ap_by_label: dict[str, float]
    ap50_by_label: dict[str, float]


@dataclass(frozen=True)
class SizedAccuracy:
    """COCO figures by class and size of box, 0 … 1; NaN where there is nothing to measure.

    Attributes:
        overall: By figure, see ``SIZED_FIGURES``.
        by_label: The same for each class.
    """

    overall: dict[str, float]
    by_label: dict[str, dict[str, float]]


SIZED_FIGURES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
"""COCO's: over IoU 0.50 … 0.95, at 0.50, at 0.75, and over all of them for boxes under 32², under 96², and larger."""


class AccuracyMeter:
    """Compares detections with the labels of one set; the labels are prepared once, for many comparisons.

    Args:
        labelled: The images and their boxes.

    Raises:
        EngineError: faster-coco-eval is not installed.
    """

    def __init__(self, labelled: DetectionSet) -> None:
        try:
            from faster_coco_eval import COCO
        except ImportError as error:
            raise missing_extra("Measuring accuracy", "faster-coco-eval", "bench") from error
        self.labelled = labelled
        with contextlib.redirect_stdout(io.StringIO()):
            self._truth = COCO(_coco_labels(labelled))

    def measure(self, found: Sequence[Detections]) -> Accuracy:
        """Compare detections with the labels.

        Args:
            found: One ``Detections`` an image, in the same order; matched to the labels by name.

        Raises:
            ValueError: Another number of images.
        """
        labels = self.labelled.labels
        precision = self._precision(found)[..., 0]
        by_class = [_mean(precision[..., place]) for place in range(len(labels))]
        by_class50 = [_mean(precision[0, ..., place]) for place in range(len(labels))]
        return Accuracy(
            ap=_mean(precision),
            ap50=_mean(precision[0]),
            ap_by_label=dict(zip(labels, by_class, strict=True)),
            ap50_by_label=dict(zip(labels, by_class50, strict=True)),
        )

    def measure_by_size(self, found: Sequence[Detections]) -> SizedAccuracy:
        """Compare detections with the labels, for small, medium and large boxes too.

        Args:
            found: See ``measure``.

        Raises:
            ValueError: Another number of images.
        """
        precision = self._precision(found, areas=4)
        rows = {label: _sized(precision[:, :, [place]]) for place, label in enumerate(self.labelled.labels)}
        return SizedAccuracy(_sized(precision), rows)

    def _precision(self, found: Sequence[Detections], areas: int = 1) -> Any:
        """Precision ``[IoU, recall, class, area]`` at ``MAX_DETECTIONS``; the first area is every one."""
        from faster_coco_eval import COCOeval_faster

        if len(found) != len(self.labelled.images):
            raise ValueError(f"expected detections for {len(self.labelled.images)} images, got {len(found)}")
        if not found:
            return np.full((10, 101, len(self.labelled.labels), areas), -1.0)
        # The library refuses an empty list, so there a box of no class stands in: it counts for nothing.
        with contextlib.redirect_stdout(io.StringIO()), _collection_paused():
            results = _coco_results(self.labelled, found) or [_NOTHING]
            answers = self._truth.loadRes(results)
            evaluation = COCOeval_faster(self._truth, answers, "bbox", print_function=lambda *_: None)
            # Only what is read is computed: one limit, the areas asked for.
            evaluation.params.maxDets = [MAX_DETECTIONS]
            evaluation.params.areaRng = evaluation.params.areaRng[:areas]
            evaluation.params.areaRngLbl = evaluation.params.areaRngLbl[:areas]
            evaluation.evaluate()
            evaluation.accumulate()
        return np.asarray(evaluation.eval["precision"])[..., -1]


@contextlib.contextmanager
def _collection_paused() -> Iterator[None]:
    """Keep Python from looking for garbage among tens of thousands of new dicts: a third of a comparison's time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def measure_accuracy(labelled: DetectionSet, found: Sequence[Detections]) -> Accuracy:
    """Compare detections with labels once; see ``AccuracyMeter``.

    Args:
        labelled: The images and their boxes.
        found: One ``Detections`` an image, in the same order; matched to the labels by name.

    Raises:
        ValueError: Another number of images.
        EngineError: faster-coco-eval is not installed.
    """
    return AccuracyMeter(labelled).measure(found)


_NOTHING = {"image_id": 0, "category_id": -1, "bbox": [0.0, 0.0, 1.0, 1.0], "score": 0.0, "segmentation": None}


def _sized(precision: Any) -> dict[str, float]:
    """``SIZED_FIGURES`` of a precision ``[IoU, recall, class, area]``."""
    every = precision[..., 0]
    parts = (every, every[0], every[5], *(precision[..., size] for size in (1, 2, 3)))
    return dict(zip(SIZED_FIGURES, map(_mean, parts), strict=True))


def _mean(precision: Any) -> float:
    """Mean over what was measured; COCO marks the rest with -1."""
    valid = precision[precision > -1]
    return float(valid.mean()) if valid.size else float("nan")


def _coco_labels(labelled: DetectionSet) -> dict[str, Any]:
    annotations: list[dict[str, Any]] = []
    for image_id, image in enumerate(labelled.images):
        for box, class_id in zip(image.boxes_xyxy.astype(float), image.class_ids, strict=True):
            width, height = box[2] - box[0], box[3] - box[1]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(class_id),
                    "bbox": [box[0], box[1], width, height],
                    "area": width * height,
                    "iscrowd": 0,
                }
            )
    return {
        "info": {},
        "images": [
            {"id": n, "height": image.size_hw[0], "width": image.size_hw[1]} for n, image in enumerate(labelled.images)
        ],
        "annotations": annotations,
        "categories": [{"id": n, "name": label} for n, label in enumerate(labelled.labels)],
    }


def _coco_results(labelled: DetectionSet, found: Sequence[Detections]) -> list[dict[str, Any]]:
    places = {label.casefold(): place for place, label in enumerate(labelled.labels)}
    results = []
    for image_id, detections in enumerate(found):
        table = [places.get(label.casefold()) for label in detections.labels]
        boxes = detections.boxes_xyxy.astype(float)
        boxes_xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).tolist()
        for bbox, score, class_id in zip(
            boxes_xywh, detections.scores.tolist(), detections.class_ids.tolist(), strict=True
        ):
            category = table[class_id]
            if category is not None:
                # A segmentation of none: else the library draws a polygon of each box, which nothing reads.
                row = {"image_id": image_id, "category_id": category, "bbox": bbox, "score": score}
                results.append({**row, "segmentation": None})
    return results
