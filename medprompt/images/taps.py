"""A resize by tables of taps, with numpy: the columns, then the rows, each rounded as the tables say.

Whole weights are summed exactly, in floating point so that matrix products do it: 128 is taken off every pixel, and
then float32 holds the sums of all but extreme scales to the last unit (float64 holds the rest).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medprompt.images.resampling import ResampleWeights

MIDDLE = 128
"""Taken off a pixel, it halves the largest sum."""

BLOCK = 8
"""Output pixels made by one small matrix product: of 4 … 32, this took the least CPU time on 4K sources."""

Levels = NDArray[Any]
"""float32, or float64 where that is needed."""


@dataclass(frozen=True)
class _Block:
    """Neighbouring output pixels of one axis, as one small matrix over the source pixels they need."""

    target: slice
    source: slice
    matrix: Levels


@dataclass(frozen=True)
class AxisPass:
    """One axis, ready to be computed.

    Attributes:
        size: Output pixels.
        blocks: Those of them that the source reaches; of columns they act on interleaved channels.
        bias: Of each output pixel: what makes a shift of its sum round halves up; None where sums are not rounded.
        bits: See ``ResampleWeights``.
    """

    size: int
    blocks: tuple[_Block, ...]
    bias: Levels | None
    bits: int | None


def axis_pass(taps: ResampleWeights, length: int, *, interleaved: bool) -> AxisPass:
    """Cut an axis into blocks; ``length`` is the source's own, without the padding behind it."""
    weights = taps.weights.astype(np.float64)
    bias = None
    if taps.bits is not None:
        bias = (1 << taps.bits >> 1) + MIDDLE * (weights.sum(axis=1) - (1 << taps.bits))
    exact = bias is None or MIDDLE * np.abs(weights).sum(axis=1).max() + np.abs(bias).max() <= 2**24
    kind = np.float32 if exact else np.float64
    blocks = tuple(_blocks(taps.starts, weights.astype(kind), length))
    if interleaved:
        blocks = tuple(_Block(_thrice(one.target), _thrice(one.source), _interleaved(one.matrix.T)) for one in blocks)
        bias = None if bias is None else np.repeat(bias, 3)
    return AxisPass(len(weights), blocks, None if bias is None else bias.astype(kind), taps.bits)


def _blocks(starts: NDArray[np.int64], weights: Levels, length: int) -> Iterator[_Block]:
    """Blocks whose source lies in the padding are left out, for they are zero."""
    width = weights.shape[1]
    for begin in range(0, len(starts), BLOCK):
        part = slice(begin, min(begin + BLOCK, len(starts)))
        first = int(starts[part].min())
        last = min(int(starts[part].max()) + width, length)
        if first < last:
            matrix = np.zeros((part.stop - begin, int(starts[part].max()) + width - first), dtype=weights.dtype)
            columns = starts[part, None] - first + np.arange(width)
            matrix[np.arange(len(matrix))[:, None], columns] = weights[part]
            yield _Block(part, slice(first, last), np.ascontiguousarray(matrix[:, : last - first]))


def _thrice(part: slice) -> slice:
    return slice(3 * part.start, 3 * part.stop)


def _interleaved(matrix: Levels) -> Levels:
    """``[k, m]`` for one channel to ``[3 k, 3 m]`` for pixels of three interleaved channels."""
    wide = np.zeros((3 * matrix.shape[0], 3 * matrix.shape[1]), dtype=matrix.dtype)
    for channel in range(3):
        wide[channel::3, channel::3] = matrix
    return wide


def resize_by_taps(
    image_rgb: NDArray[np.uint8], rows: AxisPass, cols: AxisPass, pad_value: float = 0.0
) -> NDArray[np.float32]:
    """Resize uint8 ``[H, W, 3]``, whose border to the right and below is of ``pad_value``.

    Returns:
        float32 ``[h, w, 3]`` in 0 … 255: whole numbers where the passes round.
    """
    zero = np.float32(pad_value if cols.bits is None else MIDDLE)
    flat = image_rgb.reshape(image_rgb.shape[0], -1)
    wide = _empty((len(flat), 3 * cols.size), cols)
    for block in cols.blocks:
        part = np.subtract(flat[:, block.source], zero, dtype=block.matrix.dtype)
        np.matmul(part, block.matrix, out=wide[:, block.target])
    _round(wide, cols.bias, cols.bits)
    resized = _empty((rows.size, wide.shape[1]), rows)
    for block in rows.blocks:
        np.matmul(block.matrix, wide[block.source], out=resized[block.target], casting="same_kind")
    _round(resized, None if rows.bias is None else rows.bias[:, None], rows.bits)
    resized += zero
    return resized.astype(np.float32, copy=False).reshape(rows.size, cols.size, 3)


def _empty(shape: tuple[int, int], axis: AxisPass) -> Levels:
    return np.zeros(shape, dtype=axis.blocks[0].matrix.dtype)


def _round(sums: Levels, bias: Levels | None, bits: int | None) -> None:
    """Shift whole sums to levels less ``MIDDLE``, halves up, clipped to what uint8 holds; in place."""
    if bits is None:
        return
    sums += bias
    sums *= 2.0**-bits
    np.floor(sums, out=sums)
    np.clip(sums, -MIDDLE, MIDDLE - 1, out=sums)
