"""An image as the detector takes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_PIXELS = 250_000_000
"""A larger image is refused before it is decoded: a small file can claim a size that fills the memory."""

MAX_INFLATED = 2 * 1024**3
"""Bytes that a deflated DICOM file may inflate to; a thousandth of them can be the file."""


@dataclass(frozen=True)
class Picture:
    """An image as the detector takes it, and how it was made.

    Attributes:
        pixels: uint8 ``[H, W, 3]`` RGB.
        warnings: What a reader of the results should know.
        dicom: How a DICOM frame became these pixels, as JSON values; None for other files.
    """

    pixels: NDArray[np.uint8]
    warnings: tuple[str, ...] = ()
    dicom: dict[str, Any] | None = None
