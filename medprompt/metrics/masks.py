"""How well masks are found: average precision by masks, and IoU, Dice and boundary F1 of what is reported.

Each image and class has one figure: all that is reported of the class against all that is labelled of it, without the
pixels of what is ignored (crowds). An image where a class is neither labelled nor reported says nothing of it. A figure
of a set is the mean over its images, and over all classes the mean over images and classes.

Boundary F1 is that of Csurka et al., What is a good evaluation measure for semantic segmentation?, BMVC 2013: a pixel
of one boundary is right where one of the other lies within 0.75 % of the image's diagonal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medprompt.core.detections import Detections
from medprompt.core.masks import Masks
from medprompt.core.runs import mask_of_runs
from medprompt.data import DetectionSet, LabelledImage
from medprompt.metrics.bootstrap import Resampled
from medprompt.metrics.curves import average_precisions, every_image_once, mean_measured
from medprompt.metrics.matching import IOUS, Flags, Floats, Ints, Matcher, labelled_masks, own_masks

MASK_PRECISIONS = ("segm_ap", "segm_ap50")
MASK_FIGURES = ("mask_iou", "dice", "boundary_f1")

TOLERANCE = 0.0075
"""Of a boundary, as a share of the image's diagonal."""


@dataclass(frozen=True)
class MaskQuality:
    """Figures of each image and class.

    Attributes:
        labels: The classes.
        values: float64 ``[images, classes, 3]``, see ``MASK_FIGURES``; NaN where there is nothing of the class.
    """

    labels: tuple[str, ...]
    values: Floats

    def resample(self, draws: Ints) -> Resampled:
        """Means over the set as it is, and over each draw of it: int64 ``[R, images]``, see ``draw_images``.

        The figures are ``mask_iou``, ``dice`` and ``boundary_f1``, and each with ``/LABEL`` for each class.
        """
        names = (*MASK_FIGURES, *(f"{name}/{label}" for label in self.labels for name in MASK_FIGURES))
        once = np.ones((1, len(self.values)), dtype=np.int64)
        means = self._means(np.concatenate([once, draws]))
        return Resampled(names, means[0], means[1:])

    def _means(self, weights: Ints) -> Floats:
        """Float64 ``[R, figures]``."""
        measured = np.isfinite(self.values)
        counts = np.tensordot(weights, measured, axes=1)
        sums = np.tensordot(weights, np.where(measured, self.values, 0.0), axes=1)
        every, total = sums.sum(axis=1), counts.sum(axis=1)
        each = np.concatenate([every, sums.reshape(len(weights), -1)], axis=1)
        of = np.concatenate([total, counts.reshape(len(weights), -1)], axis=1)
        means: Floats = np.divide(each, of, out=np.full(each.shape, np.nan), where=of > 0)
        return means


def measure_masks(labelled: DetectionSet, found: Sequence[Detections], thresholds: Sequence[float]) -> MaskQuality:
    """Compare the masks that are reported with those that are labelled.

    Args:
        labelled: The images and the masks of their objects.
        found: One ``Detections`` an image, in the same order; matched to the labels by name.
        thresholds: Least score that is reported, one a class, in the order of ``labelled.labels``.

    Raises:
        ValueError: Another number of images.
        DataError: The labels or the detections have no masks.
    """
    pairs = zip(labelled.images, found, strict=True)
    rows = [_of_image(labelled.labels, image, one, thresholds) for image, one in pairs]
    return MaskQuality(labelled.labels, np.array(rows).reshape(len(rows), len(labelled.labels), len(MASK_FIGURES)))


def resample_mask_precision(labelled: DetectionSet, found: Sequence[Detections], draws: Ints) -> Resampled:
    """COCO's ``segm`` of the set as it is, and of each draw of it: int64 ``[R, images]``, see ``draw_images``.

    The figures are ``segm_ap``, ``segm_ap50``, and ``segm_ap50/LABEL`` for each class.

    Raises:
        ValueError: Another number of images.
        DataError: The labels or the detections have no masks.
    """
    matches = Matcher(labelled, found, masks=True).match(IOUS)
    precisions = (average_precisions(matches, weights) for weights in (every_image_once(len(found)), *draws))
    rows = np.array([[mean_measured(one), mean_measured(one[0]), *one[0]] for one in precisions])
    names = (*MASK_PRECISIONS, *(f"segm_ap50/{label}" for label in labelled.labels))
    return Resampled(names, rows[0], rows[1:])


