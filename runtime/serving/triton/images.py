"""The images of a request, as the detector takes them."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medprompt.images.resize import check_image
from medprompt.runtime.serving.pictures import Content, images_of_tensors, picture_from_bytes


def pixels_of_arrays(arrays: Mapping[str, NDArray[Any]], frame: int | None = None) -> list[NDArray[np.uint8]]:
    """uint8 ``[H, W, 3]`` of each image of a request; ``frame`` is of a DICOM file, from 1.

    Raises:
        InputError: Not exactly one of the inputs, none of the contract's shape, or no image at all.
        ImageError: An image that may not be analysed; the text says which.
    """
    images = images_of_tensors(arrays)
    return [_pixels(image, place, frame) for place, image in enumerate(images, 1)]


def _pixels(image: Content, place: int, frame: int | None) -> NDArray[np.uint8]:
    """``place`` is which of the request's images it is, from 1: that is its name in errors."""
    if not isinstance(image, bytes):
        check_image(image)
        return image
    # JSON has no bytes, and Triton hands its texts over as they are: base64, which no image file is.
    with suppress(binascii.Error):
        image = base64.b64decode(image, validate=True)
    return picture_from_bytes(image, f"image {place}", frame).pixels
