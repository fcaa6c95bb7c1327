"""Is a labelled set fit to train or to measure on? What is wrong is found before an hour of training is."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medprompt.core.boxes import iou_matrix
from medprompt.core.errors import DataError, ImageError
from medprompt.core.files import sha256_of_file
from medprompt.core.progress import Progress, Silent
from medprompt.data.annotations import UNKNOWN, AnnotatedImage, Annotations, clipped_boxes
from medprompt.data.findings import DataCheck, Finding, SetSummary
from medprompt.data.read import annotations_from_source
from medprompt.images.read import load_image
from medprompt.prompts.file import Prompts

SAME_BOX = 0.95
"""Boxes of one class that overlap by more than this (IoU) are one object labelled twice."""

ROUNDING = 0.5
"""Pixels that a box may stick out of its image: shares of six digits and half pixels are no mistake."""

ROWS = 1000
"""Boxes that are compared with all of their image at once, so that memory does not grow with the square."""

Hashes = dict[str, list[AnnotatedImage]]


def check_data(
    source: str,
    against: Sequence[str] = (),
    prompts: Prompts | None = None,
    *,
    strict: bool = False,
    progress: Progress | None = None,
) -> DataCheck:
    """Look at every image and box of a labelled set, and for its images in other sets.

    Sets are named as for ``medprompt.data.read_detection_set``. Of those it is checked ``against`` the images are
    decoded and compared, the boxes not looked at. ``prompts`` shall cover the set's classes. With ``strict``, the first
    image that is missing or cannot be read stops the check, instead of being listed.

    Raises:
        DataError: Label files that cannot be read; with ``strict`` an image that is missing.
        ImageError: With ``strict``, an image that cannot be read.
    """
    listener = progress or Silent()
    sets = [annotations_from_source(each) for each in (source, *against)]
    findings = [*_findings_of_labels(sets[0]), *(_uncovered(sets[0], prompts) if prompts else [])]
    hashes: list[Hashes] = []
    for index, found in enumerate(sets):
        if not found.images:
            findings.append(Finding("empty_split", found.name, "no image"))
        listener.step(found.name, len(found.images))
        seen, faults = _hashes(found, strict, listener.advance)
        hashes.append(seen)
        findings.extend(fault for fault in faults if index == 0 or fault.kind in ("missing_image", "unreadable_image"))
    findings.extend(_repeated(sets[0], hashes[0]))
    for other, seen in zip(sets[1:], hashes[1:], strict=True):
        findings.extend(_shared(hashes[0], other, seen))
    return DataCheck(tuple(_summary(found) for found in sets), tuple(findings))


def _summary(found: Annotations) -> SetSummary:
    boxes = {
        label: int(sum((image.class_ids == index).sum() for image in found.images))
        for index, label in enumerate(found.labels)
    }
    bare = sum(not len(image.class_ids) for image in found.images)
    return SetSummary(found.name, len(found.images), boxes, bare)


def _uncovered(found: Annotations, prompts: Prompts) -> Iterator[Finding]:
    covered = {entry.label.casefold() for entry in prompts.classes}
    for label in found.labels:
        if label.casefold() not in covered:
            yield Finding("class_without_phrase", found.name, f"{label}: no class of the prompts has this label")


def _findings_of_labels(found: Annotations) -> Iterator[Finding]:
    for line in found.orphans:
        yield Finding("undeclared", found.name, line)
    for image in found.images:
        for kind, detail in _findings_of_boxes(image, found.labels):
            yield Finding(kind, image.name, detail)


def _findings_of_boxes(image: AnnotatedImage, labels: Sequence[str]) -> Iterator[tuple[Any, str]]:
    boxes = image.boxes_xyxy
    names = [labels[index] if index != UNKNOWN else "of no class" for index in image.class_ids]
    flat = ~((boxes[:, 2:] > boxes[:, :2]).all(axis=1) & np.isfinite(boxes).all(axis=1))
    for index in np.flatnonzero(flat):
        yield "zero_area", _written(names[index], boxes[index])
    if image.size_hw is not None:
        for index in np.flatnonzero(~flat & _outside(boxes, image.size_hw)):
            height, width = image.size_hw
            yield "outside", f"{_written(names[index], boxes[index])} in an image of {width} x {height}"
    for first, second in duplicates(boxes[~flat], image.class_ids[~flat]):
        pair = [np.flatnonzero(~flat)[index] for index in (first, second)]
        yield "duplicate", f"{_written(names[pair[0]], boxes[pair[0]])} and {_numbers(boxes[pair[1]])}"


def _written(label: str, box: NDArray[np.float64]) -> str:
    return f"{label} {_numbers(box)}"


def _numbers(box: NDArray[np.float64]) -> str:
    return "[" + ", ".join(f"{value:g}" for value in box) + "]"


def _outside(boxes: NDArray[np.float64], size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """Bool ``[N]``: whether a box sticks out by more than rounding does."""
    beyond = np.abs(boxes - clipped_boxes(boxes, size_hw)) > ROUNDING
    return np.asarray(beyond.any(axis=1))


def duplicates(boxes_xyxy: NDArray[np.float64], class_ids: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Pairs of boxes of one class that are the same within ``SAME_BOX``, earlier box first.

    Args:
        boxes_xyxy: float64 ``[N, 4]``.
        class_ids: int64 ``[N]``; boxes of no declared class have no double.
    """
    pairs = []
    for start in range(0, len(class_ids), ROWS):
        rows = slice(start, start + ROWS)
        same = iou_matrix(boxes_xyxy[rows], boxes_xyxy) > SAME_BOX
        same &= (class_ids[rows, None] == class_ids[None, :]) & (class_ids[rows, None] != UNKNOWN)
        pairs += [(int(first) + start, int(second)) for first, second in np.argwhere(np.triu(same, k=start + 1))]
    return pairs