def resample_masks(
    labelled: DetectionSet, found: Sequence[Detections], thresholds: Sequence[float], draws: Ints
) -> Resampled:
    """All figures of masks: see ``resample_mask_precision``, and ``measure_masks``. Raises as they do.

    Args:
        labelled: The images and the masks of their objects.
        found: One ``Detections`` an image, in the same order.
        thresholds: Least score that is reported, one a class, in the order of ``labelled.labels``.
        draws: int64 ``[R, images]``, see ``draw_images``.
    """
    pixels = measure_masks(labelled, found, thresholds).resample(draws)
    return resample_mask_precision(labelled, found, draws).beside(pixels)


def _of_image(
    labels: Sequence[str], image: LabelledImage, found: Detections, thresholds: Sequence[float]
) -> list[tuple[float, float, float]]:
    theirs, ours = labelled_masks(image), own_masks(found)
    names = np.array([found.labels[index].casefold() for index in found.class_ids], dtype=object)
    rows = []
    for index, (label, threshold) in enumerate(zip(labels, thresholds, strict=True)):
        reported = np.flatnonzero((names == label.casefold()) & (found.scores >= threshold))
        wanted, ignored = np.flatnonzero(image.class_ids == index), np.flatnonzero(image.ignored_ids == index)
        left_out = _union(image.ignored_masks, ignored)
        rows.append(mask_figures(*(_union(*side) & ~left_out for side in ((theirs, wanted), (ours, reported)))))
    return rows


def _union(masks: Masks, rows: Ints) -> Flags:
    (runs,) = masks.united([rows.tolist()]).runs
    return mask_of_runs(runs, masks.size_hw)


def mask_figures(wanted: Flags, reported: Flags) -> tuple[float, float, float]:
    """IoU, Dice and boundary F1 of two masks, bool ``[H, W]``; NaN where both are empty."""
    both, either = int((wanted & reported).sum()), int((wanted | reported).sum())
    if not either:
        return (np.nan,) * 3
    return both / either, 2 * both / (both + either), boundary_f1(wanted, reported)


def boundary_f1(wanted: Flags, reported: Flags) -> float:
    """Boundary F1 of two masks, bool ``[H, W]``; NaN where both are empty, 0 where one is."""
    reach = TOLERANCE * float(np.hypot(*wanted.shape))
    rows, columns = (np.flatnonzero((wanted | reported).any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return float("nan")
    part = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    first, second = boundary(wanted[part]), boundary(reported[part])
    hits = [(one & _grown(other, reach)).sum() for one, other in ((first, second), (second, first))]
    recall, precision = (hit / max(int(one.sum()), 1) for hit, one in zip(hits, (first, second), strict=True))
    return float(2 * recall * precision / (recall + precision)) if recall and precision else 0.0


def boundary(mask: Flags) -> Flags:
    """Pixels of a mask, bool ``[H, W]``, beside one that is not of it, above, below, left or right; or at the edge."""
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner


def _grown(mask: Flags, reach: float) -> Flags:
    """Pixels within so many pixels of the mask's, bool ``[H, W]``: row by row of a disc."""
    height, width = mask.shape
    grown: NDArray[np.bool_] = np.zeros_like(mask)
    for shift in range(-min(int(reach), height - 1), min(int(reach), height - 1) + 1):
        half = int(np.sqrt(reach**2 - shift**2))
        counts = np.cumsum(np.pad(mask, ((0, 0), (half + 1, half))), axis=1, dtype=np.int32)
        wide = counts[:, 2 * half + 1 :] > counts[:, :width]
        grown[max(shift, 0) : height + min(shift, 0)] |= wide[max(-shift, 0) : height + min(-shift, 0)]
    return grown
