"""What is wrong with labels, as far as the labels and the headers of their images tell."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medprompt.core.boxes import clipped_boxes, iou_matrix
from medprompt.data.annotations import UNKNOWN, AnnotatedImage, Annotations
from medprompt.data.findings import Finding, FindingKind

SAME_BOX = 0.95
"""Boxes of one class that overlap by more than this (IoU) are one object labelled twice."""

ROUNDING = 0.5
"""Pixels that a box may stick out of its image: shares of six digits and half pixels are no mistake."""

CORNER = 2.0
"""Pixels within which all boxes lie that are shares of the image (0 … 1), be they corners or corner and size."""

ROOM = 8
"""Least side of an image, in pixels, for which boxes in ``CORNER`` are none of its own."""

PERCENT, PERCENT_BOXES, PERCENT_ROOM = 100.5, 10, 200
"""So many boxes that all end before 100 in images of larger sides are percent of the image."""

ROWS = 1000
"""Boxes that are compared with all of their image at once, so that memory does not grow with the square."""

COMPARED, FEW = 2000, 3
"""Objects of a set whose outlines are compared with their boxes, and the least number that proves something."""

ROOM_PX, NEAR_PX, APART = 8, 2.0, 0.5
"""Sides of an outline, in pixels, from which on it is compared; what rounding does to a side; and the overlap (IoU)
under which a box is elsewhere. A wider box that holds its outline is none: it may be of what is hidden, too."""

Details = Iterator[tuple[FindingKind, str]]


def findings_of_labels(found: Annotations) -> Iterator[Finding]:
    """All that is wrong with a labelled set but what only the pixels of its images tell."""
    yield from found.findings
    if not found.images:
        yield Finding("empty_split", found.name, "no image")
        return
    for image in found.images:
        for kind, detail in (*_of_file(image), *_of_boxes(image, found.labels)):
            yield Finding(kind, image.name, detail)
    yield from _one_file_of_two(found)
    yield from _of_set(found)


def _of_file(image: AnnotatedImage) -> Details:
    if image.stated_hw not in (None, image.size_hw) and image.stated_hw and image.size_hw:
        turn = ", the file's EXIF turn included" if image.turned else ""
        yield "other_size", f"the labels say {_size(image.stated_hw)}, the image is {_size(image.size_hw)}{turn}"
    elif image.turned:
        yield "exif_turn", f"{image.name} is turned or mirrored by its EXIF data"


def _size(size_hw: tuple[int, int]) -> str:
    return f"{size_hw[1]} x {size_hw[0]}"


def _of_boxes(image: AnnotatedImage, labels: Sequence[str]) -> Details:
    boxes, size_hw = image.boxes_xyxy, image.size_hw
    names = [labels[index] if index != UNKNOWN else "of no class" for index in image.class_ids]
    flat = ~((boxes[:, 2:] > boxes[:, :2]).all(axis=1) & np.isfinite(boxes).all(axis=1))
    tiny = ~flat & tiny_boxes(boxes, size_hw)
    for index in np.flatnonzero(flat):
        yield "zero_area", _written(names[index], boxes[index])
    for index in np.flatnonzero(tiny):
        yield "tiny", _written(names[index], boxes[index])
    if size_hw is not None:
        for index in np.flatnonzero(~flat & ~tiny & _outside(boxes, size_hw)):
            yield "outside", f"{_written(names[index], boxes[index])} in an image of {_size(size_hw)}"
    sound = np.flatnonzero(~flat & ~tiny)
    for pair in duplicates(boxes[sound], image.class_ids[sound]):
        first, second = (sound[index] for index in pair)
        yield "duplicate", f"{_written(names[first], boxes[first])} and {_numbers(boxes[second])}"


def _written(label: str, box: NDArray[np.float64]) -> str:
    return f"{label} {_numbers(box)}"


def _numbers(box: NDArray[np.float64]) -> str:
    return "[" + ", ".join(f"{value:g}" for value in box) + "]"


def tiny_boxes(boxes_xyxy: NDArray[np.float64], size_hw: tuple[int, int] | None) -> NDArray[np.bool_]:
    """Bool ``[N]``: whether a box is under a pixel, or in the first pixels of an image that has room for more."""
    with np.errstate(invalid="ignore"):  # from infinity to infinity is no length
        small = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2] < 1).all(axis=1)
    if size_hw is None or min(size_hw) < ROOM:
        return np.asarray(small & (size_hw is None))
    return np.asarray(small | (np.abs(boxes_xyxy) <= CORNER).all(axis=1))


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


def _one_file_of_two(found: Annotations) -> Iterator[Finding]:
    """An image that is listed twice, and a file that two names lead to."""
    names: dict[Path, list[str]] = defaultdict(list)
    for image in found.images:
        if image.path is not None:
            names[image.path].append(image.name)
    for path, own in names.items():
        if len(set(own)) > 1:
            yield Finding("ambiguous_image", found.name, f"{', '.join(dict.fromkeys(own))} = {path}")
        elif len(own) > 1:
            yield Finding("repeated_image", found.name, f"{own[0]}, {len(own)} times")


def _of_set(found: Annotations) -> Iterator[Finding]:
    """What no single image or box tells."""
    kept = sum(int(sound_boxes(image).sum()) for image in found.images)
    if not kept and not any(finding.kind == "undeclared" for finding in found.findings):
        yield Finding("no_box", found.name, _why_none(found))
    elif kept and _percent(found):
        yield Finding("percent", found.name, f"{kept} boxes, and all end before 100")
    elif kept:
        yield from _of_forms(found)


def _of_forms(found: Annotations) -> Iterator[Finding]:
    """Boxes that are corners, or a centre and a size: outlines and areas beside them tell."""
    outlined = list(islice(_outlined(found), COMPARED))
    apart = [(label, box, own) for label, box, own in outlined if _apart(box, own)]
    if len(apart) > max(len(outlined) / 2, FEW - 1):
        label, box, own = apart[0]
        told = f"{_written(label, box)} beside an outline in {_numbers(own)}{_form(box, own)}"
        yield Finding("other_outline", found.name, f"{len(apart)} of {len(outlined)} boxes, such as {told}")
        return
    boxes = np.concatenate([image.boxes_xyxy for image in found.images])
    areas = np.concatenate([image.areas for image in found.images])
    stated = np.isfinite(areas) & (areas > 0) & np.isfinite(boxes).all(axis=1)
    as_corners = int((stated & _areas_of_corners(boxes, areas)).sum())
    if as_corners > max(int(stated.sum()) / 2, FEW - 1):
        told = f"the areas of {as_corners} of {int(stated.sum())} boxes are those of corners (left, top, right, bottom)"
        yield Finding("other_outline", found.name, told)


def _outlined(found: Annotations) -> Iterator[tuple[str, NDArray[np.float64], NDArray[np.float64]]]:
    """Label, box and the outline's box of each object that has both, and an outline of some size or in shares."""
    for image in found.images:
        for row in np.flatnonzero(sound_boxes(image)):
            outline = image.outlines[row]
            own = outline.box(image.size_hw) if outline else None
            if own is not None and (min(own[2] - own[0], own[3] - own[1]) >= ROOM_PX or max(own) <= CORNER):
                index = int(image.class_ids[row])
                yield found.labels[index] if index != UNKNOWN else "", image.boxes_xyxy[row], np.array(own)


