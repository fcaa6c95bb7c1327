"""What colours an NV12 picture means: luma, and chroma that the four pixels of a 2 x 2 block share."""

from __future__ import annotations

from typing import Literal, NamedTuple

from medprompt.video.upright import MAX_SD_LINES

Matrix = Literal["bt601", "bt709"]

BITS = 16
"""Fraction bits of the factors."""

SHARES: dict[Matrix, tuple[float, float]] = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}
"""How much red and blue weigh in luma (ITU-R BT.601, BT.709)."""


class Nv12Colours(NamedTuple):
    """Whole numbers that make RGB of luma Y and chroma U, V, in 8 bits.

    ``red = luma * (Y - black) + red_v * (V - 128)`` and so on, plus a half, shifted by ``BITS``, clipped to 0 … 255.
    """

    black: int
    luma: int
    red_v: int
    green_u: int
    green_v: int
    blue_u: int


def nv12_colours(matrix: Matrix, *, full_range: bool = False) -> Nv12Colours:
    """Colours by the matrix that the decoder says; ``full_range`` where luma is 0 … 255 and not 16 … 235."""
    red, blue = SHARES[matrix]
    green = 1 - red - blue
    luma, chroma = (1.0, 1.0) if full_range else (255 / 219, 255 / 224)
    factors = (
        luma,
        2 * (1 - red) * chroma,
        -2 * (1 - blue) * blue / green * chroma,
        -2 * (1 - red) * red / green * chroma,
        2 * (1 - blue) * chroma,
    )
    return Nv12Colours(0 if full_range else 16, *(round(factor * (1 << BITS)) for factor in factors))


def colours_of_height(height: int) -> Nv12Colours:
    """Where the decoder says nothing: limited range, BT.709 above ``MAX_SD_LINES`` lines and BT.601 below."""
    return nv12_colours("bt709" if height > MAX_SD_LINES else "bt601")
