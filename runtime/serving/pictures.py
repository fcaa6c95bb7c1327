"""Images out of a request, for every server: read as `medprompt infer` reads files, or refused with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medprompt.core.errors import ImageError, InputError
from medprompt.core.picture import Picture
from medprompt.images.file import ImageFile
from medprompt.runtime.serving.contract import IMAGE, INPUTS

Content = bytes | NDArray[np.uint8]
"""An image of a request: a file's bytes, or uint8 RGB ``[H, W, 3]``."""


def images_of_tensors(tensors: Mapping[str, NDArray[Any]]) -> list[Content]:
    """The images of a request, not decoded yet; ``tensors`` are its inputs by name, BYTES in arrays of objects.

    Raises:
        InputError: Not exactly one input of the contract, another type or shape of it, or no image at all.
    """
    if len(tensors) != 1 or not set(tensors) <= set(INPUTS):
        raise InputError(
            "A request has exactly one input.",
            where="inputs",
            expected=" or ".join(INPUTS),
            got=", ".join(map(repr, tensors)) or "none",
            fix="see `medprompt docs serve`",
        )
    ((name, tensor),) = tensors.items()
    datatype, shape = INPUTS[name]
    fits = tensor.ndim == len(shape) and all(side in (-1, got) for side, got in zip(shape, tensor.shape, strict=True))
    if not fits or not tensor.shape[0] or tensor.dtype != (object if datatype == "BYTES" else np.uint8):
        raise InputError(
            f"The input {name} is of another kind.",
            where=name,
            expected=f"{datatype} {'[B, 1]' if name == IMAGE else '[B, H, W, 3]'}, at least one image",
            got=f"{tensor.dtype} {list(tensor.shape)}",
            fix="see `medprompt docs serve`",
        )
    return [bytes(content) for content in tensor[:, 0]] if name == IMAGE else list(tensor)


def picture_from_bytes(content: bytes, name: str = "image", frame: int | None = None) -> Picture:
    """Decode a file's bytes, see ``medprompt.images.read.load_picture``.

    Args:
        content: The file as it lies on disk.
        name: What errors call it; a file's own name may be a patient's.
        frame: Which frame of a DICOM file, from 1. None where it has one: nobody must take an answer about the first
            of many for one about all.

    Raises:
        ImageError: It may not be analysed, or cannot be read; or it has several frames, and none is named.
        EngineError: A DICOM file, and pydicom is not installed.
    """
    with ImageFile(Path(name), content=content) as file:
        if frame is None and file.frames > 1:
            raise ImageError(
                "The file has several frames, and a request is about one.",
                where=name,
                expected=f"frame=1 … {file.frames}",
                got="no frame",
                fix="ask for each frame by itself",
            )
        return file.picture(frame or 1)
