"""How large an image is, from its header."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from medprompt.core.errors import EngineError
from medprompt.core.kinds import FORMATS
from medprompt.images.file import ImageFile

ORIENTATION, SIDEWAYS = 0x0112, (5, 6, 7, 8)
"""EXIF tag, and its values that swap height and width (EXIF 2.3, 4.6.4)."""


def size_of_image(path: Path) -> tuple[int, int] | None:
    """Height and width of an image as ``load_image`` would return it; None where it has no header.

    That the pixels are whole is not looked at.
    """
    try:
        with ImageFile(path) as file:
            file.stream.seek(0)
            try:
                image = Image.open(file.stream, formats=FORMATS)
            except UnidentifiedImageError:  # DICOM, or a TIFF that another reader knows
                height, width = file.picture().pixels.shape[:2]
                return height, width
            with image:
                sideways = image.getexif().get(ORIENTATION) in SIDEWAYS
                if sideways and image.format == "TIFF":  # which Pillow itself turns, when it is loaded or before
                    width, height = ImageOps.exif_transpose(image).size
                    return height, width
                width, height = image.size
                return (width, height) if sideways else (height, width)
    except EngineError:
        raise
    except Exception:  # ours, or Pillow on damaged files: SyntaxError, TypeError, struct.error, whatever came first
        return None
