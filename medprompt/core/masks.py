"""Masks of objects, kept as run lengths and decoded one at a time: a hundred masks of a slide are a few kilobytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from medprompt.core.boxes import intersection_matrix
from medprompt.core.runs import (
    Ints,
    Spans,
    box_of_spans,
    joined_spans,
    mask_of_runs,
    runs_of_spans,
    runs_of_text,
    shared_pixels,
    spans_of_columns,
    spans_of_runs,
    split_spans,
    text_of_runs,
)


@dataclass(frozen=True, eq=False, repr=False)
class Masks:
    """Masks of one image.

    Iterating, and an index that is a number, give a mask, bool ``[H, W]``; a slice, a mask or an array of indices give
    ``Masks``. Equal are those of equal pixels and size; they have no hash.

    Attributes:
        runs: Of each mask its run lengths, see ``medprompt.core.runs``.
        size_hw: Height and width of every mask in pixels.

    Raises:
        ValueError: Run lengths that do not fill the mask.
    """

    runs: tuple[Ints, ...]
    size_hw: tuple[int, int]

    __hash__ = None  # type: ignore[assignment]  # equality looks into arrays, which can change

    def __post_init__(self) -> None:
        pixels = self.size_hw[0] * self.size_hw[1]
        for runs in self.runs:
            if (runs < 0).any() or runs.sum() != pixels:
                raise ValueError(f"run lengths of {runs.sum()} pixels for a mask of {pixels}")

    @classmethod
    def of(cls, masks: NDArray[np.bool_]) -> Masks:
        """Of arrays, bool ``[N, H, W]``."""
        _, height, width = masks.shape
        return cls.of_spans([spans_of_columns(mask.T, height) for mask in masks], (height, width))

    @classmethod
    def of_spans(cls, spans: Iterable[Spans], size_hw: tuple[int, int]) -> Masks:
        """Of the pixels of each, see ``medprompt.core.runs``; spans may overlap."""
        pixels = size_hw[0] * size_hw[1]
        return cls(tuple(runs_of_spans(one, pixels) for one in spans), size_hw)

    @classmethod
    def of_boxes(cls, boxes_xyxy: NDArray[np.integer[Any]], size_hw: tuple[int, int]) -> Masks:
        """Of filled boxes, ``[N, 4]`` in whole pixels within the image."""
        spans = []
        for left, top, right, bottom in boxes_xyxy.tolist():
            columns = np.arange(left, right, dtype=np.int64) * size_hw[0]
            spans.append((columns + top, columns + bottom))
        return cls.of_spans(spans, size_hw)

    @classmethod
    def of_rle(cls, masks: Sequence[Mapping[str, Any]], size_hw: tuple[int, int]) -> Masks:
        """Of COCO's run length encodings: ``{"size": [h, w], "counts": text or numbers}`` each.

        Raises:
            ValueError: One is of another size, or cannot be read.
        """
        return cls.of_spans([_spans_of_rle(one, size_hw) for one in masks], size_hw)

    @classmethod
    def joined(cls, parts: Sequence[Masks], size_hw: tuple[int, int]) -> Masks:
        """Those of several, one after the other, all of this size."""
        return cls(tuple(runs for part in parts for runs in part.runs), size_hw)

    def __len__(self) -> int:
        return len(self.runs)

    def __iter__(self) -> Iterator[NDArray[np.bool_]]:
        return (mask_of_runs(runs, self.size_hw) for runs in self.runs)

    @overload
    def __getitem__(self, index: int | np.integer[Any]) -> NDArray[np.bool_]: ...
    @overload
    def __getitem__(self, index: NDArray[np.bool_] | NDArray[np.integer[Any]] | slice | Sequence[int]) -> Masks: ...
    def __getitem__(self, index: Any) -> NDArray[np.bool_] | Masks:
        """One mask decoded by its number, or several by mask, index array or slice."""
        if isinstance(index, int | np.integer):
            return mask_of_runs(self.runs[index], self.size_hw)
        rows = np.arange(len(self))[index if isinstance(index, slice) or len(index) else slice(0)]
        return Masks(tuple(self.runs[row] for row in rows), self.size_hw)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Masks):
            return NotImplemented
        return (self.size_hw, len(self)) == (other.size_hw, len(other)) and all(
            map(np.array_equal, self.runs, other.runs)
        )

    def __repr__(self) -> str:
        return f"<{len(self)} masks of {self.size_hw[1]} x {self.size_hw[0]} pixels>"

    def part(self, index: int | np.integer[Any]) -> tuple[tuple[int, int], NDArray[np.bool_]]:
        """The pixels within one mask's box, bool ``[h, w]``, and their top and left: without the rest of a slide."""
        left, top, right, bottom = self.boxes_xyxy[index].astype(np.int64).tolist()
        column, first, end = split_spans(self.spans[index], self.size_hw[0])
        start = (column - left) * (bottom - top) - top
        size_hw = bottom - top, right - left
        return (top, left), mask_of_runs(runs_of_spans((start + first, start + end), size_hw[0] * size_hw[1]), size_hw)

    def rle(self, index: int | np.integer[Any]) -> dict[str, Any]:
        """One mask as COCO's run length encoding, which pycocotools reads: ``size`` ``[h, w]``, ``counts`` as text."""
        return {"size": [int(side) for side in self.size_hw], "counts": text_of_runs(self.runs[index])}

    @cached_property
    def spans(self) -> tuple[Spans, ...]:
        """The pixels of each, see ``medprompt.core.runs``."""
        return tuple(map(spans_of_runs, self.runs))

    @cached_property
    def areas(self) -> Ints:
        """Pixels of each: int64 ``[N]``."""
        return np.array([runs[1::2].sum() for runs in self.runs], dtype=np.int64)

    @cached_property
    def boxes_xyxy(self) -> NDArray[np.float64]:
        """Boxes around them: float64 ``[N, 4]``, right and bottom exclusive; zeros around nothing."""
        boxes = [box_of_spans(one, self.size_hw[0]) for one in self.spans]
        return np.array(boxes, dtype=np.float64).reshape(-1, 4)

    def intersections(self, other: Masks) -> NDArray[np.float64]:
        """Pixels ``[N, M]`` that each shares with each of another's, of the same size.

        Raises:
            ValueError: They are of another size.
        """
        if self.size_hw != other.size_hw:
            raise ValueError(f"masks of {self.size_hw} and {other.size_hw} pixels cannot be compared")
        shared = intersection_matrix(self.boxes_xyxy, other.boxes_xyxy).astype(np.float64)
        for row, asked in enumerate(self.spans):
            near = np.flatnonzero(shared[row])
            shared[row, near] = list(shared_pixels(asked, [other.spans[column] for column in near]))
        return shared

    def ious(self, other: Masks) -> NDArray[np.float64]:
        """Intersection over union ``[N, M]`` with each of another's; 0 where both are empty.

        Raises:
            ValueError: They are of another size.
        """
        shared = self.intersections(other)
        union = self.areas[:, None] + other.areas[None, :] - shared
        return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)

    def placed(self, top: int, left: int, size_hw: tuple[int, int]) -> Masks:
        """The same masks in an image of ``size_hw`` that these are a part of, from row ``top`` and column ``left`` on.

        Raises:
            ValueError: The part does not lie in the image.
        """
        (height, width), (rows, columns) = size_hw, self.size_hw
        if not (0 <= top <= height - rows and 0 <= left <= width - columns):
            raise ValueError(f"a part of {rows} x {columns} at {top}, {left} is not within {height} x {width}")
        return Masks.of_spans((_moved(one, rows, top, left, height) for one in self.spans), size_hw)

    def united(self, groups: Sequence[Sequence[int]]) -> Masks:
        """One mask a group of numbers: all pixels of any of them."""
        spans = (joined_spans(self.spans[index] for index in group) for group in groups)
        return Masks.of_spans(spans, self.size_hw)


def _moved(spans: Spans, rows: int, top: int, left: int, height: int) -> Spans:
    column, first, end = split_spans(spans, rows)
    start = (column + left) * height + top
    return start + first, start + end


def _spans_of_rle(rle: Mapping[str, Any], size_hw: tuple[int, int]) -> Spans:
    height, width = (int(side) for side in rle["size"])
    if (height, width) != tuple(size_hw):
        raise ValueError(f"run lengths of a {[height, width]} mask for a {list(size_hw)} image")
    counts = rle["counts"]
    counts = counts.decode("ascii") if isinstance(counts, bytes) else counts
    runs = runs_of_text(counts) if isinstance(counts, str) else [int(run) for run in counts]
    if min(runs, default=0) < 0 or sum(runs) != height * width:
        raise ValueError(f"run lengths of {sum(runs)} pixels for an image of {height * width}")
    starts, ends = spans_of_runs(np.array(runs, dtype=np.int64))
    return starts[ends > starts], ends[ends > starts]
