"""Boxes of COCO segmentations: polygons, and run lengths as numbers or packed into text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

NOTHING = [0.0, 0.0, 0.0, 0.0]
"""Box of a mask without a pixel: it has no area, so that the check tells of it and training leaves it out."""


def box_from_segmentation(segmentation: Any, size_hw: tuple[int, int] | None) -> list[float]:
    """Box ``[left, top, right, bottom]`` around a COCO segmentation, in pixels.

    Args:
        segmentation: Polygons ``[[x, y, x, y, …], …]``, or ``{"size": [h, w], "counts": list or text}``.
        size_hw: Height and width of the image, which run lengths must agree with; None where nobody knows.

    Raises:
        ValueError: It is neither, or its run lengths do not fill the image.
    """
    if isinstance(segmentation, dict):
        counts = segmentation["counts"]
        height, width = (int(side) for side in segmentation["size"])
        if size_hw not in (None, (height, width)):
            raise ValueError(f"run lengths of a {[height, width]} mask for a {list(size_hw or ())} image")
        return box_from_runs(runs_from_text(counts) if isinstance(counts, str) else counts, (height, width))
    return box_from_polygons(segmentation)


def box_from_polygons(polygons: Sequence[Sequence[float]]) -> list[float]:
    """Box around the corners of polygons, each ``[x, y, x, y, …]``.

    Raises:
        ValueError: No polygon, or one with fewer than three corners or half a corner.
    """
    if not polygons or any(len(polygon) < 6 or len(polygon) % 2 for polygon in polygons):
        raise ValueError("a polygon needs three corners of two numbers each")
    corners = np.concatenate([np.asarray(polygon, dtype=np.float64).reshape(-1, 2) for polygon in polygons])
    return [*corners.min(axis=0).tolist(), *corners.max(axis=0).tolist()]


def box_from_runs(counts: Sequence[int], size_hw: tuple[int, int]) -> list[float]:
    """Box of a mask given as run lengths, column by column, background first.

    Raises:
        ValueError: The runs are negative, or not as many pixels as the image has.
    """
    height, width = size_hw
    lengths = np.asarray(counts, dtype=np.int64)
    ends = np.cumsum(lengths)
    if (lengths < 0).any() or (int(ends[-1]) if len(ends) else 0) != height * width:
        raise ValueError(f"run lengths of {ends[-1] if len(ends) else 0} pixels for an image of {height * width}")
    inked = lengths[1::2] > 0
    first, last = (ends[1::2] - lengths[1::2])[inked], ends[1::2][inked] - 1
    if not len(first):
        return list(NOTHING)
    same_column = first // height == last // height
    top = np.where(same_column, first % height, 0).min()  # a run that turns into the next column touches both edges
    bottom = np.where(same_column, last % height, height - 1).max()
    return [float(first.min() // height), float(top), float(last.max() // height + 1), float(bottom + 1)]


def runs_from_text(text: str) -> list[int]:
    """Unpack COCO's text form of run lengths: 5 bits a character, from 48 on, bit 6 says that more follow.

    From the fourth number on, each is the difference from the last but one. As in cocoapi's ``rleFrString``.

    Raises:
        ValueError: A character that does not belong there, or the text breaks off.
    """
    runs: list[int] = []
    value, shift = 0, 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"{character!r} in the run lengths")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value, shift = 0, 0
    if shift:
        raise ValueError("the run lengths break off")
    return runs
