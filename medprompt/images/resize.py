"""From a source image to the model's image, resized as the checkpoint's own processor does, by numpy alone.

Every resize here is linear and separable, so one axis is a table of taps: each output pixel is a weighted sum of a few
neighbouring source pixels. On the host, Pillow applies its own filters and numpy applies torchvision's and OWLv2's; for
a graph that resizes itself the taps become two matrices.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL import __version__ as pillow_version

from medprompt.core.errors import ImageError
from medprompt.core.manifest import OwnSize, Preprocess
from medprompt.images.resampling import ResampleWeights, resample_weights
from medprompt.images.taps import AxisPass, axis_pass, resize_by_taps

PILLOW_FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
}
PILLOW_MAJOR = int(pillow_version.partition(".")[0])

MOST_PIXELS = 8192 * 8192
"""Of a model's image, where no longest edge limits it: beyond, a strange aspect ratio would fill the memory."""


def resize_on_host(image_rgb: NDArray[np.uint8], spec: Preprocess) -> NDArray[np.uint8] | NDArray[np.float32]:
    """Resize (and pad) a source image, uint8 ``[H, W, 3]``, to the model's size.

    Returns:
        ``[h, w, 3]``, see ``model_hw``, in 0 … 255: uint8, or float32 where ``spec.rounds`` is off. Equal to what the
        checkpoint's own processor makes before it normalises.

    Raises:
        ImageError: Not a uint8 RGB image with at least one pixel.
    """
    check_image(image_rgb)
    source_hw = (image_rgb.shape[0], image_rgb.shape[1])
    if source_hw == _padded_hw(source_hw, spec) == model_hw(source_hw, spec):
        return image_rgb.copy() if spec.rounds else image_rgb.astype(np.float32)
    if spec.backend == "torchvision" or spec.resample == "zoom":
        return _resized_by_taps(image_rgb, spec)
    height, width = model_hw(source_hw, spec)
    source = _padded(image_rgb, spec) if spec.pad == "square" else np.ascontiguousarray(image_rgb)
    resized = np.array(Image.fromarray(source).resize((width, height), PILLOW_FILTERS[spec.resample]))
    return resized if spec.rounds else resized.astype(np.float32)


def _resized_by_taps(image_rgb: NDArray[np.uint8], spec: Preprocess) -> NDArray[np.uint8] | NDArray[np.float32]:
    # A border of one level is only implied where nothing is rounded on the way.
    source = _padded(image_rgb, spec) if spec.pad == "square" and spec.resample != "zoom" else image_rgb
    source_hw, held_hw = ((image.shape[0], image.shape[1]) for image in (image_rgb, source))
    rows, cols = _passes_of_source(source_hw, held_hw, spec)
    resized = resize_by_taps(source, rows, cols, spec.pad_value)
    if not spec.rounds:
        return resized
    # Zoomed values stay within 0 … 255 but for the last bits of float32: weights are positive and sum to 1.
    return (resized + np.float32(0.5)).astype(np.uint8)


@lru_cache(maxsize=32)
def _passes_of_source(
    source_hw: tuple[int, int], held_hw: tuple[int, int], spec: Preprocess
) -> tuple[AxisPass, AxisPass]:
    rows, cols = resize_taps(source_hw, spec)
    return axis_pass(rows, held_hw[0], interleaved=False), axis_pass(cols, held_hw[1], interleaved=True)


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
    rows, cols = resize_taps(source_hw, spec)
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

    The rules are transformers': ``image_transforms.get_size_with_aspect_ratio`` by edges,
    ``image_utils.get_image_size_for_max_height_width`` by the largest height and width.
    """
    if own.height is not None and own.width is not None:
        return own.height, own.width
    height, width = source_hw
    if own.max_height is not None and own.max_width is not None:
        scale = min(own.max_height / height, own.max_width / width)
        return int(height * scale), int(width * scale)
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


def _padded(image_rgb: NDArray[np.uint8], spec: Preprocess) -> NDArray[np.uint8]:
    height, width = image_rgb.shape[:2]
    square = np.full((max(height, width), max(height, width), 3), spec.pad_value, dtype=np.uint8)
    square[:height, :width] = image_rgb
    return square


def resize_taps(source_hw: tuple[int, int], spec: Preprocess) -> tuple[ResampleWeights, ResampleWeights]:
    """Taps of the rows and of the columns for a source, over its padded size.

    They are the whole resize but for the order of the passes, see ``starts_with_rows``.
    """
    rows, cols = (
        resample_weights(source, target, spec.resample, spec.backend)
        for source, target in zip(_padded_hw(source_hw, spec), model_hw(source_hw, spec), strict=True)
    )
    return rows, cols


def starts_with_rows(source_hw: tuple[int, int], spec: Preprocess) -> bool:
    """Whether ``resize_on_host`` resizes the rows first, and then the columns.

    So does Pillow, from version 13 on, where the height loses more than twice the pixels that the width loses
    (python-pillow/Pillow#9549). The version that is installed here decides, as it does on the host.
    """
    if spec.backend != "pillow" or spec.resample == "zoom" or PILLOW_MAJOR < 13:
        return False
    (height, width), (high, wide) = _padded_hw(source_hw, spec), model_hw(source_hw, spec)
    return height - high > max(0, 2 * (width - wide))
