"""Folders of images and MATLAB files with a map that numbers the objects (``inst_map``), as CPM-17 has them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medprompt.core.errors import DataError
from medprompt.data.masks import need_scipy, objects_from_masks
from medprompt.data.native.sample import Job, Sample, known_size, listed_images, rles, zeros
from medprompt.data.registry import KnownSet, Part

MAP = "inst_map"


def jobs_from_instances(known: KnownSet, source: Path, part: Part) -> list[Job]:
    """List the images of a split, each with its map."""
    need_scipy()
    images, labels = listed_images(source, part), source / part.labels
    return [Job(str(path), partial(_samples, known, path, labels / f"{path.stem}.mat")) for path in images]


def _samples(known: KnownSet, image: Path, labels: Path) -> list[Sample]:
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
