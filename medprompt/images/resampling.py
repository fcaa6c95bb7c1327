"""The filters of image processors along one axis, as tables of taps, and how their sums are rounded.

``bicubic``, ``bilinear`` and ``lanczos`` are antialiased: the filter widens with the scale; taps outside the image are
dropped and the rest sums to 1. Pillow and torchvision share these taps and part in their whole numbers: Pillow keeps 22
bits of each weight, torchvision (that is, ATen on uint8 on a CPU) as many as let the largest weight of the axis fit
into 16. Both add a half, shift and clip to 0 … 255 after each axis.

``nearest`` takes one pixel. ``zoom`` is OWLv2's, in floating point: where the image shrinks, a gaussian blur of sigma
(scale - 1) / 2; then linear interpolation. Its processor on Pillow calls scipy (blur cut at 4 sigma; both mirror at the
border without repeating the edge pixel), the one on torchvision cuts at 3 sigma and interpolates up to the edge.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Backend = Literal["pillow", "torchvision"]

GAUSSIAN_CUT = 4.0
"""scipy's default ``truncate``: sigmas at which the kernel ends."""

PILLOW_BITS = 22
"""Fraction bits of Pillow's weights: 32, less 8 of the pixel and 2 for filters that overshoot (Resample.c)."""

TORCHVISION_BITS = 15
"""Bits of the largest weight of an axis, sign apart, and so what its precision follows (UpSampleKernel.cpp)."""


@dataclass(frozen=True)
class ResampleWeights:
    """Which source pixels make each output pixel of one axis, and how their weighted sum is rounded.

    Attributes:
        starts: int64 ``[n]``, first source pixel of each output pixel.
        weights: ``[n, K]``, weights of the K source pixels from there on; trailing ones may be 0. float32 that sum to
            1, or with ``bits`` int32 that sum to ``2 ** bits``, give or take their rounding.
        bits: Fraction bits of whole weights: the output is ``(sum + (1 << bits >> 1)) >> bits``, clipped to 0 … 255,
            before the other axis follows. None: the sum is not rounded.
    """

    starts: Ints
    weights: NDArray[np.float32] | NDArray[np.int32]
    bits: int | None = None

    def dense(self, length: int) -> NDArray[np.float32]:
        """As a matrix float32 ``[n, length]`` of shares; taps on source pixels beyond ``length`` are dropped."""
        count, width = self.weights.shape
        matrix = np.zeros((count, max(length, int(self.starts.max()) + width)), dtype=np.float32)
        columns = self.starts[:, None] + np.arange(width)
        matrix[np.arange(count)[:, None], columns] = self.weights * 2.0 ** -(self.bits or 0)
        return np.ascontiguousarray(matrix[:, :length])


def resample_weights(source: int, target: int, resample: str, backend: Backend = "pillow") -> ResampleWeights:
    """The taps that resize one axis of a (padded) source, in pixels.

    Args:
        source: Pixels of the source.
        target: Pixels of the output.
        resample: ``bicubic``, ``bilinear``, ``lanczos``, ``nearest`` or ``zoom``.
        backend: Whose resize it is; with ``zoom``, of which OWLv2 processor.
    """
    if resample == "zoom":
        return _zoom_taps(source, target, backend)
    if resample == "nearest":
        return _nearest_taps(source, target, backend)
    starts, weights = _antialiased_taps(source, target, *KERNELS[resample])
    return _whole(starts, weights, PILLOW_BITS if backend == "pillow" else _torchvision_bits(weights))


def _bilinear(x: Floats) -> Floats:
    weights: Floats = np.maximum(1 - np.abs(x), 0.0)
    return weights


def _bicubic(x: Floats) -> Floats:
    """Keys' cubic with a = -0.5, which both backends take where they antialias."""
    a, x = -0.5, np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _lanczos(x: Floats) -> Floats:
    return np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0.0)


KERNELS: dict[str, tuple[Callable[[Floats], Floats], float]] = {
    "bilinear": (_bilinear, 1.0),
    "bicubic": (_bicubic, 2.0),
    "lanczos": (_lanczos, 3.0),
}
"""Kernel and its support in output pixels."""


