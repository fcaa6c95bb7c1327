"""Labels as their files state them, before anything is clipped or left out: what the check looks at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medprompt.core.errors import DataError
from medprompt.data.dataset import DetectionSet, LabelledImage

IMAGE_FOLDERS = ("", "images", "JPEGImages", "train", "val")
"""Where an image that labels name is looked for, from the folder of the labels."""

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
"""Suffixes that an image is looked for under, where the one that the labels name is not there."""

UNKNOWN = -1
"""Class id of a box whose category is not declared."""


@dataclass(frozen=True)
class AnnotatedImage:
    """An image as the labels list it.

    Attributes:
        name: What the labels call it.
        path: The file; None where there is none.
        size_hw: Height and width as the labels state them; None where they do not, and the image cannot be read.
        boxes_xyxy: float64 ``[N, 4]`` in pixels as written: they may lie outside, be inside out or no numbers.
        class_ids: int64 ``[N]``, index into the set's ``labels``, or ``UNKNOWN``.
    """

    name: str
    path: Path | None
    size_hw: tuple[int, int] | None
    boxes_xyxy: NDArray[np.float64]
    class_ids: NDArray[np.int64]


@dataclass(frozen=True)
class Annotations:
    """A labelled set as its files state it; ``orphans``: a line for each box of no declared category or image."""

    name: str
    labels: tuple[str, ...]
    images: tuple[AnnotatedImage, ...]
    orphans: tuple[str, ...] = ()


Objects = Sequence[tuple[Sequence[float], int]]
"""Box ``[left, top, right, bottom]`` and class id of each object of an image."""


def annotated_image(name: str, path: Path | None, size_hw: tuple[int, int] | None, objects: Objects) -> AnnotatedImage:
    """Put the objects of an image into arrays: boxes float64 ``[N, 4]`` (pixels, as written), classes int64 ``[N]``."""
    boxes = np.array([box for box, _ in objects], dtype=np.float64).reshape(-1, 4)
    return AnnotatedImage(name, path, size_hw, boxes, np.array([index for _, index in objects], dtype=np.int64))


def find_image(folder: Path, name: str) -> Path | None:
    """The file that labels in ``folder`` call ``name``, in ``IMAGE_FOLDERS``, under ``IMAGE_SUFFIXES`` if need be."""
    if not Path(name).name:
        return None
    for images in IMAGE_FOLDERS:
        for suffix in (Path(name).suffix, *IMAGE_SUFFIXES):
            candidate = (folder / images / name).with_suffix(suffix)
            if candidate.is_file():
                return candidate
    return None


def detection_set_from_annotations(found: Annotations) -> DetectionSet:
    """Clip the boxes to their images and leave out those that nothing is left of, which ``dropped`` lists.

    Raises:
        DataError: An image is missing, or a box has no declared category or image.
    """
    if found.orphans:
        raise DataError(
            "Labels refer to what is not declared.",
            where=found.name,
            expected="a declared category and image for every box",
            got=found.orphans[0],
            fix="declare it, or take the box out; `medprompt data check` lists them all",
        )
    images, dropped = [], []
    for image in found.images:
        clipped, left_out = _clipped(image, found)
        images.append(clipped)
        dropped.extend(left_out)
    return DetectionSet(found.name, found.labels, tuple(images), tuple(dropped))


def _clipped(image: AnnotatedImage, found: Annotations) -> tuple[LabelledImage, list[str]]:
    if image.path is None:
        raise DataError("An image that the labels list is missing.", where=found.name, got=image.name)
    if image.size_hw is None:
        raise DataError("The size of an image cannot be read.", where=str(image.path), expected="a whole image file")
    boxes = clipped_boxes(image.boxes_xyxy, image.size_hw)
    kept = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    dropped = [
        f"{image.name}: {found.labels[class_id]} {box.tolist()}"
        for box, class_id in zip(image.boxes_xyxy[~kept], image.class_ids[~kept], strict=True)
    ]
    labelled = LabelledImage(image.path, image.size_hw, boxes[kept].astype(np.float32), image.class_ids[kept])
    return labelled, dropped


def clipped_boxes(boxes_xyxy: NDArray[Any], size_hw: tuple[int, int]) -> NDArray[np.float64]:
    """Clip ``[N, 4]`` boxes to an image; what is no number stays so."""
    height, width = size_hw
    return np.clip(boxes_xyxy.astype(np.float64), 0, [width, height, width, height])