def _apart(box: NDArray[np.float64], own: NDArray[np.float64]) -> bool:
    overlap = iou_matrix(box[None], own[None])[0, 0]
    holds = bool((box[:2] <= own[:2] + NEAR_PX).all() and (box[2:] >= own[2:] - NEAR_PX).all())
    return bool(overlap < APART and (not holds or _form(box, own)))


def _form(box: NDArray[np.float64], own: NDArray[np.float64]) -> str:
    """What a COCO box is instead, where it is that of its outline."""
    sides = box[2:] - box[:2]
    forms = {
        "corners": np.concatenate([box[:2], sides]),
        "centre and size": np.concatenate([box[:2] - sides / 2, box[:2] + sides / 2]),
    }
    fitting = [name for name, form in forms.items() if np.abs(form - own).max() <= NEAR_PX]
    return f": it is {fitting[0]}, and left, top, width, height are expected" if fitting else ""


def _areas_of_corners(boxes: NDArray[np.float64], areas: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Bool ``[N]``: whether an area is that of what the box would be, were its numbers corners."""
    with np.errstate(invalid="ignore", over="ignore"):
        sides = boxes[:, 2:] - boxes[:, :2]
        corners = np.clip(sides - boxes[:, :2], 0, None).prod(axis=1)
        differs = np.abs(areas - sides.prod(axis=1)) > areas / 10
        return np.asarray(differs & (np.abs(areas - corners) <= areas / 100))


def sound_boxes(image: AnnotatedImage) -> NDArray[np.bool_]:
    """Bool ``[N]``: boxes that are to be found, and of which something lies in the image."""
    boxes = image.boxes_xyxy if image.size_hw is None else clipped_boxes(image.boxes_xyxy, image.size_hw)
    whole = np.isfinite(image.boxes_xyxy).all(axis=1)
    return np.asarray(whole & ~image.ignored & (boxes[:, 2:] > boxes[:, :2]).all(axis=1))


def _why_none(found: Annotations) -> str:
    listed = sum(len(image.class_ids) for image in found.images)
    ignored = sum(int(image.ignored.sum()) for image in found.images)
    bare = [finding for finding in found.findings if finding.kind == "no_label_file"]
    if bare:
        return f"{len(bare)} of {len(found.images)} images have no label file, such as {bare[0].detail}"
    if not listed:
        return f"{len(found.images)} images without an object"
    return f"{listed} objects, {ignored} of them crowds or difficult, the others without area or outside of their image"


def _percent(found: Annotations) -> bool:
    images = [image for image in found.images if len(image.class_ids)]
    boxes = np.concatenate([image.boxes_xyxy for image in images])
    sides = np.array([image.size_hw or (0, 0) for image in images])
    roomy = bool((sides > PERCENT_ROOM).all()) and len(boxes) >= PERCENT_BOXES
    return roomy and CORNER < float(np.nan_to_num(boxes).max()) <= PERCENT
