"""Folders of images and masks: binary ones, every piece of which is an object, or MATLAB's maps that number them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medprompt.core.errors import DataError
from medprompt.data.masks import binary_mask, need_scipy, objects_from_masks, pieces_of_mask
from medprompt.data.native.sample import Job, Sample, known_size, listed_images, rles, zeros
from medprompt.data.registry import KnownSet, Part
from medprompt.images.decode import SUFFIXES

NAMES = ("{}", "{}_Segmentation", "{}_mask", "p{}")
"""What the mask of an image may be called: as the image, as in ISIC, as in many exports, as in ETIS-Larib."""


def jobs_from_masks(known: KnownSet, source: Path, part: Part) -> list[Job]:
    """List the images of a split, each with its mask."""
    need_scipy()
    masks = source / part.labels
    return [Job(str(path), partial(_samples, known, path, masks)) for path in listed_images(source, part)]


def _samples(known: KnownSet, image: Path, masks: Path) -> list[Sample]:
    mask = binary_mask(mask_of_image(image, masks))
    size_hw = known_size(image)
    if mask.shape != size_hw:
        raise DataError(
            "An image and its mask differ in size.",
            where=str(image),
            expected=f"a mask of {size_hw[1]} x {size_hw[0]}",
            got=f"{mask.shape[1]} x {mask.shape[0]}",
        )
    boxes, pieces, small = objects_from_masks(pieces_of_mask(mask), known.min_pixels)
    return [Sample(image.name, image, size_hw, boxes, zeros(boxes), small, rles(pieces))]


def mask_of_image(image: Path, masks: Path) -> Path:
    """The mask file of an image, in a folder of masks.

    Raises:
        DataError: There is none.
    """
    for name in NAMES:
        for suffix in (image.suffix, *sorted(SUFFIXES)):
            candidate = masks / f"{name.format(image.stem)}{suffix}"
            if candidate.is_file():
                return candidate
    raise DataError(
        "An image has no mask.",
        where=str(masks),
        expected=" or ".join(f"{name.format(image.stem)}.png" for name in NAMES),
        got=f"nothing for {image.name}",
    )


MAP = "inst_map"


def jobs_from_instances(known: KnownSet, source: Path, part: Part) -> list[Job]:
    """List the images of a split, each with its map."""
    need_scipy()
    images, labels = listed_images(source, part), source / part.labels
    return [Job(str(path), partial(_samples_of_map, known, path, labels / f"{path.stem}.mat")) for path in images]


def _samples_of_map(known: KnownSet, image: Path, labels: Path) -> list[Sample]:
    label_map, size_hw = map_from_mat(labels), known_size(image)
    if label_map.shape != size_hw:
        raise DataError(
            "An image and its map differ in size.",
            where=str(labels),
            expected=f"{size_hw[0]} rows, {size_hw[1]} columns",
            got=str(label_map.shape),
        )
    boxes, masks, small = objects_from_masks(label_map, known.min_pixels)
    return [Sample(image.name, image, size_hw, boxes, zeros(boxes), small, rles(masks))]


def map_from_mat(path: Path) -> NDArray[Any]:
    """The array ``inst_map`` of a MATLAB file (before version 7.3).

    Raises:
        DataError: The file is missing or damaged, or has no such array.
    """
    from scipy.io import loadmat

    try:
        return np.asarray(loadmat(path, variable_names=[MAP])[MAP])
    except Exception as error:  # scipy on damaged files: ValueError, TypeError, zlib.error, whatever came first
        raise DataError(
            "A label file cannot be read.", where=str(path), expected=f"a MATLAB file with {MAP}", got=repr(error)
        ) from error
