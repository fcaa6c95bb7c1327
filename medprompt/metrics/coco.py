"""COCO average precision of detections against labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medprompt.core.detections import Detections
from medprompt.data import DetectionSet
from medprompt.metrics.curves import average_precisions, every_image_once, mean_measured
from medprompt.metrics.matching import EVERY_AREA, IOUS, Floats, Matcher
from medprompt.metrics.quality import SIZES


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


def measure_accuracy(labelled: DetectionSet, found: Sequence[Detections]) -> Accuracy:
    """Compare detections with labels.

    Args:
        labelled: The images and their boxes.
        found: One ``Detections`` an image, in the same order; matched to the labels by name.

    Raises:
        ValueError: Another number of images.
    """
    (precision,) = _precisions(labelled, found)
    return Accuracy(
        ap=mean_measured(precision),
        ap50=mean_measured(precision[0]),
        ap_by_label=dict(zip(labelled.labels, map(mean_measured, precision.T), strict=True)),
        ap50_by_label=dict(zip(labelled.labels, precision[0].tolist(), strict=True)),
    )


def measure_by_size(labelled: DetectionSet, found: Sequence[Detections], *, masks: bool = False) -> SizedAccuracy:
    """Compare detections with labels, for small, medium and large objects too; see ``measure_accuracy``.

    With ``masks`` it is COCO's ``segm``: masks are compared, and their areas are the sizes.

    Raises:
        DataError: Masks are to be compared, and the labels or the detections have none.
    """
    precision, *by_size = _precisions(labelled, found, *SIZES.values(), masks=masks)
    figures = (precision, precision[:1], precision[IOUS.index(0.75)][None], *by_size)

    def row(classes: slice) -> dict[str, float]:
        means = (mean_measured(one[:, classes]) for one in figures)
        return dict(zip(SIZED_FIGURES, means, strict=True))

    return SizedAccuracy(row(slice(None)), {label: row(slice(n, n + 1)) for n, label in enumerate(labelled.labels)})


def _precisions(
    labelled: DetectionSet, found: Sequence[Detections], *sizes: tuple[float, float], masks: bool = False
) -> Floats:
    """Average precision of objects of any size, and of each range: ``[1 + sizes, IoU, class]``; NaN without labels."""
    matched = Matcher(labelled, found, masks=masks).match(IOUS, (EVERY_AREA, *sizes))
    return average_precisions(matched, every_image_once(len(found))).reshape(1 + len(sizes), len(IOUS), -1)
