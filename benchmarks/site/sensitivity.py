"""Sensitivity from a few labelled images: its interval, the thresholds that serve a site, how many images it takes.

Boxes of one image resemble each other, so an interval that counted boxes as independent would be too narrow, and one
that drew a dozen images again and again would be too: where all boxes were found, it would have no width. Here Wilson's
interval is of the effective number of boxes, with Student's quantile for the number of images (Korn and Graubard,
Confidence intervals for proportions with small expected number of positive counts from survey data, 1998).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medprompt.generation.calibration import best_f1
from medprompt.metrics.bootstrap import Estimate
from medprompt.metrics.matching import Matches

FOLDS = 5
"""Parts in which thresholds are chosen on the others and judged."""

DESIGN_EFFECT = 4.0
"""Boxes that count as one independent box, where none were measured yet. With ``WORST`` it asks for more images than
each class of BCCD and nuclei took: page site-check of the research."""

WORST = 0.5
"""The sensitivity that takes the most images."""


@dataclass(frozen=True)
class ClassAtSite:
    """One class at one threshold on a site's labelled images.

    Attributes:
        threshold: None where no threshold was chosen: nothing is reported.
        sensitivity: With its 95 % interval.
        false_positives: An image, with its 95 % interval.
        design_effect: How many boxes count as one independent box.
    """

    label: str
    boxes: int
    threshold: float | None
    sensitivity: Estimate
    false_positives: Estimate
    design_effect: float


def classes_at_thresholds(matches: Matches, thresholds: Sequence[float]) -> tuple[ClassAtSite, ...]:
    """Measure each class at thresholds in the order of ``matches.labels``."""
    return _classes(matches, matches.reported(thresholds), thresholds)


def recalibrated_thresholds(matches: Matches) -> tuple[float | None, ...]:
    """The threshold of best F1 of each class; None where it has no box, or finds none."""
    return _best_thresholds(matches, np.ones(matches.image_count, dtype=bool))


def classes_recalibrated(matches: Matches, seed: int = 0) -> tuple[ClassAtSite, ...]:
    """Measure each class at the threshold of best F1, chosen on other images than it is judged on.

    The thresholds that are named are those of all images; what they do is told by ``FOLDS`` parts, each judged at the
    thresholds of the others. A part at whose others nothing was found reports nothing.
    """
    images, folds = matches.image_count, min(FOLDS, matches.image_count)
    fold_of = np.random.default_rng(seed).permutation(images) % folds
    rows = np.zeros(len(matches.scores), dtype=bool)
    for fold in range(folds):
        chosen = _best_thresholds(matches, fold_of != fold)
        least = [math.inf if one is None else one for one in chosen]
        rows |= (fold_of[matches.images] == fold) & matches.reported(least)
    return _classes(matches, rows, recalibrated_thresholds(matches))


def images_for(
    within: float, boxes_an_image: float, sensitivity: float = WORST, design_effect: float = DESIGN_EFFECT
) -> int | None:
    """Labelled images for a 95 % interval of ± ``within``; None where no image has a box.

    >>> images_for(0.05, 10.0, 0.9, 2.0)
    28
    """
    if boxes_an_image <= 0:
        return None
    boxes = design_effect * sensitivity * (1 - sensitivity) * (1.96 / within) ** 2
    return max(2, math.ceil(boxes / boxes_an_image))


def sensitivity_of_images(found: NDArray[np.int64], boxes: NDArray[np.int64]) -> tuple[Estimate, float]:
    """Share of boxes found over images, with its 95 % interval, and the design effect.

    Args:
        found: int64 ``[N]``: boxes found in each image.
        boxes: int64 ``[N]``: boxes in each image. Images without any say nothing.
    """
    labelled = boxes > 0
    found, boxes = found[labelled], boxes[labelled]
    images, total = len(boxes), int(boxes.sum())
    if not total:
        return Estimate(math.nan, math.nan, math.nan), math.nan
    share = float(found.sum()) / total
    effect = _design_effect(found, boxes, share)
    z = student_95(images - 1)
    size = total / effect
    middle = (share + z * z / (2 * size)) / (1 + z * z / size)
    half = z * math.sqrt(share * (1 - share) / size + (z / (2 * size)) ** 2) / (1 + z * z / size)
    return Estimate(share, max(0.0, middle - half), min(1.0, middle + half)), effect


def student_95(freedom: int) -> float:
    """Student's two-sided 95 % quantile (expansion of Cornish and Fisher); of no degree of freedom that of one.

    >>> round(student_95(9), 2)
    2.26
    """
    if freedom < 3:
        return 4.303 if freedom == 2 else 12.706
    z = 1.959964
    terms = (
        z**3 + z,
        5 * z**5 + 16 * z**3 + 3 * z,
        3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z,
    )
    return z + terms[0] / (4 * freedom) + terms[1] / (96 * freedom**2) + terms[2] / (384 * freedom**3)


def _design_effect(found: NDArray[np.int64], boxes: NDArray[np.int64], share: float) -> float:
    """Variance between images over that of independent boxes, at least 1."""
    images, total = len(boxes), float(boxes.sum())
    plain = share * (1 - share) / total
    if images < 2 or not plain:
        return 1.0
    between = images / (images - 1) * float(((found - share * boxes) ** 2).sum()) / total**2
    return max(1.0, between / plain)


def _mean_of_images(counts: NDArray[np.int64]) -> Estimate:
    images = len(counts)
    mean = float(counts.mean())
    half = student_95(images - 1) * float(counts.std(ddof=1)) / math.sqrt(images) if images > 1 else math.inf
    if not counts.any():  # none in n images: the rule of three
        return Estimate(0.0, 0.0, 3 / images)
    return Estimate(mean, max(0.0, mean - half), mean + half)


def _best_thresholds(matches: Matches, images: NDArray[np.bool_]) -> tuple[float | None, ...]:
    return tuple(_best_threshold(matches, index, images) for index in range(len(matches.labels)))


def _best_threshold(matches: Matches, index: int, images: NDArray[np.bool_]) -> float | None:
    ranked = matches.by_class[index]
    boxes, own = int(images[ranked.box_images].sum()), images[ranked.images]
    if not boxes:
        return None
    point = best_f1(ranked.scores[own], ranked.hits[own], boxes)
    return point.threshold if point.f1 else None


def _classes(matches: Matches, rows: NDArray[np.bool_], thresholds: Sequence[float | None]) -> tuple[ClassAtSite, ...]:
    return tuple(_class(matches, rows, index, threshold) for index, threshold in enumerate(thresholds))


def _class(matches: Matches, rows: NDArray[np.bool_], index: int, threshold: float | None) -> ClassAtSite:
    own, truth = rows & (matches.classes == index), matches.box_classes == index
    boxes, found, wrong = (
        np.bincount(images, minlength=matches.image_count)
        for images in (
            matches.box_images[truth],
            matches.images[own & matches.hits],
            matches.images[own & ~matches.hits],
        )
    )
    sensitivity, effect = sensitivity_of_images(found, boxes)
    return ClassAtSite(matches.labels[index], int(boxes.sum()), threshold, sensitivity, _mean_of_images(wrong), effect)


def needed_by_class(classes: Sequence[ClassAtSite], images: int, within: float) -> Iterator[tuple[str, int | None]]:
    """Labelled images that each class needs, by what was measured of it on so many images."""
    for one in classes:
        measured = not math.isnan(one.sensitivity.value) and 0 < one.sensitivity.value < 1
        # Of none or all found nothing is known about the variance: the interval's inner end is taken for the truth.
        share = one.sensitivity.value if measured else _inner(one.sensitivity)
        effect = one.design_effect if measured else DESIGN_EFFECT
        yield one.label, images_for(within, one.boxes / images, share, effect)


def _inner(estimate: Estimate) -> float:
    ends = [end for end in (estimate.low, estimate.high) if 0 < end < 1]
    return min(ends, key=lambda end: abs(end - WORST)) if ends else WORST
