"""The images of a request, as the detector takes them."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medprompt.core.errors import InputError
from medprompt.images.resize import check_image
from medprompt.runtime.serving.contract import IMAGE, PIXELS
from medprompt.runtime.serving.pictures import picture_from_bytes


def pixels_of_arrays(arrays: Mapping[str, NDArray[Any]], frame: int | None = None) -> list[NDArray[np.uint8]]:
    """uint8 ``[H, W, 3]`` of each image of a request; ``frame`` is of a DICOM file, from 1.

    Raises:
        InputError: Not exactly one of the inputs, none of the contract's shape, or no image at all.
        ImageError: An image that may not be analysed; the text says which.
    """
    if len(arrays) != 1:
        got = ", ".join(sorted(arrays)) or "none"
        raise InputError("A request has exactly one input.", expected=f"{IMAGE} or {PIXELS}", got=got)
    ((name, array),) = arrays.items()
    wanted = 2 if name == IMAGE else 4
    if array.ndim != wanted or array.shape[-1] != (1 if name == IMAGE else 3) or not len(array):
        expected = "[B, 1]" if name == IMAGE else "[B, H, W, 3]"
        raise InputError("An input has another shape.", where=name, expected=expected, got=str(list(array.shape)))
    if name == PIXELS:
        for image in array:
            check_image(image)
        return list(array)
    return [_decoded(bytes(content), place, frame) for place, content in enumerate(array[:, 0], 1)]


def _decoded(content: bytes, place: int, frame: int | None) -> NDArray[np.uint8]:
    """``place`` is which of the request's images it is, from 1: that is its name in errors.

    JSON has no bytes, and Triton hands its texts over as they are: base64, which no image file is.
    """
    with suppress(binascii.Error):
        content = base64.b64decode(content, validate=True)
    return picture_from_bytes(content, f"image {place}", frame).pixels
