"""Outlines of objects as labels state them: polygons, and run lengths as numbers or packed into text."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medprompt.core.errors import DataError
from medprompt.core.masks import Masks
from medprompt.core.runs import Ints, Spans, box_of_spans, joined_spans, runs_of_text, spans_of_runs
from medprompt.core.text import reason

FINE = 5
"""Steps a pixel in which cocoapi walks along a polygon's edges."""

MOST_STEPS = 50_000_000
"""Of a polygon's edges: one that is so long has no coordinates of an image, and would fill the memory."""


UNREADABLE = (ValueError, KeyError, TypeError, IndexError, OverflowError)
"""What reading a segmentation of any content may raise."""


@dataclass(frozen=True)
class Outline:
    """What labels say of an object's pixels; it is read when they are asked for.

    Attributes:
        segmentation: As COCO has it, see ``box_from_segmentation``.
        where: The file and the entry, for messages.
    """

    segmentation: Any
    where: str

    def box(self, size_hw: tuple[int, int] | None) -> list[float] | None:
        """Box around it, see ``box_from_segmentation``; None where it cannot be read, as who asks for masks learns."""
        try:
            return box_from_segmentation(self.segmentation, size_hw)
        except UNREADABLE:
            return None

    def spans(self, size_hw: tuple[int, int]) -> Spans:
        """The object's pixels in an image of this height and width, see ``medprompt.core.runs``.

        Raises:
            DataError: It cannot be read.
        """
        try:
            if isinstance(self.segmentation, dict):
                return Masks.of_rle([self.segmentation], size_hw).spans[0]
            box_from_polygons(self.segmentation)
            return joined_spans(spans_of_polygon(np.array(one, dtype=np.float64), size_hw) for one in self.segmentation)
        except UNREADABLE as error:
            raise DataError(
                "The outline of an object cannot be read.",
                where=self.where,
                expected="polygons, or run lengths of the whole image",
                got=reason(error),
                fix="mend the segmentation, or take the object out",
            ) from error


def spans_of_polygon(polygon: NDArray[np.float64], size_hw: tuple[int, int]) -> Spans:
    """The pixels of a polygon ``[x, y, x, y, …]``, the same ones as cocoapi's ``rleFrPoly`` finds.

    That walks along the edges in fifths of a pixel and notes, where it passes the middle of a column of pixels, at
    which row: between the first and second of them the column is inside, and so on.

    Raises:
        ValueError: A corner is no number, or the polygon is longer than any image's.
    """
    height, width = size_hw
    x, y = _walk(np.trunc(FINE * polygon.reshape(-1, 2) + 0.5))
    passed = np.flatnonzero(np.diff(x))
    column = (np.where(x[passed + 1] < x[passed], x[passed + 1], x[passed + 1] - 1) + 0.5) / FINE - 0.5
    row = np.ceil(np.clip((np.minimum(y[passed], y[passed + 1]) + 0.5) / FINE - 0.5, 0, height))
    inside = (np.floor(column) == column) & (column >= 0) & (column <= width - 1)
    bounds = np.sort((column[inside] * height + row[inside]).astype(np.int64))
    starts, ends = bounds[0::2], np.append(bounds, height * width)[1::2][: len(bounds[0::2])]
    return starts[ends > starts], ends[ends > starts]


def _walk(corners: NDArray[np.float64]) -> tuple[Ints, Ints]:
    """Steps (x and y) along the edges of a closed polygon ``[n, 2]``, corner to corner, both ends included.

    Each edge is walked in steps of its longer side, from its lesser end; rounding is towards zero, as C has it.
    """
    ends = np.roll(corners, -1, axis=0)
    sides = np.abs(ends - corners)
    steps = sides.max(axis=1)
    if not (np.isfinite(steps).all() and steps.sum() <= MOST_STEPS):
        raise ValueError("the polygon's corners are no pixels of an image")
    counts = steps.astype(np.int64) + 1
    edge = np.repeat(np.arange(len(counts)), counts)
    long = np.where(sides[:, 0] >= sides[:, 1], 0, 1)
    every = np.arange(len(counts))
    turned = corners[every, long] > ends[every, long]
    first, last = (np.where(turned[:, None], one, other) for one, other in ((ends, corners), (corners, ends)))
    slope = (last - first)[every, 1 - long] / np.maximum(steps, 1)
    step = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts)
    step = np.where(turned[edge], steps[edge] - step, step)
    along = step + first[edge, long[edge]]
    across = np.trunc(first[edge, 1 - long[edge]] + slope[edge] * step + 0.5)
    flat = long[edge] == 0
    x, y = np.where(flat, along, across), np.where(flat, across, along)
    return x.astype(np.int64), y.astype(np.int64)


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
        return box_from_runs(runs_of_text(counts) if isinstance(counts, str) else counts, (height, width))
    return box_from_polygons(segmentation)


def box_from_polygons(polygons: Sequence[Sequence[float]]) -> list[float]:
    """Box around the corners of polygons, each ``[x, y, x, y, …]``.

    Raises:
        ValueError: No polygon, or one with fewer than three corners or half a corner.
    """
    if not isinstance(polygons, list) or not all(isinstance(one, list | tuple | array) for one in polygons):
        raise ValueError("a segmentation that is no list of polygons, each a list of numbers")
    if not polygons or any(len(polygon) < 6 or len(polygon) % 2 for polygon in polygons):
        raise ValueError("a polygon needs three corners of two numbers each")
    corners = np.concatenate([np.asarray(polygon, dtype=np.float64).reshape(-1, 2) for polygon in polygons])
    return [*corners.min(axis=0).tolist(), *corners.max(axis=0).tolist()]


def box_from_runs(counts: Sequence[int], size_hw: tuple[int, int]) -> list[float]:
    """Box of a mask given as run lengths, column by column, background first.

    Zeros around no pixel: without area, so that the check tells of it and training leaves it out.

    Raises:
        ValueError: The runs are negative, or not as many pixels as the image has.
    """
    height, width = size_hw
    lengths = np.asarray(counts, dtype=np.int64)
    total = int(lengths.sum())
    if (lengths < 0).any() or total != height * width:
        raise ValueError(f"run lengths of {total} pixels for an image of {height * width}")
    starts, ends = spans_of_runs(lengths)
    return box_of_spans((starts[ends > starts], ends[ends > starts]), height)
