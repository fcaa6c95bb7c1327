"""Which detection answers which labelled box: greedy, best score first, as COCO's evaluation matches.

Within an image and a class, each detection in turn takes the labelled box that it overlaps most among those still free,
if the overlap reaches the limit. A second detection of one box is a false positive, and so is the right box under the
wrong name. Of equal scores the one that the detector lists first goes first; of equal overlaps the later label, as in
COCO. Lower scores never change what higher ones got, so one matching serves every threshold.

Crowds and difficult objects need not be found. A detection that answers no box, and lies on such an object with as much
of itself as the limit says, does not count: neither as a hit nor as a mistake, however many there are. So COCO has it.

Overlaps are of boxes, or of masks (COCO's ``segm``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medprompt.core.boxes import area, intersection_matrix
from medprompt.core.detections import Detections
from medprompt.core.errors import DataError
from medprompt.core.masks import Masks
from medprompt.data import DetectionSet, LabelledImage

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

IOU = 0.5
"""Overlap that makes a detection a true positive, where nothing else is said."""

IOUS = tuple(np.linspace(0.5, 0.95, 10).tolist())
"""COCO's overlaps for AP, to the bit: its 0.9 is a rounding below 0.9."""

MAX_DETECTIONS = 300
"""Detections counted an image. COCO's own cap of 100 would punish crowded slides (up to 151 nuclei an image)."""

EVERY_AREA = (0.0, float("inf"))


@dataclass(frozen=True)
class Ranked:
    """Detections in question, best first, and the labelled boxes they should find.

    Attributes:
        images: int64 ``[D]``: the image of each detection.
        scores: float64 ``[D]``, falling.
        hits: bool ``[D]``: whether it is a true positive.
        box_images: int64 ``[G]``: the image of each labelled box.
    """

    images: Ints
    scores: Floats
    hits: Flags
    box_images: Ints


@dataclass(frozen=True)
class Matches:
    """Detections and labelled boxes of a set, matched at one overlap.

    Attributes:
        labels: The classes; ``classes`` and ``box_classes`` index into them.
        image_count: Images of the set, with and without boxes.
        images: int64 ``[D]``: the image of each detection, best score of the set first.
        classes: int64 ``[D]``.
        scores: float64 ``[D]``, falling.
        boxes_xyxy: float64 ``[D, 4]`` in source pixels.
        answers: int64 ``[D]``: the labelled box that it found, -1 for a false positive.
        box_images: int64 ``[G]``: the image of each labelled box.
        box_classes: int64 ``[G]``.
        truth_xyxy: float64 ``[G, 4]`` in source pixels.
    """

    labels: tuple[str, ...]
    image_count: int
    images: Ints
    classes: Ints
    scores: Floats
    boxes_xyxy: Floats
    answers: Ints
    box_images: Ints
    box_classes: Ints
    truth_xyxy: Floats

    @property
    def hits(self) -> Flags:
        """Whether each detection is a true positive: bool ``[D]``."""
        return self.answers >= 0

    @cached_property
    def ranked(self) -> Ranked:
        """All classes together."""
        return Ranked(self.images, self.scores, self.hits, self.box_images)

    @cached_property
    def by_class(self) -> tuple[Ranked, ...]:
        """Each class by itself, in the order of ``labels``."""
        return tuple(self._of_class(index) for index in range(len(self.labels)))

    def _of_class(self, index: int) -> Ranked:
        rows = self.classes == index
        return Ranked(self.images[rows], self.scores[rows], self.hits[rows], self.box_images[self.box_classes == index])

    def reported(self, thresholds: Sequence[float]) -> Flags:
        """Which detections are at or over their class's threshold: bool ``[D]``.

        Args:
            thresholds: One a class, in the order of ``labels``.
        """
        return self.scores >= np.asarray(thresholds, dtype=np.float64)[self.classes]

    def found(self, rows: Flags) -> Flags:
        """Which labelled boxes one of these detections answers: bool ``[G]``."""
        found = np.zeros(len(self.box_images), dtype=bool)
        found[self.answers[rows & self.hits]] = True
        return found


class _Image(NamedTuple):
    """One image's detections, best first and capped, and its labelled boxes: those that are ``ignored`` come last.

    ``areas`` and ``own_areas``: of the labelled objects and of the detections, in square source pixels. ``overlaps``
    are IoUs ``[N, M]``, of an ignored object the share of the detection that lies on it.
    """

    boxes_xyxy: Floats
    scores: Floats
    classes: Ints
    own_areas: Floats
    overlaps: Floats
    truth_xyxy: Floats
    truth_classes: Ints
    ignored: Flags
    areas: Floats


