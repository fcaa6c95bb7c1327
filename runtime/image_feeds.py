"""From images to the graph's inputs: whatever a detector takes for an image, as pixels, then as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from medprompt.core.errors import InputError
from medprompt.core.manifest import Preprocess
from medprompt.images.decode import pixels_of_picture
from medprompt.images.file import check_frame
from medprompt.images.read import load_picture
from medprompt.images.resize import check_image, resize_matrices, resize_on_host
from medprompt.runtime.engines.feeds import fixed

Image = NDArray[np.uint8]
Readable = Path | str | Pillow.Image | Image
"""What ``Detector`` takes for an image."""


def pixels_of(image: Readable, frame: int) -> Image:
    """uint8 ``[H, W, 3]``; arrays as they are, for the resize refuses what is no image.

    ``frame`` is of a file, from 1.

    Raises:
        ImageError: The file cannot be read.
        InputError: Something else, or another frame than 1 of what has one.
    """
    if isinstance(image, str | Path):
        return load_picture(image, frame).pixels
    check_frame(frame, "image")
    if isinstance(image, np.ndarray):
        return image
    if isinstance(image, Pillow.Image):
        return pixels_of_picture(image)
    raise InputError(
        "This is not an image.",
        where="image",
        expected="a path, a Pillow picture, a uint8 RGB array, or a list of them",
        got=type(image).__name__,
    )


def image_inputs(images: Sequence[Image], spec: Preprocess, *, resizes: bool = False) -> dict[str, NDArray[Any]]:
    """The graph's inputs that come from the images. One image that is not resized here is not copied.

    Images are uint8 ``[H, W, 3]`` each, of one ``batch_key``; of one size where the engine ``resizes``.

    Raises:
        ImageError: Not a uint8 RGB image with at least one pixel.
    """
    if resizes:
        return {"image": _batch_of([checked(image) for image in images])}
    if spec.placement == "host":
        return {"image": _batch_of([resize_on_host(image, spec) for image in images])}
    stacked = _batch_of([checked(image) for image in images])
    rows, cols = _cached_matrices((stacked.shape[1], stacked.shape[2]), spec)
    return {"image": stacked, "resize_rows": rows, "resize_cols": cols}


def _batch_of(images: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """``[B, H, W, 3]``: a view of one image, a copy of several."""
    return images[0][None] if len(images) == 1 else np.stack(images)


@lru_cache(maxsize=16)
def _cached_matrices(size_hw: tuple[int, int], spec: Preprocess) -> tuple[NDArray[Any], ...]:
    return tuple(map(fixed, resize_matrices(size_hw, spec)))


def checked(image_rgb: Image) -> Image:
    """The image.

    Raises:
        ImageError: Not a uint8 RGB image with at least one pixel.
    """
    check_image(image_rgb)
    return image_rgb
