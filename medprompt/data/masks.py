"""Boxes of masks: label maps that number their objects, and binary masks whose pieces are the objects."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medprompt.core.errors import DataError, need_module
from medprompt.core.kinds import FORMATS
from medprompt.core.masks import Masks
from medprompt.core.runs import spans_of_columns

INK = 128
"""Grey level from which a pixel of a binary mask belongs to it; JPEG masks have every level around an edge."""


need_scipy = partial(need_module, "scipy", "Reading masks", "scipy", "data")
"""Raises an ``EngineError`` that names the extra where scipy is not installed."""


def boxes_from_masks(label_map: NDArray[Any], min_pixels: int = 1) -> tuple[NDArray[np.float64], int]:
    """Boxes around the objects of a label map ``[H, W]``, in the order of their numbers; 0 is background.

    An object may be in several pieces; those of fewer than ``min_pixels`` are left out.

    >>> boxes_from_masks(np.array([[0, 0, 7], [3, 0, 7]]))[0].tolist()
    [[0.0, 1.0, 1.0, 2.0], [2.0, 0.0, 3.0, 2.0]]

    Returns:
        float64 ``[N, 4]`` xyxy in pixels, right and bottom exclusive; and how many objects were left out.

    Raises:
        DataError: Not two dimensions, or numbers that are not whole.
        EngineError: scipy is not installed.
    """
    boxes, _, small = objects_from_masks(label_map, min_pixels)
    return boxes, small


def objects_from_masks(label_map: NDArray[Any], min_pixels: int = 1) -> tuple[NDArray[np.float64], Masks, int]:
    """As ``boxes_from_masks``, with the mask of each box; raises likewise."""
    need_scipy()
    from scipy import ndimage

    if label_map.ndim != 2 or (label_map != np.floor(label_map)).any():
        raise DataError(
            "Expected a 2-D integer label map.",
            expected="whole numbers, two dimensions",
            got=f"{label_map.dtype} {label_map.shape}",
            fix="give one number of an object, or 0, for each pixel of a slice",
        )
    numbers, compact, pixels = np.unique(label_map, return_inverse=True, return_counts=True)
    compact = compact.reshape(label_map.shape)
    slices = ndimage.find_objects(compact + 1) if len(numbers) else []
    objects = numbers != 0
    kept = objects & (pixels >= min_pixels)
    found = [(number, *slices[number]) for number in np.flatnonzero(kept)]
    boxes = [[columns.start, rows.start, columns.stop, rows.stop] for _, rows, columns in found]
    height, width = label_map.shape
    spans = (
        spans_of_columns((compact[rows, columns] == number).T, height, rows.start, columns.start)
        for number, rows, columns in found
    )
    masks = Masks.of_spans(spans, (height, width))
    return np.array(boxes, dtype=np.float64).reshape(-1, 4), masks, int(objects.sum() - kept.sum())


def pieces_of_mask(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Number the connected pieces of a binary mask ``[H, W]``, corners connect; int64 ``[H, W]``, 0 is background."""
    need_scipy()
    from scipy import ndimage

    numbered, _ = ndimage.label(mask, structure=np.ones((3, 3)))
    return np.asarray(numbered, dtype=np.int64)


def binary_mask(path: Path) -> NDArray[np.bool_]:
    """Read a mask image: bool ``[H, W]``, true from the middle grey on, or wherever it is not 0 if it only has 0 and 1.

    Raises:
        DataError: The file cannot be read.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            grey = np.asarray(image.convert("L"))
    except Exception as error:  # Pillow on damaged files: SyntaxError, TypeError, struct.error, whatever came first
        got = str(error) or type(error).__name__
        raise DataError("A mask cannot be read.", where=str(path), got=got, fix="save it anew, as PNG") from error
    return np.asarray(grey >= (INK if grey.max(initial=0) > 1 else 1))
