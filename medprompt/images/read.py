"""Image files in, uint8 RGB arrays out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medprompt.core.picture import Picture
from medprompt.images.file import ImageFile
from medprompt.images.sources import find_images as find_images


def load_image(path: Path | str) -> NDArray[np.uint8]:
    """Read an image file, see ``load_picture``; of several frames the first.

    Returns:
        uint8 ``[H, W, 3]`` RGB.

    Raises:
        ImageError: See ``load_picture``.
    """
    return load_picture(path).pixels


def load_picture(path: Path | str, frame: int = 1) -> Picture:
    """Read an image file, turned as its EXIF orientation says, or a frame (from 1) of a DICOM file.

    Grey levels are repeated into three channels; those of more than 8 bits are scaled, see
    ``medprompt.images.levels``. Palettes are looked up; CMYK and YCbCr become RGB by Pillow's formulas, without colour
    profiles. Transparent pixels are laid over white. Of several pages the first is read,
    with a warning. DICOM: see ``medprompt.dicom.pixels``.

    Raises:
        ImageError: Missing, unreadable, cut off, without pixels, of an unknown mode, or over ``picture.MAX_PIXELS``;
            ``code`` says which.
        EngineError: A DICOM file, and pydicom is not installed.
    """
    with ImageFile(Path(path)) as file:
        return file.picture(frame)