class Matcher:
    """Detections of a set beside its labels.

    Args:
        labelled: The images and their boxes.
        found: One ``Detections`` an image, in the same order; matched to the labels by name, others are left out.
            Of each image and class the ``MAX_DETECTIONS`` best count.
        masks: Compare masks, not boxes.

    Raises:
        ValueError: Another number of images.
        DataError: Masks are to be compared, and the labels or the detections have none.
    """

    def __init__(self, labelled: DetectionSet, found: Sequence[Detections], *, masks: bool = False) -> None:
        if len(found) != len(labelled.images):
            raise ValueError(f"expected detections for {len(labelled.images)} images, got {len(found)}")
        self.labels = labelled.labels
        pairs = zip(labelled.images, found, strict=True)
        self._images = [_image(labelled, image, one, masks=masks) for image, one in pairs]

    def match(
        self, ious: Sequence[float] = (IOU,), areas: Sequence[tuple[float, float]] = (EVERY_AREA,)
    ) -> tuple[Matches, ...]:
        """Match at several overlaps, and again for boxes of several sizes.

        Args:
            ious: Least overlaps of a match, 0 … 1.
            areas: Smallest and largest object that counts, in square source pixels: of its mask where the labels state
                that. A labelled object of another area need not be found; a detection that answers such an object, or
                none while the area of its own box (or mask) is another, is no mistake.

        Returns:
            What counts: for each area, each overlap.
        """
        images, count = self._images, len(self._images)
        scores = _joined([image.scores for image in images])
        order = np.argsort(-scores, kind="stable")
        scores = scores[order]
        image_ids = _numbers([len(image.scores) for image in images])[order]
        classes = _joined([image.classes for image in images], np.int64)[order]
        boxes = _joined([image.boxes_xyxy for image in images], shape=(0, 4))[order]
        own_areas = _joined([image.own_areas for image in images])[order]
        truth = _joined([image.truth_xyxy for image in images], shape=(0, 4))
        truth_images = _numbers([len(image.truth_classes) for image in images])
        truth_classes = _joined([image.truth_classes for image in images], np.int64)
        truth_areas, ignored = (
            _joined([image.areas for image in images]),
            _joined([i.ignored for i in images], np.bool_),
        )
        matched = []
        for within, answers in zip(areas, self._answers(ious, areas)[..., order], strict=True):
            counted, fits = _within(truth_areas, within) & ~ignored, _within(own_areas, within)
            # Both have one entry more at the end, for the answer -1.
            of_counted, renumbered = np.append(counted, False), np.append(np.cumsum(counted) - 1, -1)
            labelled = (truth_images[counted], truth_classes[counted], truth[counted])
            for own in answers:
                rows = of_counted[own] | ((own < 0) & fits)
                detected = (image_ids[rows], classes[rows], scores[rows], boxes[rows], renumbered[own[rows]])
                matched.append(Matches(self.labels, count, *detected, *labelled))
        return tuple(matched)

    def _answers(self, ious: Sequence[float], areas: Sequence[tuple[float, float]]) -> Ints:
        """int64 ``[areas, IoU, D]``: the labelled box of each detection, -1 for none; images in turn."""
        parts, start = [np.zeros((len(areas), len(ious), 0), dtype=np.int64)], 0
        for image in self._images:
            same_class = image.classes[:, None] == image.truth_classes[None, :]
            overlaps = np.where(same_class, image.overlaps, 0.0)
            counted = np.array([_within(image.areas, within) & ~image.ignored for within in areas])
            own = greedy_answers(overlaps, ious, counted, image.ignored)
            parts.append(np.where(own < 0, -1, own + start))
            start += len(image.truth_classes)
        return np.concatenate(parts, axis=2)


def match_detections(labelled: DetectionSet, found: Sequence[Detections], iou: float = IOU) -> Matches:
    """Match once; see ``Matcher``."""
    return Matcher(labelled, found).match((iou,))[0]


def _image(labelled: DetectionSet, image: LabelledImage, found: Detections, *, masks: bool) -> _Image:
    indices = {label.casefold(): index for index, label in enumerate(labelled.labels)}
    table = np.array([indices.get(label.casefold(), -1) for label in found.labels] or [-1], dtype=np.int64)
    classes = table[found.class_ids]
    order = np.argsort(-found.scores, kind="stable")
    order = order[_counted(classes[order])]
    ranked = found[order]
    own_areas, their_areas, shared = (
        np.asarray(one, dtype=np.float64) for one in (_areas_of_masks if masks else _areas_of_boxes)(ranked, image)
    )
    count = len(image.class_ids)
    ignored = np.repeat([False, True], [count, len(image.ignored_ids)])
    stated = their_areas[:count] if image.areas is None else image.areas
    return _Image(
        ranked.boxes_xyxy.astype(np.float64),
        ranked.scores.astype(np.float64),
        classes[order],
        own_areas,
        _overlaps(shared, own_areas, their_areas, ignored),
        _truth(image),
        np.concatenate([image.class_ids, image.ignored_ids]).astype(np.int64),
        ignored,
        np.concatenate([stated, their_areas[count:]]).astype(np.float64),
    )


def _truth(image: LabelledImage) -> Floats:
    """Boxes ``[M, 4]`` of the objects, then of what is ignored."""
    return np.concatenate([image.boxes_xyxy, image.ignored_xyxy]).astype(np.float64)


