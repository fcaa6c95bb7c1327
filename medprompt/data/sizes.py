"""How large an image is, from its header."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageOps

from medprompt.core.errors import ImageError
from medprompt.images.read import is_dicom, load_image

ORIENTATION, SIDEWAYS = 0x0112, (5, 6, 7, 8)
"""EXIF tag, and its values that swap height and width (EXIF 2.3, 4.6.4)."""


def size_of_image(path: Path) -> tuple[int, int] | None:
    """Height and width of an image as ``load_image`` would return it; None where it has no header.

    That the pixels are whole is not looked at.
    """
    if is_dicom(path):
        try:
            height, width = load_image(path).shape[:2]
        except ImageError:
            return None
        return height, width
    try:
        with Image.open(path) as image:
            sideways = image.getexif().get(ORIENTATION) in SIDEWAYS
            if sideways and image.format == "TIFF":  # which Pillow itself turns, when it is loaded or before
                width, height = ImageOps.exif_transpose(image).size
                return height, width
            width, height = image.size
            return (width, height) if sideways else (height, width)
    except Exception:  # Pillow on damaged files: SyntaxError, TypeError, struct.error, whatever came first
        return None
