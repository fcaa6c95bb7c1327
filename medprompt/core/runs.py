"""Masks as run lengths, as COCO has them: column by column, background first, and no run but the first is empty.

Spans are the same by their ends: int64 ``starts`` and ``ends`` ``[S]`` of the mask's pixels, counted down the columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Spans = tuple[Ints, Ints]

_MORE, _SIGN, _FIRST = 32, 16, 48
"""Bits of a character of COCO's text: more characters follow, the last one is negative; and the character of 0."""


def spans_of_columns(columns: NDArray[np.bool_], height: int, top: int = 0, left: int = 0) -> Spans:
    """Spans of part of a mask, bool ``[w, h]``: its columns, which begin at ``top`` and ``left`` of ``height`` rows."""
    edges = np.diff(columns, axis=1, prepend=False, append=False)
    column, row = np.nonzero(edges)
    pixels = (column + left) * height + row + top
    return pixels[0::2], pixels[1::2]


def spans_of_runs(runs: Ints) -> Spans:
    """The spans of run lengths ``[R]``."""
    ends = np.cumsum(runs)
    return ends[0:-1:2], ends[1::2]


def runs_of_spans(spans: Spans, pixels: int) -> Ints:
    """Run lengths of spans of a mask of so many ``pixels``; they may overlap, touch, and come in any order."""
    order = np.argsort(spans[0], kind="stable")
    starts, ends = spans[0][order], np.maximum.accumulate(spans[1][order])
    apart = starts[1:] > ends[:-1]
    some = np.ones(min(len(starts), 1), dtype=bool)
    bounds = np.stack([starts[np.append(some, apart)], ends[np.append(apart, some)]], axis=1).ravel()
    runs = np.diff(bounds, prepend=0, append=pixels)
    return runs[:-1] if len(runs) > 1 and not runs[-1] else runs


def joined_spans(parts: Iterable[Spans]) -> Spans:
    """Those of all parts, in their order."""
    none = np.zeros(0, dtype=np.int64)
    sides = zip((none, none), *parts, strict=True)
    starts, ends = (np.concatenate(side) for side in sides)
    return starts, ends


def mask_of_runs(runs: Ints, size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """Bool ``[H, W]``."""
    height, width = size_hw
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def split_spans(spans: Spans, height: int) -> tuple[Ints, Ints, Ints]:
    """Spans that stay within a column each: column, first row and end row of every piece, int64 ``[S']``."""
    starts, ends = spans
    first, last = starts // height, (ends - 1) // height
    pieces = last - first + 1
    column = np.repeat(first, pieces) + np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    top = np.maximum(np.repeat(starts, pieces) - column * height, 0)
    return column, top, np.minimum(np.repeat(ends, pieces) - column * height, height)


def box_of_spans(spans: Spans, height: int) -> list[float]:
    """Left, top, right, bottom of the pixels, right and bottom exclusive; zeros where there is none."""
    if not len(spans[0]):
        return [0.0] * 4
    column, top, bottom = split_spans(spans, height)
    return [float(side) for side in (column.min(), top.min(), column.max() + 1, bottom.max())]


def shared_pixels(asked: Spans, others: Sequence[Spans]) -> Iterator[int]:
    """How many pixels a mask shares with each of others."""
    for starts, ends in others:
        ink = np.cumsum(ends - starts)
        bounds = np.stack([starts, ends], axis=1).ravel()
        filled = np.stack([ink - (ends - starts), ink], axis=1).ravel()  # the mask's pixels before each bound
        inside = np.interp(asked[1], bounds, filled) - np.interp(asked[0], bounds, filled) if len(starts) else 0.0
        yield int(np.sum(inside))


def text_of_runs(runs: Ints) -> str:
    """COCO's text of run lengths: five bits a character, see ``runs_of_text``."""
    values = runs.copy()
    values[3:] -= runs[1:-2]
    return "".join(map(_characters, values.tolist()))


def _characters(value: int) -> str:
    text = ""
    while True:
        bits, value = value & 31, value >> 5
        ends = value == (-1 if bits & _SIGN else 0)
        text += chr(_FIRST + bits + (0 if ends else _MORE))
        if ends:
            return text


def runs_of_text(text: str) -> list[int]:
    """Unpack COCO's text of run lengths: 5 bits a character, from 48 on, bit 6 says that more follow.

    From the fourth number on, each is the difference from the last but one. As in cocoapi's ``rleFrString``.

    Raises:
        ValueError: A character that does not belong there, or the text breaks off.
    """
    runs: list[int] = []
    value, shift = 0, 0
    for character in text:
        bits = ord(character) - _FIRST
        if not 0 <= bits < 64:
            raise ValueError(f"{character!r} in the run lengths")
        value |= (bits & 31) << shift
        shift += 5
        if bits & _MORE:
            continue
        if bits & _SIGN:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value, shift = 0, 0
    if shift:
        raise ValueError("the run lengths break off")
    return runs