def _hashes(found: Annotations, strict: bool, advance: Callable[[], None]) -> tuple[Hashes, list[Finding]]:
    """The images by content, and what is wrong with their files."""
    seen: Hashes = {}
    faults = []
    for image in found.images:
        if image.path is None:
            if strict:
                raise DataError("An image that the labels list is missing.", where=found.name, got=image.name)
            faults.append(Finding("missing_image", found.name, image.name))
        else:
            try:
                key, size_hw = content_of_image(image.path)
            except ImageError as error:
                if strict:
                    raise
                faults.append(Finding("unreadable_image", str(image.path), error.got or error.problem))
                key, size_hw = sha256_of_file(image.path), image.size_hw or (0, 0)
            if image.size_hw not in (None, size_hw):
                faults.append(Finding("other_size", str(image.path), _sizes(image.size_hw or (0, 0), size_hw)))
            seen.setdefault(key, []).append(image)
        advance()
    return seen, faults


def _sizes(stated: tuple[int, int], size_hw: tuple[int, int]) -> str:
    return f"the labels say {stated[1]} x {stated[0]}, the image is {size_hw[1]} x {size_hw[0]}"


def content_of_image(path: Path) -> tuple[str, tuple[int, int]]:
    """SHA-256 of an image's pixels, which a copy in another lossless format shares, and its height and width.

    Raises:
        ImageError: It cannot be read.
    """
    pixels = load_image(path)
    digest = hashlib.sha256(f"{pixels.shape} ".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    height, width = pixels.shape[:2]
    return digest.hexdigest(), (height, width)


def _repeated(found: Annotations, hashes: Hashes) -> Iterator[Finding]:
    for images in hashes.values():
        if len(images) > 1:
            yield Finding("repeated_image", found.name, " = ".join(image.name for image in images))


def _shared(mine: Hashes, other: Annotations, theirs: Hashes) -> Iterator[Finding]:
    for key, images in mine.items():
        if key in theirs:
            yield Finding("shared_image", other.name, f"{images[0].name} = {theirs[key][0].name}")
