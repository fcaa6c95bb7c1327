"""How large an image is, and whether its file is to be turned, from its header."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageOps

from medprompt.core.errors import EngineError, ImageError
from medprompt.core.kinds import FORMATS
from medprompt.images.file import ImageFile

ORIENTATION, SIDEWAYS = 0x0112, (5, 6, 7, 8)
"""EXIF tag, and its values that swap height and width (EXIF 2.3, 4.6.4)."""


class ImageHeader(NamedTuple):
    """Height and width of an image as ``load_image`` returns it; whether EXIF turns the file at all, or sideways."""

    size_hw: tuple[int, int]
    turned: bool = False
    sideways: bool = False


def header_of_image(path: Path) -> ImageHeader | None:
    """Read an image's size; None where it has none. That the pixels are whole is not looked at.

    Raises:
        EngineError: A DICOM file, and pydicom is not installed.
    """
    try:
        with ImageFile(path) as file:
            file.stream.seek(0)
            with Image.open(file.stream, formats=FORMATS) as image:
                turn = image.getexif().get(ORIENTATION, 1)
                turned, sideways = turn in range(2, 9), turn in SIDEWAYS
                if sideways and image.format == "TIFF":  # which Pillow itself turns, when it is loaded or before
                    width, height = ImageOps.exif_transpose(image).size
                    return ImageHeader((height, width), turned, sideways)
                width, height = image.size
                return ImageHeader((width, height) if sideways else (height, width), turned, sideways)
    except EngineError:
        raise
    except (
        Exception
    ):  # DICOM, a TIFF of another reader, or Pillow on damaged files: SyntaxError, TypeError, struct.error
        return _header_of_pixels(path)


def _header_of_pixels(path: Path) -> ImageHeader | None:
    """The size of what is decoded otherwise than by its header here."""
    try:
        with ImageFile(path) as file:
            height, width = file.picture().pixels.shape[:2]
            return ImageHeader((height, width))
    except ImageError:
        return None


def size_of_image(path: Path) -> tuple[int, int] | None:
    """Height and width of an image as ``load_image`` would return it; None where it has no header."""
    header = header_of_image(path)
    return header.size_hw if header else None
