"""What is said of a picture on which next to nothing can be seen: what was read wrong often ends up as one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

SHARE = 0.99
"""Warned from this share of samples on: what black borders and white slides surround is more than 1 %."""

DARK, BRIGHT = 8, 247
"""Samples below the one look black, above the other white."""

MANY = 64 * 64
"""A picture of fewer pixels may well be of one colour."""

_PIECE = 1 << 20
"""Samples compared at a time."""


def remarks_on_shown(pixels: NDArray[np.uint8]) -> Iterator[str]:
    """Warn where ``SHARE`` of the samples is below ``DARK`` or above ``BRIGHT``, or ``MANY`` pixels and more are equal.

    Args:
        pixels: What the detector is shown, uint8 ``[H, W, 3]``.
    """
    found = _emptiness(pixels)
    if found:
        yield (
            f"next to nothing can be seen in what was shown: {found}. A window that does not fit, values that fill a "
            "small part of their range, or an empty picture are likely: look at it before you trust the result"
        )


def _emptiness(pixels: NDArray[np.uint8]) -> str:
    rows = max(1, _PIECE // max(1, pixels[0].size))
    pieces = [pixels[start : start + rows] for start in range(0, len(pixels), rows)]
    least = SHARE * pixels.size
    if sum(np.count_nonzero(piece < DARK) for piece in pieces) >= least:
        return f"{SHARE:.0%} of it is black (below level {DARK})"
    if sum(np.count_nonzero(piece > BRIGHT) for piece in pieces) >= least:
        return f"{SHARE:.0%} of it is white (above level {BRIGHT})"
    if pixels.size >= 3 * MANY and all((piece == pixels[0, 0]).all() for piece in pieces):
        return "all pixels are equal"
    return ""
