"""What an image looks like in a few numbers: size, colour, exposure, sharpness, noise. Numpy alone, cheap."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

MAX_PIXELS = 1 << 17
"""Larger images are looked at in ``TILES`` x ``TILES`` pieces at their own scale: a smaller copy has another noise."""

TILES, TILE = 4, 88
"""Pieces each way, and their side: a multiple of ``BLOCK``, so that blocks stay where they are."""

BLOCK = 8
"""Side of the blocks that JPEG compresses."""

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""Weights of red, green and blue in brightness (ITU-R BT.601)."""

DARK, BRIGHT = 5, 250
"""Levels up to and from which a pixel counts as clipped."""

LEAST = 0.01
"""Of what is divided by, in levels: a plain image has no detail."""

IMAGE_STATISTICS: Mapping[str, str] = MappingProxyType(
    {
        "width": "px",
        "height": "px",
        "brightness": "level",
        "contrast": "level",
        "darkest 5 %": "level",
        "brightest 5 %": "level",
        "clipped dark": "%",
        "clipped bright": "%",
        "red share": "%",
        "blue share": "%",
        "saturation": "level",
        "red share of dark parts": "%",
        "blue share of dark parts": "%",
        "edges": "level",
        "fine detail": "ratio",
        "middle detail": "ratio",
        "noise": "level",
        "block edges": "ratio",
    }
)
"""Names and units, in order. Levels are 0 … 255."""


def image_statistics(image_rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Describe an image, uint8 ``[H, W, 3]``, by float64 ``[F]`` in the order of ``IMAGE_STATISTICS``.

    ``fine detail`` are differences between neighbouring pixels over those between means of 2 x 2, and ``middle detail``
    those over differences between means of 4 x 4: blur, magnification and resizing change them. ``noise`` is robust
    against edges (the median of the mask of Immerkaer, Fast Noise Variance Estimation, 1996). ``block edges`` are steps
    at the borders of JPEG's blocks over the other ones; 1 without any. Dark parts are the darkest quarter.
    """
    height, width = image_rgb.shape[:2]
    tiles = _tiles(image_rgb)
    luma = tiles.astype(np.float32) @ LUMA
    levels = luma.round().astype(np.uint8)
    dark, low, quarter, high, bright = _cuts(levels)
    half = _halved(luma)
    steps, half_steps, quarter_steps = _step(luma), _step(half), _step(_halved(half))
    return np.array(
        [
            width,
            height,
            luma.mean(),
            luma.std(),
            low,
            high,
            100 * dark,
            100 * bright,
            *_colour(tiles.reshape(-1, 3)),
            (tiles.max(axis=-1) - tiles.min(axis=-1)).mean(),
            *_colour(tiles[levels <= quarter]),
            steps,
            (steps + LEAST) / (half_steps + LEAST),
            (half_steps + LEAST) / (quarter_steps + LEAST),
            _noise(luma),
            _block_edges(luma),
        ],
        dtype=np.float64,
    )


def _tiles(image_rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image as one tile ``[1, H, W, 3]``, or evenly spaced pieces of a large one ``[T, h, w, 3]``."""
    height, width = image_rgb.shape[:2]
    if height * width <= MAX_PIXELS:
        return image_rgb[None]
    sides = min(height, TILE), min(width, TILE)
    tops, lefts = (
        sorted({int(start) // BLOCK * BLOCK for start in np.linspace(0, whole - side, TILES)})
        for whole, side in zip((height, width), sides, strict=True)
    )
    return np.stack([image_rgb[top : top + sides[0], left : left + sides[1]] for top in tops for left in lefts])


def _cuts(levels: NDArray[np.uint8]) -> tuple[float, ...]:
    """Share of clipped dark pixels; the levels that 5, 25 and 95 % do not exceed; share of clipped bright pixels."""
    shares = np.cumsum(np.bincount(levels.ravel(), minlength=256)) / levels.size
    cuts = (float(np.searchsorted(shares, cut)) for cut in (0.05, 0.25, 0.95))
    return (float(shares[DARK]), *cuts, float(1 - shares[BRIGHT - 1]))


def _colour(pixels: NDArray[np.uint8]) -> tuple[float, float]:
    """Red's and blue's share of the light, in percent."""
    red, green, blue = (float(value) for value in pixels.mean(axis=0, dtype=np.float64))
    light = max(red + green + blue, LEAST)
    return 100 * red / light, 100 * blue / light


def _halved(luma: Floats) -> Floats:
    """Means of 2 x 2 pixels; an odd last row or column is left out."""
    height, width = (max(side // 2, 1) * 2 for side in luma.shape[1:])
    even = luma[:, :height, :width]
    rows = even[:, 0::2] + even[:, 1::2] if luma.shape[1] > 1 else 2 * even
    return np.asarray((rows[..., 0::2] + rows[..., 1::2] if luma.shape[2] > 1 else 2 * rows) / 4, dtype=np.float32)


def _step(luma: Floats) -> float:
    """Mean difference between neighbours, over both directions."""
    differences = [np.abs(np.diff(luma, axis=axis)) for axis in (1, 2)]
    return float(np.mean([one.mean() if one.size else 0.0 for one in differences]))


def _noise(luma: Floats) -> float:
    """Standard deviation of noise, from a mask that lines and slopes do not answer."""
    if min(luma.shape[1:]) < 3:
        return 0.0
    rows = luma[:, :-2] - 2 * luma[:, 1:-1] + luma[:, 2:]
    mask = rows[..., :-2] - 2 * rows[..., 1:-1] + rows[..., 2:]
    return float(np.median(np.abs(mask)) / (6 * 0.6745))  # 6: the mask's norm; 0.6745: a normal's median deviation


def _block_edges(luma: Floats) -> float:
    """Steps across the borders of blocks over steps elsewhere, both directions."""
    ratios = []
    for axis in (1, 2):
        steps = np.abs(np.diff(luma, axis=axis)).mean(axis=(0, 3 - axis)) if luma.shape[axis] > BLOCK else np.zeros(0)
        border = np.arange(len(steps)) % BLOCK == BLOCK - 1
        if border.any():
            ratios.append((steps[border].mean() + LEAST) / (steps[~border].mean() + LEAST))
    return float(np.mean(ratios)) if ratios else 1.0
