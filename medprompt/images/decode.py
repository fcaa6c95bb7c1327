"""What Pillow and simplejpeg read: a stream in, uint8 RGB out, upright and in one documented way for every mode."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from medprompt.core import picture
from medprompt.core.errors import ImageError, MedpromptError, RejectCode
from medprompt.core.integrity import check_png, check_tiff, decode_jpeg
from medprompt.core.picture import Picture

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""Files of a folder that count as images."""

DICOM_SUFFIXES = frozenset({".dcm", ".dicom", ".ima"})
"""Likewise as DICOM; files without a suffix, or with a number for one as in a UID, are looked into."""

MARKS = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"II*\x00", b"MM\x00*", b"GIF8", b"RIFF")
"""First bytes of image files; Pillow does not tell one that breaks off early from one that never was an image."""

TAGS_MODULE = "TiffImagePlugin"
"""Pillow's module that reads the tags of TIFF and EXIF, and warns where it leaves some out."""


def picture_from_stream(path: Path, stream: BinaryIO) -> Picture:
    """Decode an image file from the start of its bytes, see ``medprompt.images.read.load_picture``.

    Raises:
        ImageError: The file may not be analysed, or cannot be read.
    """
    try:
        with warnings.catch_warnings(record=True) as remarks:
            warnings.simplefilter("always")
            with Image.open(stream) as image:
                _check_size(path, image.size)
                whole = _whole(image, stream)
                pages = getattr(image, "n_frames", 1)
                ImageOps.exif_transpose(whole, in_place=True)
                pixels = np.array(_rgb(whole, path))
                notes = [*_notes(path, image.format, remarks), *([f"page 1 of {pages} was read"] if pages > 1 else [])]
    except UnidentifiedImageError as error:
        if _content(stream).startswith(MARKS):
            raise unreadable(path, "damaged", "an image file that breaks off in its header") from error
        raise unreadable(path, "not_an_image", "no image format that Pillow knows, nor DICOM") from error
    except Image.DecompressionBombError as error:
        raise unreadable(path, "too_large", str(error)) from error
    except OSError as error:
        # The operating system's errors have a number, Pillow's about the content have none.
        code: RejectCode | None = "damaged" if error.errno is None else None
        raise unreadable(path, code, str(error) or type(error).__name__) from error
    except (MedpromptError, MemoryError):
        raise
    except Exception as error:  # Pillow on damaged files: SyntaxError, TypeError, struct.error, whatever came first
        raise unreadable(path, "damaged", str(error) or type(error).__name__) from error
    return Picture(pixels, tuple(notes))


def pixels_of_picture(image: Image.Image) -> NDArray[np.uint8]:
    """A Pillow picture as ``picture_from_stream`` makes one of a file: upright, uint8 ``[H, W, 3]`` RGB.

    Raises:
        ImageError: Without pixels, of an unknown mode, or over ``picture.MAX_PIXELS``.
    """
    where = Path(getattr(image, "filename", "") or "picture")
    _check_size(where, image.size)
    return np.array(_rgb(ImageOps.exif_transpose(image), where))


def unreadable(path: Path, code: RejectCode | None, got: str) -> ImageError:
    """An image file that cannot be read; without a code where the operating system says so."""
    return ImageError(
        "The image cannot be read.",
        code=code,
        where=str(path),
        expected=f"a whole image file ({', '.join(sorted(SUFFIXES))}, DICOM)",
        got=got,
        fix="open it in a viewer and save it again, or leave it out",
    )


def _content(stream: BinaryIO) -> bytes:
    """All bytes; of a ``BytesIO`` they are not copied."""
    stream.seek(0)
    return stream.read()


def _whole(image: Image.Image, stream: BinaryIO) -> Image.Image:
    """Refuse what Pillow would show in part, see ``medprompt.core.integrity``; the image, JPEG as decoded there.

    Pillow may be half-way through the stream: it seeks to the pixels before it reads them.
    """
    if image.format in ("JPEG", "MPO"):
        pixels = decode_jpeg(_content(stream))
        if pixels is not None:
            decoded = Image.fromarray(pixels)
            decoded.info = image.info  # EXIF and XMP, which say how it is turned
            return decoded
    elif image.format == "PNG":
        check_png(BytesIO(_content(stream)))
    elif image.format == "TIFF":
        check_tiff(stream)
    return image


def _notes(path: Path, kind: str | None, remarks: Iterable[warnings.WarningMessage]) -> list[str]:
    """What Pillow's remarks about a file's tags mean: in a TIFF they describe the pixels, elsewhere they are EXIF's.

    Its other remarks are none about damage: of the size limit, which ours stands before, and of ways to convert.
    """
    about_tags = [str(remark.message) for remark in remarks if Path(remark.filename).stem == TAGS_MODULE]
    if about_tags and kind == "TIFF":
        raise unreadable(path, "damaged", about_tags[0])
    return ["the EXIF data is damaged: the image may lie on its side"] if about_tags else []


def _check_size(path: Path, size: tuple[int, int]) -> None:
    width, height = size
    if not 0 < width * height <= picture.MAX_PIXELS:
        raise ImageError(
            "The image has too many pixels, or none.",
            code="too_large" if width * height > 0 else "no_pixels",
            where=str(path),
            expected=f"1 … {picture.MAX_PIXELS:,} pixels",
            got=f"{width} x {height}",
            fix="cut it into tiles",
        )


def _rgb(image: Image.Image, path: Path) -> Image.Image:
    if image.mode in ("I;16", "I;16B", "I;16L", "I;16N", "I"):
        return Image.fromarray(_byte_levels(np.asarray(image), path)).convert("RGB")
    if image.mode == "F":
        raise ImageError(
            "The image holds floating-point values, whose range is not known.",
            code="unsupported_pixels",
            where=str(path),
            expected="8 or 16 bits a channel",
            got="mode F",
            fix="scale it to 8 or 16 bits first",
        )
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")  # which would copy it


def _byte_levels(levels: NDArray[np.generic], path: Path) -> NDArray[np.uint8]:
    """16-bit grey as 8-bit: v / 257, rounded."""
    wide = levels.astype(np.int64)
    if wide.min() < 0 or wide.max() > 65535:
        raise ImageError(
            "The image has grey levels of more than 16 bits.",
            code="unsupported_pixels",
            where=str(path),
            expected="0 … 65535",
            got=f"{wide.min()} … {wide.max()}",
            fix="scale it to 8 or 16 bits first",
        )
    return ((wide + 128) // 257).astype(np.uint8)
