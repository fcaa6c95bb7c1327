"""Image files in, uint8 RGB arrays out, upright and in one documented way for every mode."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from medprompt.core import picture
from medprompt.core.errors import ImageError, MedpromptError, RejectCode, missing_extra
from medprompt.core.integrity import check_jpeg, check_png, check_tiff
from medprompt.core.picture import Picture

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""Files of a folder that count as images."""

DICOM_SUFFIXES = frozenset({".dcm", ".dicom", ".ima"})
"""Likewise as DICOM; files without a suffix, or with a number for one as in a UID, are looked into."""

MARKS = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"II*\x00", b"MM\x00*", b"GIF8", b"RIFF")
"""First bytes of image files; Pillow does not tell one that breaks off early from one that never was an image."""

TAGS_MODULE = "TiffImagePlugin"
"""Pillow's module that reads the tags of TIFF and EXIF, and warns where it leaves some out."""


def load_image(path: Path | str) -> NDArray[np.uint8]:
    """Read an image file, see ``load_picture``; of several frames the first.

    Returns:
        uint8 ``[H, W, 3]`` RGB.

    Raises:
        ImageError: See ``load_picture``.
    """
    return load_picture(path).pixels


def load_picture(path: Path | str, frame: int = 1) -> Picture:
    """Read an image file, turned as its EXIF orientation says, or a frame of a DICOM file.

    Grey levels are repeated into three channels. 16-bit grey is scaled by 1/257, so that 65,535 becomes 255,
    whatever part of the range the image uses. Palettes are looked up; CMYK and YCbCr become RGB by Pillow's
    formulas, without colour profiles. Transparent pixels are laid over white. Of several pages the first is read,
    with a warning. DICOM: see ``medprompt.dicom.pixels``.

    Args:
        path: The file.
        frame: Which frame of a DICOM file, from 1.

    Raises:
        ImageError: Missing, unreadable, cut off, without pixels, of an unknown mode, or over ``picture.MAX_PIXELS``;
            ``code`` says which.
        EngineError: A DICOM file, and pydicom is not installed.
    """
    path = Path(path)
    if is_dicom(path):
        need_dicom()
        from medprompt.dicom.pixels import picture_of_frame

        return picture_of_frame(path, frame)
    try:
        with warnings.catch_warnings(record=True) as remarks:
            warnings.simplefilter("always")
            with Image.open(path) as image:
                _check_size(path, image.size)
                _check_whole(path, image.format)
                pages = getattr(image, "n_frames", 1)
                pixels = np.array(_rgb(ImageOps.exif_transpose(image), path))
                notes = [*_notes(path, image.format, remarks), *([f"page 1 of {pages} was read"] if pages > 1 else [])]
    except UnidentifiedImageError as error:
        raise _unidentified(path) from error
    except Image.DecompressionBombError as error:
        raise _unreadable(path, "too_large", str(error)) from error
    except OSError as error:
        # The operating system's errors have a number, Pillow's about the content have none.
        code: RejectCode | None = "damaged" if error.errno is None else None
        raise _unreadable(path, code, str(error) or type(error).__name__) from error
    except (MedpromptError, MemoryError):
        raise
    except Exception as error:  # Pillow on damaged files: SyntaxError, TypeError, struct.error, whatever came first
        raise _unreadable(path, "damaged", str(error) or type(error).__name__) from error
    return Picture(pixels, tuple(notes))


def is_dicom(path: Path) -> bool:
    """Whether a file has DICOM's marker, ``DICM`` after 128 bytes (PS3.10, 7.1)."""
    try:
        with path.open("rb") as handle:
            return handle.read(132)[128:] == b"DICM"
    except OSError:
        return False


def need_dicom() -> None:
    """Raise an ``EngineError`` that names the extra where pydicom is not installed."""
    if find_spec("pydicom") is None:
        raise missing_extra("Reading DICOM files", "pydicom", "dicom")


def find_images(paths: Iterable[Path | str]) -> list[Path]:
    """List image files: files as given, folders searched to the bottom and sorted.

    In a folder a file counts by its suffix (``SUFFIXES``, ``DICOM_SUFFIXES``), or by DICOM's marker where it has none.
    A DICOMDIR stands for the files that it lists, wherever it is met.

    Args:
        paths: Files and folders.

    Raises:
        ImageError: A path that does not exist, or a folder without images.
        EngineError: A DICOMDIR, and pydicom is not installed.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            found.extend(_images_of_folder(path))
        elif path.is_file():
            found.extend(_images_of_file(path))
        else:
            raise ImageError("The image does not exist.", where=str(path), expected="a file or a folder of images")
    return list(dict.fromkeys(found))


def _images_of_file(path: Path) -> list[Path]:
    """The file itself, or what it lists."""
    if not is_dicom(path):
        return [path]
    need_dicom()
    from medprompt.dicom.directory import files_of_directory

    return files_of_directory(path) or [path]


def _images_of_folder(folder: Path) -> list[Path]:
    counted = sorted(path for path in folder.rglob("*") if _counts(path) and path.is_file())
    found = [image for path in counted for image in (_images_of_file(path) if _may_list(path) else [path])]
    if not found:
        raise ImageError(
            "The folder has no images.",
            where=str(folder),
            expected=f"files ending in {', '.join(sorted(SUFFIXES | DICOM_SUFFIXES))}, or DICOM files",
        )
    return found


def _counts(path: Path) -> bool:
    suffix = path.suffix.lower()
    if suffix in SUFFIXES or suffix in DICOM_SUFFIXES:
        return True
    return (not suffix or suffix[1:].isdecimal()) and path.is_file() and is_dicom(path)


def _may_list(path: Path) -> bool:
    """PS3.10, 8.6: the file of the directory is called DICOMDIR."""
    return path.name.upper() == "DICOMDIR"


def _unreadable(path: Path, code: RejectCode | None, got: str) -> ImageError:
    return ImageError(
        "The image cannot be read.",
        code=code,
        where=str(path),
        expected=f"a whole image file ({', '.join(sorted(SUFFIXES))}, DICOM)",
        got=got,
        fix="open it in a viewer and save it again, or leave it out",
    )


def _unidentified(path: Path) -> ImageError:
    with path.open("rb") as handle:
        if handle.read(8).startswith(MARKS):
            return _unreadable(path, "damaged", "an image file that breaks off in its header")
    return _unreadable(path, "not_an_image", "no image format that Pillow knows, nor DICOM")


def _check_whole(path: Path, kind: str | None) -> None:
    """Refuse what Pillow would show in part. See ``medprompt.core.integrity``."""
    if kind in ("JPEG", "MPO"):
        check_jpeg(path.read_bytes())
    elif kind == "PNG":
        check_png(path)
    elif kind == "TIFF":
        check_tiff(path)


def _notes(path: Path, kind: str | None, remarks: Iterable[warnings.WarningMessage]) -> list[str]:
    """What Pillow's remarks about a file's tags mean: in a TIFF they describe the pixels, elsewhere they are EXIF's.

    Its other remarks are none about damage: of the size limit, which ours stands before, and of ways to convert.
    """
    about_tags = [str(remark.message) for remark in remarks if Path(remark.filename).stem == TAGS_MODULE]
    if about_tags and kind == "TIFF":
        raise _unreadable(path, "damaged", about_tags[0])
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
    return image.convert("RGB")


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
