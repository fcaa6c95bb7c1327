"""Image files in, uint8 RGB arrays out, upright and in one documented way for every mode."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from medprompt.errors import ImageError

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""Files of a folder that count as images."""

MOST_PIXELS = 250_000_000
"""A larger image is refused before it is decoded: a small file can claim a size that fills the memory."""


def load_image(path: Path | str) -> NDArray[np.uint8]:
    """Read an image file, turned as its EXIF orientation says.

    Grey levels are repeated into three channels. 16-bit grey is scaled by 1/257, so that 65,535 becomes 255,
    whatever part of the range the image uses. Palettes are looked up; CMYK and YCbCr become RGB by Pillow's
    formulas, without colour profiles. Transparent pixels are laid over white. Of several pages or frames the
    first is read.

    Args:
        path: The file.

    Returns:
        uint8 ``[H, W, 3]`` RGB.

    Raises:
        ImageError: Missing, unreadable, cut off, without pixels, of an unknown mode, or over ``MOST_PIXELS``.
    """
    path = Path(path)
    try:
        with warnings.catch_warnings():
            # Pillow only warns between one and two times its own limit; ours is checked below.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                _check_size(path, image.size)
                return np.array(_rgb(ImageOps.exif_transpose(image), path))
    except UnidentifiedImageError as error:
        raise _unreadable(path, "no image format that Pillow knows") from error
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise _unreadable(path, str(error) or type(error).__name__) from error


def find_images(paths: Iterable[Path | str]) -> list[Path]:
    """List image files: files as given, folders searched to the bottom by suffix and sorted.

    Args:
        paths: Files and folders.

    Raises:
        ImageError: A path that does not exist, or a folder without images.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            found.extend(_images_of_folder(path))
        elif path.is_file():
            found.append(path)
        else:
            raise ImageError("The image does not exist.", where=str(path), expected="a file or a folder of images")
    return list(dict.fromkeys(found))


def _images_of_folder(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise ImageError(
            "The folder has no images.",
            where=str(folder),
            expected=f"files ending in {', '.join(sorted(SUFFIXES))}",
        )
    return found


def _unreadable(path: Path, got: str) -> ImageError:
    return ImageError(
        "The image cannot be read.",
        where=str(path),
        expected=f"a whole image file ({', '.join(sorted(SUFFIXES))})",
        got=got,
        fix="open it in a viewer and save it again, or leave it out",
    )


def _check_size(path: Path, size: tuple[int, int]) -> None:
    width, height = size
    if not 0 < width * height <= MOST_PIXELS:
        raise ImageError(
            "The image has too many pixels, or none.",
            where=str(path),
            expected=f"1 … {MOST_PIXELS:,} pixels",
            got=f"{width} x {height}",
            fix="cut it into tiles",
        )


def _rgb(image: Image.Image, path: Path) -> Image.Image:
    if image.mode in ("I;16", "I;16B", "I;16L", "I;16N", "I"):
        return Image.fromarray(_byte_levels(np.asarray(image), path)).convert("RGB")
    if image.mode == "F":
        raise ImageError(
            "The image holds floating-point values, whose range is not known.",
            where=str(path),
            expected="8 or 16 bits a channel",
            got="mode F",
            fix="scale it to 8 or 16 bits first",
        )
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _byte_levels(levels: NDArray[np.generic], path: Path) -> NDArray[np.uint8]:
    """16-bit grey as 8-bit: v / 257, rounded."""
    wide = levels.astype(np.int64)
    if wide.min() < 0 or wide.max() > 65535:
        raise ImageError(
            "The image has grey levels of more than 16 bits.",
            where=str(path),
            expected="0 … 65535",
            got=f"{wide.min()} … {wide.max()}",
            fix="scale it to 8 or 16 bits first",
        )
    return ((wide + 128) // 257).astype(np.uint8)
