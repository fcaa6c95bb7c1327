"""The part of a picture that a training sample shows, with the boxes and masks in it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medprompt.core.boxes import area
from medprompt.core.masks import Masks
from medprompt.data import LabelledImage

Window = tuple[float, float, float, float]
"""Left, top, right, bottom in 0 … 1 of a picture; it may reach outside."""


def random_window(scale: tuple[float, float], rng: np.random.Generator) -> Window:
    """A crop window in 0 … 1: side 1 / zoom, placed so that it overlaps the picture as far as it can."""
    side = 1 / rng.uniform(*scale)
    left, top = rng.uniform(min(0, 1 - side), max(0, 1 - side), size=2)
    return left, top, left + side, top + side


def cut(
    picture: Image.Image,
    window: Window,
    size_hw: tuple[int, int],
    resample: Image.Resampling,
    fill: tuple[int, ...] | int,
) -> NDArray[np.uint8]:
    """Resize the window (left, top, right, bottom in 0 … 1, may reach outside) to ``size_hw``."""
    height, width = size_hw
    left, top, right, bottom = window
    inner = (max(left, 0.0), max(top, 0.0), min(right, 1.0), min(bottom, 1.0))
    scale_x, scale_y = width / (right - left), height / (bottom - top)
    size = (max(1, round((inner[2] - inner[0]) * scale_x)), max(1, round((inner[3] - inner[1]) * scale_y)))
    box = (inner[0] * picture.width, inner[1] * picture.height, inner[2] * picture.width, inner[3] * picture.height)
    part = picture.resize(size, resample, box=box)
    if size == (width, height):
        return np.asarray(part)
    canvas = Image.new(picture.mode, (width, height), fill)
    canvas.paste(part, (round((inner[0] - left) * scale_x), round((inner[1] - top) * scale_y)))
    return np.asarray(canvas)


def boxes_in_window(
    boxes: NDArray[np.float32], window: Window, min_visible: float
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Boxes in the window's own 0 … 1, clipped, and the indices of those that stay."""
    left, top, right, bottom = window
    origin = np.array([left, top, left, top], dtype=np.float32)
    size = np.array([right - left, bottom - top] * 2, dtype=np.float32)
    moved = (boxes - origin) / size
    clipped = np.clip(moved, 0, 1)
    visible = area(clipped) / np.maximum(area(moved), 1e-12)
    kept = np.flatnonzero((visible >= min_visible) & (area(clipped) > 0))
    return clipped[kept], kept


def masks_in_window(
    labelled: LabelledImage,
    kept: NDArray[np.int64],
    window: Window,
    size_hw: tuple[int, int],
    mask_hw: tuple[int, int],
) -> NDArray[np.float16]:
    """How much of each pixel is whose, ``[N, *mask_hw]``: of the objects among ``kept``, which held-out ones follow.

    They are cut at the picture's ``size_hw`` first, for that rounds to whole pixels.
    """
    objects = kept[kept < len(labelled.class_ids)]
    masks = np.full((len(objects), *mask_hw), np.nan, dtype=np.float16)
    for place, index in enumerate(objects):
        outline = labelled.outlines[index] if labelled.outlines else None
        if outline is not None:
            mask = Masks.of_spans([outline.spans(labelled.size_hw)], labelled.size_hw)[0]
            whole = Image.fromarray(mask.astype(np.uint8) * 255)
            part = Image.fromarray(cut(whole, window, size_hw, Image.Resampling.BOX, 0))
            masks[place] = np.asarray(part.resize(mask_hw[::-1], Image.Resampling.BOX)) / np.float16(255)
    return masks
