"""From a source image to the model's image, resized as the checkpoint's own processor does, by numpy alone.

Every resize here is linear and separable, so one axis is a table of taps: each output pixel is a weighted sum of a few
neighbouring source pixels. On the host, Pillow applies its own filters and numpy applies OWLv2's; for a graph that
resizes itself the taps become two matrices.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medprompt.core.errors import ImageError
from medprompt.core.manifest import OwnSize, Preprocess
from medprompt.images.resampling import ResampleWeights, resample_weights

PILLOW_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

MOST_PIXELS = 8192 * 8192
"""Of a model's image, where no longest edge limits it: beyond, a strange aspect ratio would fill the memory."""

BLOCK = 8
"""Output pixels made by one small matrix product: of 4 … 32, this took the least CPU time on 4K sources."""


def resize_on_host(image_rgb: NDArray[np.uint8], spec: Preprocess) -> NDArray[np.uint8]:
    """Resize (and pad) a source image, uint8 ``[H, W, 3]``, to the model's size.

    Returns:
        uint8 ``[h, w, 3]``, see ``model_hw``. Equal to what the checkpoint's own processor makes before it
        normalises, but for the rounding to whole numbers, which OWLv2's processor does not do.

    Raises:
        ImageError: Not a uint8 RGB image with at least one pixel.
    """
    check_image(image_rgb)
    source_hw = (image_rgb.shape[0], image_rgb.shape[1])
    if source_hw == _padded_hw(source_hw, spec) == model_hw(source_hw, spec):
        return image_rgb.copy()
    if spec.resample == "zoom":
        return _resize_by_taps(image_rgb, spec)
    height, width = model_hw(source_hw, spec)
    source = _padded(image_rgb) if spec.pad == "square" else np.ascontiguousarray(image_rgb)
    return np.array(Image.fromarray(source).resize((width, height), PILLOW_FILTERS[spec.resample]))


