"""Levels of more than 8 bits as 8: by what the file states, and where that cannot be by what it holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medprompt.core.errors import ImageError

CAMERA_BITS = (8, 10, 12, 14)
"""What cameras and scanners put into 16-bit files."""


def byte_levels(
    levels: NDArray[np.generic], path: Path, bits: int = 16, *, stretched: bool = False
) -> tuple[NDArray[np.uint8], list[str]]:
    """Levels 0 … 2^bits - 1 as 0 … 255, rounded: of 16 bits v / 257.

    A file that states 16 bits, and whose highest level fits into 8, 10, 12 or 14, is taken for one of the fewest that
    hold it.

    Args:
        levels: Whole numbers, of any shape.
        path: For the error.
        bits: Of a level, as the file states them.
        stretched: Whether the reader has stretched what the file states to 16 bits already.

    Returns:
        uint8 of the same shape, and what a reader should know.

    Raises:
        ImageError: A level is not within the bits.
    """
    lowest, highest = int(levels.min()), int(levels.max())
    if lowest < 0 or highest >= 1 << bits:
        raise ImageError(
            f"The image has grey levels of more than {bits} bits.",
            code="unsupported_pixels",
            where=str(path),
            expected=f"0 … {(1 << bits) - 1}",
            got=f"{lowest} … {highest}",
            fix="scale it to 8 or 16 bits first",
        )
    held = bits if bits != 16 or stretched else next((few for few in CAMERA_BITS if highest < 1 << few), bits)
    white = (1 << held) - 1
    wide = levels.astype(np.uint32)  # in place: of a whole slide each copy is a gigabyte
    wide *= 510
    wide += white
    wide //= 2 * white
    shown = wide.astype(np.uint8)
    if held == bits or not highest:
        return shown, []
    return shown, [f"levels up to {highest} in a 16-bit file: read as {held}-bit, {white} is white"]