def _areas_of_boxes(found: Detections, image: LabelledImage) -> tuple[NDArray[Any], ...]:
    """Areas of detections ``[N]`` and of what is labelled ``[M]``, and what each two share ``[N, M]``."""
    boxes, truth = found.boxes_xyxy.astype(np.float64), _truth(image)
    return area(boxes), area(truth), intersection_matrix(boxes, truth)


def _areas_of_masks(found: Detections, image: LabelledImage) -> tuple[NDArray[Any], ...]:
    """The same in pixels of masks."""
    own, truth = own_masks(found), Masks.joined([labelled_masks(image), image.ignored_masks], image.size_hw)
    return own.areas, truth.areas, own.intersections(truth)


def own_masks(found: Detections) -> Masks:
    """The masks of detections.

    Raises:
        DataError: They have none.
    """
    if found.masks is None:
        raise DataError(
            "Masks cannot be measured: the model makes none.",
            expected="detections with masks",
            got="boxes alone",
            fix="measure boxes, or a bundle of a family that makes masks",
        )
    return found.masks


def labelled_masks(image: LabelledImage) -> Masks:
    """The masks of an image's labelled objects.

    Raises:
        DataError: One of them has none, or it cannot be read.
    """
    if image.masks is None:
        raise DataError(
            "Masks cannot be measured: the labels have boxes without an outline.",
            where=str(image.path),
            expected="a segmentation of each object",
            got=f"{len(image.boxes_xyxy) - sum(one is not None for one in image.outlines)} objects without one",
            fix="measure boxes, or label the outlines (COCO segmentations, YOLO polygons)",
        )
    return image.masks


def _overlaps(shared: NDArray[Any], own: NDArray[Any], theirs: NDArray[Any], ignored: Flags) -> Floats:
    """IoU ``[N, M]`` from shared and own areas; of an ignored one the share of the detection that lies on it."""
    whole = np.where(ignored, own[:, None], own[:, None] + theirs - shared)
    overlaps: Floats = np.divide(shared, whole, out=np.zeros(shared.shape), where=whole > 0)
    return overlaps


def _counted(classes: Ints) -> Flags:
    """Which detections count, bool ``[N]``: those of a known class within the cap of their class, rows best first."""
    kept = np.zeros(len(classes), dtype=bool)
    for index in np.unique(classes[classes >= 0]):
        kept[np.flatnonzero(classes == index)[:MAX_DETECTIONS]] = True
    return kept


def greedy_answers(
    overlaps: Floats, ious: Sequence[float] = (IOU,), counted: Flags | None = None, shared: Flags | None = None
) -> Ints:
    """Match the detections of one image to its labelled boxes.

    Args:
        overlaps: float64 ``[N, M]``: IoU of each detection, best score first, with each box; 0 where they may not meet.
        ious: Least overlaps of a match, 0 … 1.
        counted: bool ``[A, M]``: boxes to be found; another is taken only where none of these fits. Each of the ``A``
            choices is matched by itself. None: all boxes, as the one choice.
        shared: bool ``[M]``: boxes that any number of detections may take. None: no box.

    Returns:
        int64 ``[A, IoU, N]``: the box of each detection, -1 for none.
    """
    counted = np.ones((1, overlaps.shape[1]), dtype=bool) if counted is None else counted
    # COCO's own limit: at 1.0 rounding must not cost a perfect box its match.
    limits = np.tile(np.minimum(ious, 1 - 1e-10), len(counted))[:, None]
    spared = np.repeat(~counted, len(ious), axis=0).astype(np.float64)
    overlaps = np.where(overlaps > 0, overlaps, -1.0)
    answers = np.full((len(limits), len(overlaps)), -1, dtype=np.int64)
    free = np.ones(spared.shape, dtype=bool)
    near = overlaps >= limits.min()
    for row in np.flatnonzero(near.any(axis=1)):
        boxes = np.flatnonzero(near[row])[::-1]  # of equal overlaps COCO takes the later label
        fits = free[:, boxes] & (overlaps[row, boxes] >= limits)
        best = np.where(fits, overlaps[row, boxes] - spared[:, boxes], -2.0).argmax(axis=1)
        some = np.flatnonzero(fits.any(axis=1))
        answers[some, row] = boxes[best[some]]
        taken = boxes[best[some]]
        free[some, taken] = False if shared is None else shared[taken]
    return answers.reshape(len(counted), len(ious), -1)


def _within(sizes: NDArray[np.floating], areas: tuple[float, float]) -> Flags:
    """Areas ``[N]`` that count: bool ``[N]``, borders included."""
    return (sizes >= areas[0]) & (sizes <= areas[1])


def _numbers(counts: Sequence[int]) -> Ints:
    """Each index as often as its count says."""
    return np.repeat(np.arange(len(counts), dtype=np.int64), counts)


def _joined(parts: Sequence[NDArray[Any]], dtype: Any = np.float64, shape: tuple[int, ...] = (0,)) -> NDArray[Any]:
    """The parts in one array, which has its shape and type even where there is no part."""
    return np.concatenate([np.zeros(shape, dtype=dtype), *parts])