def _antialiased_taps(
    source: int, target: int, kernel: Callable[[Floats], Floats], support: float
) -> tuple[Ints, Floats]:
    scale = source / target
    stretch = max(scale, 1.0)
    centres = (np.arange(target) + 0.5) * scale
    # Truncated towards zero after adding a half; negative starts are cut to 0 either way.
    starts = np.clip((centres - support * stretch + 0.5).astype(np.int64), 0, None)
    ends = np.minimum((centres + support * stretch + 0.5).astype(np.int64), source)
    pixels = starts[:, None] + np.arange((ends - starts).max())
    # A product with the inverse and a sum in order, as both libraries compute them: the last bit decides roundings.
    weights = kernel((pixels - centres[:, None] + 0.5) * (1 / stretch))
    weights[pixels >= ends[:, None]] = 0
    return starts, weights / np.cumsum(weights, axis=1)[:, -1:]


def _torchvision_bits(weights: Floats) -> int:
    largest = weights.max()
    return next(bits for bits in range(PILLOW_BITS + 1) if bits == PILLOW_BITS or _fills(largest, bits + 1))


def _fills(weight: float, bits: int) -> bool:
    return int(0.5 + weight * (1 << bits)) >= 1 << TORCHVISION_BITS


def _whole(starts: Ints, weights: Floats, bits: int) -> ResampleWeights:
    """Weights in units of ``2 ** -bits``, halves away from zero."""
    rounded = np.trunc(weights * (1 << bits) + np.copysign(0.5, weights))
    return ResampleWeights(starts, rounded.astype(np.int32), bits)


def _nearest_taps(source: int, target: int, backend: Backend) -> ResampleWeights:
    """The pixel under each centre; Pillow adds up the steps in double, torchvision multiplies in single precision."""
    centres: NDArray[Any]
    if backend == "pillow":
        step = source / target
        centres = np.cumsum(np.r_[step * 0.5, np.full(target - 1, step)])
    else:
        centres = (np.arange(target, dtype=np.float32) + np.float32(0.5)) * np.float32(source / target)
    starts = np.minimum(centres.astype(np.int64), source - 1)
    return ResampleWeights(starts, np.ones((target, 1), dtype=np.int32), 0)


def _mirrored(pixels: Ints, length: int) -> Ints:
    """Fold positions into 0 … length - 1; the edge pixel is not repeated: d c b | a b c d | c b a."""
    if length == 1:
        return np.zeros_like(pixels)
    folded = np.abs(pixels) % (2 * length - 2)
    mirrored: Ints = np.minimum(folded, 2 * length - 2 - folded)
    return mirrored


def _zoom_taps(source: int, target: int, backend: Backend) -> ResampleWeights:
    # Where torchvision interpolates, in single precision, thousands of pixels leave few bits for the share.
    by_scipy = backend == "pillow"
    kind: Any = np.float64 if by_scipy else np.float32
    scale = kind(source / target)
    centres = (np.arange(target, dtype=kind) + kind(0.5)) * scale - kind(0.5)
    if not by_scipy:
        centres = np.clip(centres, 0, source - 1)
    floors = np.floor(centres).astype(np.int64)
    shares = (centres - floors).astype(np.float64)
    sigma = max(kind(0), (scale - kind(1)) / kind(2))
    blur = _gaussian(float(sigma), int(GAUSSIAN_CUT * sigma + 0.5) if by_scipy else int(np.ceil(kind(3) * sigma)))
    reach = len(blur) // 2
    ends = floors[:, None] + np.arange(2)
    ends = _mirrored(ends, source) if by_scipy else np.minimum(ends, source - 1)
    pixels = _mirrored(ends[:, :, None] + np.arange(-reach, reach + 1), source).reshape(target, -1)
    weights = (np.stack([1 - shares, shares], axis=1)[:, :, None] * blur).reshape(target, -1)
    return _gathered(pixels, weights)


def _gaussian(sigma: float, radius: int) -> Floats:
    """Return the discrete kernel ``[2 r + 1]``; a single 1 where the radius is 0."""
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
