"""The filters of image processors along one axis, as tables of taps.

``bicubic`` and ``bilinear`` follow Pillow's resampling (antialiased: the filter widens with the scale; taps
outside the image are dropped and the rest sums to 1). ``zoom`` follows OWLv2's processor, which calls scipy:
where the image shrinks, a gaussian blur of sigma (scale - 1) / 2, cut at 4 sigma; then linear interpolation;
both mirror at the border without repeating the edge pixel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

GAUSSIAN_CUT = 4.0
"""scipy's default ``truncate``: sigmas at which the kernel ends."""


@dataclass(frozen=True)
class ResampleWeights:
    """Which source pixels make each output pixel.

    Attributes:
        starts: int64 ``[n]``, first source pixel of each output pixel.
        weights: float32 ``[n, K]``, weights of the K source pixels from there on; trailing ones may be 0.
    """

    starts: Ints
    weights: NDArray[np.float32]

    def dense(self, length: int) -> NDArray[np.float32]:
        """As a matrix float32 ``[n, length]``; taps on source pixels beyond ``length`` are dropped."""
        count, width = self.weights.shape
        matrix = np.zeros((count, max(length, int(self.starts.max()) + width)), dtype=np.float32)
        columns = self.starts[:, None] + np.arange(width)
        matrix[np.arange(count)[:, None], columns] = self.weights
        return np.ascontiguousarray(matrix[:, :length])


def resample_weights(source: int, target: int, resample: str) -> ResampleWeights:
    """The taps that resize one axis of a (padded) source, in pixels, by ``bicubic``, ``bilinear`` or ``zoom``."""
    if resample == "zoom":
        return _zoom_taps(source, target)
    return _pillow_taps(source, target, *PILLOW_KERNELS[resample])


def _bilinear(x: Floats) -> Floats:
    weights: Floats = np.maximum(1 - np.abs(x), 0.0)
    return weights


def _bicubic(x: Floats) -> Floats:
    """Keys' cubic with a = -0.5, Pillow's choice."""
    a, x = -0.5, np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


PILLOW_KERNELS: dict[str, tuple[Callable[[Floats], Floats], float]] = {
    "bilinear": (_bilinear, 1.0),
    "bicubic": (_bicubic, 2.0),
}
"""Kernel and its support in output pixels."""


def _pillow_taps(source: int, target: int, kernel: Callable[[Floats], Floats], support: float) -> ResampleWeights:
    scale = source / target
    stretch = max(scale, 1.0)
    centres = (np.arange(target) + 0.5) * scale
    # Pillow truncates towards zero after adding a half; negative starts are cut to 0 either way.
    starts = np.clip((centres - support * stretch + 0.5).astype(np.int64), 0, None)
    ends = np.minimum((centres + support * stretch + 0.5).astype(np.int64), source)
    pixels = starts[:, None] + np.arange((ends - starts).max())
    weights = kernel((pixels - centres[:, None] + 0.5) / stretch)
    weights[pixels >= ends[:, None]] = 0
    return ResampleWeights(starts, (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32))


def _mirrored(pixels: Ints, length: int) -> Ints:
    """Fold positions into 0 … length - 1; the edge pixel is not repeated: d c b | a b c d | c b a."""
    if length == 1:
        return np.zeros_like(pixels)
    folded = np.abs(pixels) % (2 * length - 2)
    mirrored: Ints = np.minimum(folded, 2 * length - 2 - folded)
    return mirrored


def _zoom_taps(source: int, target: int) -> ResampleWeights:
    scale = source / target
    centers = (np.arange(target) + 0.5) * scale - 0.5
    floors = np.floor(centers).astype(np.int64)
    shares = centers - floors
    blur = _gaussian(max(0.0, (scale - 1) / 2))
    reach = len(blur) // 2
    ends = _mirrored(floors[:, None] + np.arange(2), source)
    pixels = _mirrored(ends[:, :, None] + np.arange(-reach, reach + 1), source).reshape(target, -1)
    weights = (np.stack([1 - shares, shares], axis=1)[:, :, None] * blur).reshape(target, -1)
    return _gathered(pixels, weights)


def _gaussian(sigma: float) -> Floats:
    """Return scipy's discrete kernel ``[2 r + 1]``; a single 1 where sigma is 0."""
    radius = int(GAUSSIAN_CUT * sigma + 0.5)
    if radius == 0:
        return np.ones(1)
    kernel: Floats = np.exp(-0.5 / (sigma * sigma) * np.arange(-radius, radius + 1) ** 2)
    kernel /= kernel.sum()
    return kernel


def _gathered(pixels: Ints, weights: Floats) -> ResampleWeights:
    """Sum the weights that fall on one pixel and lay them out from the first pixel on."""
    starts = pixels.min(axis=1)
    offsets = pixels - starts[:, None]
    summed = np.zeros((len(starts), int(offsets.max()) + 1))
    np.add.at(summed, (np.arange(len(starts))[:, None], offsets), weights)
    return ResampleWeights(starts, summed.astype(np.float32))
