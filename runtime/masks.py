"""From the mask probabilities of the model's image to masks of the source's pixels, with numpy alone.

It is what transformers' ``post_process_instance_segmentation`` does: torch's bilinear ``interpolate`` without
antialiasing (``align_corners=False``), then every pixel over the threshold. Only the part of the source that a mask
reaches is made, a block of columns at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medprompt.core.manifest import Preprocess
from medprompt.core.masks import Masks
from medprompt.core.runs import Ints, Spans, joined_spans, spans_of_columns
from medprompt.images.resize import box_scale

BLOCK_PIXELS = 1 << 21
"""Source pixels made at once, so that a mask of a whole slide takes little memory."""

Floats = NDArray[np.float32]


class _Axis(NamedTuple):
    """Source pixels of one axis from ``start`` on: each is ``(1 - share) * first + share * last`` of the mask."""

    start: int
    first: Ints
    last: Ints
    share: Floats

    def reached(self, inked: Any) -> _Axis:
        """The source pixels that the mask pixels, bool ``[n]`` with at least one, have a part in."""
        pixels = np.flatnonzero(inked)
        start, stop = np.searchsorted(self.last, pixels[0]), np.searchsorted(self.first, pixels[-1], side="right")
        return self.part(slice(int(start), int(stop)))

    def part(self, part: slice) -> _Axis:
        return _Axis(self.start + part.start, self.first[part], self.last[part], self.share[part])

    def of(self, columns: Floats) -> Floats:
        """Resize ``[m, n]`` along its second axis."""
        return columns[:, self.first] * (1 - self.share) + columns[:, self.last] * self.share


def source_masks(probabilities: NDArray[Any], least: float, size_hw: tuple[int, int], spec: Preprocess) -> Masks:
    """Masks of a source of ``size_hw`` pixels.

    Args:
        probabilities: ``[N, h, w]``, of each pixel of the (padded) model image, at whatever size the model has masks.
        least: Pixels over it are the object's.
        size_hw: Height and width of the source in pixels.
        spec: How the source became the model's image.
    """
    padded_wh = box_scale(size_hw, spec)
    rows, columns = (
        _axis(masked, round(padded), own)
        for masked, padded, own in zip(probabilities.shape[1:], padded_wh[::-1], size_hw, strict=True)
    )
    spans = (joined_spans(_spans(one.astype(np.float32), least, rows, columns, size_hw[0])) for one in probabilities)
    return Masks.of_spans(spans, size_hw)


def _axis(masked: int, padded: int, own: int) -> _Axis:
    """In single precision, as torch computes it; what lies in the padding is left out."""
    half = np.float32(0.5)
    scale = np.float32(masked) / np.float32(padded)
    centres = np.maximum((np.arange(own, dtype=np.float32) + half) * scale - half, np.float32(0))
    first = np.minimum(centres.astype(np.int64), masked - 1)
    share = np.clip(centres - first.astype(np.float32), 0, 1)
    return _Axis(0, first, np.minimum(first + 1, masked - 1), share)


def _spans(one: Floats, least: float, rows: _Axis, columns: _Axis, height: int) -> Iterator[Spans]:
    inked: NDArray[np.bool_] = one > least
    if not inked.any():
        return
    rows, columns = rows.reached(np.any(inked, axis=1)), columns.reached(np.any(inked, axis=0))
    width = max(1, BLOCK_PIXELS // max(1, len(rows.first)))
    for start in range(0, len(columns.first), width):
        block = columns.part(slice(start, min(start + width, len(columns.first))))
        yield spans_of_columns(rows.of(block.of(one).T) > least, height, rows.start, block.start)