def resize_matrices(source_hw: tuple[int, int], spec: Preprocess) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The same resize as two matrices: ``model = rows @ source @ cols.T`` for each channel.

    Pillow rounds to whole numbers after each pass, columns first; a graph that does so too is equal to it.
    From version 13 on, Pillow starts with the rows where the height loses more than twice the pixels that the
    width loses (python-pillow/Pillow#9549). The clipping between the passes makes that visible where bicubic
    overshoots: against columns first, at most 2 levels on blood smears (0.02 on average), 21 on noise (0.4 on
    average).

    Returns:
        ``rows`` float32 ``[h, H]`` and ``cols`` float32 ``[w, W]``. Rows of the padded part are zero.
    """
    rows, cols = _taps_of_source(source_hw, spec)
    return rows.dense(source_hw[0]), cols.dense(source_hw[1])


def box_scale(source_hw: tuple[int, int], spec: Preprocess) -> tuple[float, float]:
    """Factors for x and y that turn a box in 0 … 1 of the (padded) model image into source pixels."""
    height, width = _padded_hw(source_hw, spec)
    return float(width), float(height)


def model_hw(source_hw: tuple[int, int], spec: Preprocess) -> tuple[int, int]:
    """Height and width in pixels of the model's image for a source of ``source_hw``.

    Raises:
        ImageError: The source is so long and thin that the model has no image for it.
    """
    if spec.sizes == "one" or spec.own_size is None:
        return spec.size_hw
    height, width = own_size_hw(source_hw, spec.own_size)
    if not spec.least_pixels <= height * width <= MOST_PIXELS:
        raise ImageError(
            "The image is too long and thin for the model, which keeps the aspect ratio.",
            where="{}x{} pixels (height x width)".format(*source_hw),
            expected=f"{spec.least_pixels} … {MOST_PIXELS} pixels as the model sees it",
            got=f"{height}x{width}",
            fix="cut the image into pieces (tiling), or export with image_size=HEIGHTxWIDTH",
        )
    return height, width


def batch_key(source_hw: tuple[int, int], spec: Preprocess) -> tuple[int, int]:
    """What sources need to share to be one batch: their own size where the graph resizes, else the model's.

    Raises:
        ImageError: See ``model_hw``.
    """
    return source_hw if spec.placement == "graph" else model_hw(source_hw, spec)


def own_size_hw(source_hw: tuple[int, int], own: OwnSize) -> tuple[int, int]:
    """Height and width that the checkpoint's own processor would give a source.

    By edges it is transformers' rule (``image_transforms.get_size_with_aspect_ratio``).
    """
    if own.height is not None and own.width is not None:
        return own.height, own.width
    height, width = source_hw
    short, long = min(source_hw), max(source_hw)
    edge, limit = own.shortest_edge or short, own.longest_edge
    exact = float(edge)
    if limit is not None and long / short * edge > limit:
        exact = limit * short / long
        edge = round(exact)
    if short == edge:
        return height, width
    if width < height:
        return int(exact * height / width), edge
    return edge, int(exact * width / height)


def check_image(image_rgb: NDArray[np.uint8]) -> None:
    """Refuse arrays that are not an image.

    Raises:
        ImageError: Not uint8 ``[H, W, 3]`` with at least one pixel.
    """
    right = isinstance(image_rgb, np.ndarray) and image_rgb.dtype == np.uint8 and image_rgb.ndim == 3
    if not right or image_rgb.shape[2] != 3 or image_rgb.size == 0:
        raise ImageError(
            "The array is not an RGB image.",
            expected="uint8 [H, W, 3], H and W at least 1",
            got=f"{getattr(image_rgb, 'dtype', type(image_rgb).__name__)} {list(np.shape(image_rgb))}",
            fix="medprompt.images.read.load_image reads files in this form",
        )


def _padded_hw(source_hw: tuple[int, int], spec: Preprocess) -> tuple[int, int]:
    side = max(source_hw)
    return (side, side) if spec.pad == "square" else source_hw


def _padded(image_rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = image_rgb.shape[:2]
    square = np.zeros((max(height, width), max(height, width), 3), dtype=np.uint8)
    square[:height, :width] = image_rgb
    return square


def _taps_of_source(source_hw: tuple[int, int], spec: Preprocess) -> tuple[ResampleWeights, ResampleWeights]:
    rows, cols = (
        resample_weights(source, target, spec.resample)
        for source, target in zip(_padded_hw(source_hw, spec), model_hw(source_hw, spec), strict=True)
    )
    return rows, cols


@dataclass(frozen=True)
class _Block:
    """Neighbouring output pixels of one axis, as one small matrix over the source pixels they need."""

    target: slice
    source: slice
    matrix: NDArray[np.float32]


def _blocks_of_taps(taps: ResampleWeights, length: int) -> Iterator[_Block]:
    """Cut an axis into blocks; those whose source lies in the padding are left out, for they are zero."""
    for start in range(0, len(taps.starts), BLOCK):
        part = ResampleWeights(taps.starts[start : start + BLOCK], taps.weights[start : start + BLOCK])
        first = int(part.starts.min())
        last = min(int(part.starts.max()) + part.weights.shape[1], length)
        if first < last:
            yield _Block(
                slice(start, start + len(part.starts)),
                slice(first, last),
                ResampleWeights(part.starts - first, part.weights).dense(last - first),
            )


@lru_cache(maxsize=32)
def _blocks_of_source(source_hw: tuple[int, int], spec: Preprocess) -> tuple[tuple[_Block, ...], tuple[_Block, ...]]:
    """Blocks of rows and columns; those of columns act on interleaved channels."""
    rows, cols = _taps_of_source(source_hw, spec)
    interleaved = tuple(
        _Block(
            slice(3 * block.target.start, 3 * block.target.stop),
            slice(3 * block.source.start, 3 * block.source.stop),
            _interleaved(block.matrix.T),
        )
        for block in _blocks_of_taps(cols, source_hw[1])
    )
    return tuple(_blocks_of_taps(rows, source_hw[0])), interleaved


def _interleaved(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """``[k, m]`` for one channel to ``[3 k, 3 m]`` for pixels of three interleaved channels."""
    wide = np.zeros((3 * matrix.shape[0], 3 * matrix.shape[1]), dtype=np.float32)
    for channel in range(3):
        wide[channel::3, channel::3] = matrix
    return wide


def _resize_by_taps(image_rgb: NDArray[np.uint8], spec: Preprocess) -> NDArray[np.uint8]:
    source_hw = (image_rgb.shape[0], image_rgb.shape[1])
    height, width = model_hw(source_hw, spec)
    rows, cols = _blocks_of_source(source_hw, spec)
    flat = image_rgb.reshape(source_hw[0], 3 * source_hw[1])
    resized = np.zeros((height, 3 * width), dtype=np.uint8)
    filled = rows[-1].target.stop
    tall = np.zeros((filled, flat.shape[1]), dtype=np.float32)
    for block in rows:
        np.matmul(block.matrix, flat[block.source].astype(np.float32), out=tall[block.target])
    wide = np.zeros((filled, 3 * width), dtype=np.float32)
    for block in cols:
        np.matmul(tall[:, block.source], block.matrix, out=wide[:, block.target])
    # Weights are positive and sum to 1, so values stay within 0 … 255 but for the last bits of float32.
    wide += 0.5
    resized[:filled] = wide
    return resized.reshape(height, width, 3)
