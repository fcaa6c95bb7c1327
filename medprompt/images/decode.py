"""What is read of an image file: a stream in, uint8 RGB out, upright and in one documented way for every mode."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from medprompt.core import picture
from medprompt.core.errors import ImageError, MedpromptError, RejectCode
from medprompt.core.integrity import (
    TiffTags,
    check_png,
    check_tiff,
    decode_jpeg,
    jpeg_process,
    jpeg_remarks,
    jpegs_in,
)
from medprompt.core.kinds import HEAD_BYTES, IMAGE_SUFFIXES, JPEG, VIDEO, Kind, kind_of
from medprompt.core.picture import Picture
from medprompt.core.remarks import recorded_warnings
from medprompt.images import jpeg2000, tiff
from medprompt.images.levels import byte_levels
from medprompt.images.unreadable import unreadable

SUFFIXES = IMAGE_SUFFIXES

DICOM_SUFFIXES = frozenset({".dcm", ".dicom", ".ima"})
"""Files of a folder that count as DICOM; files of other names are looked into."""

TAGS_MODULE = "TiffImagePlugin"
"""Pillow's module that reads the tags of TIFF and EXIF, and warns where it leaves some out."""

WIDE_MODES = frozenset({"I;16", "I;16B", "I;16L", "I;16N", "I"})
"""Pillow's modes of more than 8 bits; its colours have 8 whatever the file has."""

ORIENTATION = 0x0112
"""The tag of EXIF and TIFF."""

COLOUR_BYTES = {"RGB": 3, "BGR": 3, "BGRX": 4}
"""By Pillow's names of how the colours of a palette lie in PNG, GIF and BMP; a TIFF has all that its bits can name."""

PNM = frozenset({b"P1", b"P2", b"P3", b"P4", b"P5", b"P6"})
"""First bytes of its kinds."""

DARK = 1 << 6
"""What the highest of 14 bits in 16 comes to in 8."""


class _Decoded(NamedTuple):
    """An image as its reader returns it, upright; ``pages`` is how many the file has."""

    image: Image.Image
    pages: int
    notes: list[str]


def picture_from_stream(path: Path, stream: BinaryIO) -> Picture:
    """Decode an image file from the start of its bytes, see ``medprompt.images.read.load_picture``.

    Raises:
        ImageError: The file may not be analysed, or cannot be read.
    """
    kind = kind_of(stream.read(HEAD_BYTES))
    if not kind.formats:
        raise _unread_kind(path, kind)
    try:
        image, pages, notes = _decoded(path, stream, kind)
        pixels = np.array(_rgb(image, path))
    except UnidentifiedImageError as error:
        raise unreadable(path, "damaged", f"{kind.name} that breaks off or errs in its header") from error
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
    return Picture(pixels, (*notes, *([f"page 1 of {pages} was read"] if pages > 1 else [])))


def pixels_of_picture(image: Image.Image) -> NDArray[np.uint8]:
    """A Pillow picture as ``picture_from_stream`` makes one of a file: upright, uint8 ``[H, W, 3]`` RGB.

    Raises:
        ImageError: Without pixels, of an unknown mode, or over ``picture.MAX_PIXELS``.
    """
    where = Path(getattr(image, "filename", "") or "picture")
    _check_size(where, image.size)
    upright, notes = _of_bytes(ImageOps.exif_transpose(image), where)
    for note in notes:
        warnings.warn(note, stacklevel=2)
    return np.array(_rgb(upright, where))


def _unread_kind(path: Path, kind: Kind) -> ImageError:
    fix = ""
    if kind == VIDEO:
        fix = "pass it alone to `medprompt infer`; see `medprompt docs video`"
    elif kind.code == "unsupported_encoding":
        fix = "convert it to PNG"
    return unreadable(path, kind.code, kind.name or "no image format that is read, nor DICOM", fix)


def _decoded(path: Path, stream: BinaryIO, kind: Kind) -> _Decoded:
    if kind.name == "TIFF":
        return _decoded_tiff(path, stream, kind)
    if kind.name == "JPEG 2000":
        return _decoded_jpeg2000(path, stream, kind)
    if kind != JPEG:
        return _by_pillow(path, stream, kind)
    _check_process(path, content := _content(stream))
    image, pages, notes = _by_pillow(path, stream, kind)
    return _Decoded(image, max(pages, jpegs_in(content)), [*notes, *jpeg_remarks(content)])


def _decoded_tiff(path: Path, stream: BinaryIO, kind: Kind) -> _Decoded:
    tiff.silence_libtiff()
    tags = check_tiff(stream)
    tiff.check_first_page(tags, path)
    _check_size(path, (tags[256][0], tags[257][0]))
    tiff.check_parts(tags)
    layout = tiff.layout_from_tags(tags)
    if layout.fits_pillow and layout.compression == tiff.JPEG:
        tiff.check_jpeg_parts(stream, tags, layout)
    image, pages, notes = _tiff_by_pillow(path, stream, kind, layout, tags) or _tiff_by_tifffile(
        path, stream, layout, tags
    )
    return _Decoded(image, max(pages, tiff.stated_planes(tags)), notes)


def _tiff_by_pillow(
    path: Path, stream: BinaryIO, kind: Kind, layout: tiff.TiffLayout, tags: TiffTags
) -> _Decoded | None:
    """None where Pillow does not show it rightly, or knows the layout in the other byte order alone."""
    if not layout.fits_pillow:
        return None
    try:
        image, pages, notes = _by_pillow(path, stream, kind, layout.depth if 8 < layout.depth < 16 else 16)
    except UnidentifiedImageError:
        return None
    tiff.widen_palette(image, tags)
    inverted = layout.photometric == tiff.WHITE_IS_ZERO and layout.depth > 8
    return _Decoded(ImageOps.invert(image) if inverted else image, pages, notes)


def _tiff_by_tifffile(path: Path, stream: BinaryIO, layout: tiff.TiffLayout, tags: TiffTags) -> _Decoded:
    image, pages, notes = tiff.picture_by_tifffile(path, stream, layout)
    image.getexif()[ORIENTATION] = tags.get(ORIENTATION, (1,))[0]
    ImageOps.exif_transpose(image, in_place=True)
    return _Decoded(image, pages, notes)


def _decoded_jpeg2000(path: Path, stream: BinaryIO, kind: Kind) -> _Decoded:
    content = _content(stream)
    codestream = jpeg2000.codestream_of(content)
    _check_size(path, codestream.size)
    if codestream.fits_pillow:
        return _by_pillow(path, stream, kind, stretched=codestream.bits[0] != 16)
    image, notes = jpeg2000.picture_by_openjpeg(path, content, codestream)
    return _Decoded(image, 1, notes)


def _by_pillow(path: Path, stream: BinaryIO, kind: Kind, bits: int = 16, *, stretched: bool = False) -> _Decoded:
    """Read by Pillow, JPEG by simplejpeg; ``bits`` and ``stretched`` are those of ``byte_levels``."""
    stream.seek(0)
    with recorded_warnings() as remarks, Image.open(stream, formats=kind.formats) as image:
        _check_size(path, image.size)
        stored, colours, uncovered = str(image.tile), _palette_size(image), list(_uncovered(image))
        pages = max(getattr(image, "n_frames", 1), 1 + _pnm_follows(image, stream))
        whole = _whole(path, image, stream)
        ImageOps.exif_transpose(whole, in_place=True)
        whole.load()
        _check_indices(whole, colours)
        notes = [*_notes(path, image.format, remarks), *uncovered]
    wide = ";16" in stored or "65535" in stored  # the second are a PNM's own words
    stretched = stretched or (kind.name == "PNM" and not wide)
    upright, more = _of_bytes(whole, path, bits, stretched=stretched)
    if wide and whole.mode in ("RGB", "RGBA", "LA") and not stretched:
        more += _dark(whole)
    return _Decoded(upright, pages, notes + more)


def _palette_size(image: ImageFile.ImageFile) -> int:
    """How many colours a palette has in the file; 0 where it has none. Once loaded, Pillow's has 256."""
    palette = image.palette
    size = COLOUR_BYTES.get(palette.rawmode or palette.mode) if palette else None
    return len(palette.palette) // size if palette and size else 0


def _check_indices(image: Image.Image, colours: int) -> None:
    """Refuse a pixel of a colour that the palette lacks: some readers show black there, others something else.

    Raises:
        ValueError: There is one.
    """
    if image.mode == "P" and 0 < colours <= (highest := int(np.asarray(image).max())):
        raise ValueError(f"colour {highest} of a palette of {colours}")


def _uncovered(image: ImageFile.ImageFile) -> Iterator[str]:
    """What is said of a GIF whose first frame is smaller than the picture: what shows around it differs by reader."""
    covered = image.tile[0][1] if image.format == "GIF" and image.tile else None
    if covered and covered != (0, 0, *image.size):
        left, top, right, bottom = covered
        yield f"the first frame covers {right - left} x {bottom - top} pixels: around it is nothing of the picture"


def _pnm_follows(image: ImageFile.ImageFile, stream: BinaryIO) -> bool:
    """Whether behind the pixels of a binary PNM another one begins (its manual pages: a file is a row of images)."""
    if image.format != "PPM" or image.tile[0][0] not in ("raw", "ppm"):
        return False
    (width, height), (_, _, offset, args) = image.size, image.tile[0]
    raw, *rest = args if isinstance(args, tuple) else (args,)
    bits = 1 if image.mode == "1" else 8 * len(image.getbands()) * (2 if "16" in raw or (rest and rest[0] > 255) else 1)
    return _content(stream)[offset + height * -(-width * bits // 8) :].lstrip()[:2] in PNM


def _of_bytes(
    image: Image.Image, path: Path, bits: int = 16, *, stretched: bool = False
) -> tuple[Image.Image, list[str]]:
    """Grey of more than 8 bits as 8, see ``byte_levels``; other images as they are."""
    if image.mode not in WIDE_MODES:
        return image, []
    levels = np.asarray(image)
    shown, notes = byte_levels(levels, path, bits, stretched=stretched)
    if (clear := image.info.get("transparency")) is not None:
        shown[levels == clear] = 255
    return Image.fromarray(shown), notes


def _dark(image: Image.Image) -> list[str]:
    """Of 16-bit colours Pillow keeps the upper 8 bits: too few where the file's levels fill 14 or less."""
    if np.asarray(image.convert("RGB")).max() >= DARK:
        return []
    return ["the 16-bit colours fill 14 bits at most and are shown dark: scale them first"]


def _content(stream: BinaryIO) -> bytes:
    """All bytes; of a ``BytesIO`` they are not copied."""
    stream.seek(0)
    return stream.read()


def _check_process(path: Path, content: bytes) -> None:
    """Refuse what libjpeg does not decode as 8 bits, before it calls it damaged."""
    bits, process = jpeg_process(content)
    if bits != 8 or not process:
        got = f"JPEG of {bits} bits, {process or 'lossless or hierarchical'}"
        raise unreadable(path, "unsupported_encoding", got, "convert it to PNG")


def _whole(path: Path, image: ImageFile.ImageFile, stream: BinaryIO) -> Image.Image:
    """Refuse what Pillow would show in part, see ``medprompt.core.integrity``; the image, JPEG as decoded there.

    Pillow may be half-way through the stream: it seeks to the pixels before it reads them.
    """
    if image.format in ("JPEG", "MPO"):
        try:
            pixels = decode_jpeg(_content(stream))
        except (KeyError, ValueError) as error:
            if isinstance(error, KeyError) or "subsampling" in str(error):
                # TurboJPEG, whose warnings tell damage, knows the common samplings alone.
                raise unreadable(path, "unsupported_encoding", "JPEG with colours of an unusual sampling") from error
            raise
        if pixels is not None:
            decoded = Image.fromarray(pixels)
            decoded.info = image.info  # EXIF and XMP, which say how it is turned
            return decoded
    elif image.format == "PNG":
        check_png(BytesIO(_content(stream)))
        _state_clear_level(image, path)
    return image


def _state_clear_level(image: ImageFile.ImageFile, path: Path) -> None:
    """A PNG names the level or colour that is clear in its own bits (PNG, 11.3.2.1), and Pillow looks for it in 8.

    Raises:
        ImageError: The colours have 16 bits, of which Pillow keeps 8.
    """
    clear, stored = image.info.get("transparency"), str(image.tile)
    for few, step in (("'L;2'", 85), ("'L;4'", 17)):
        if few in stored and isinstance(clear, int):
            image.info["transparency"] = clear * step
    if ";16" in stored and isinstance(clear, tuple):
        raise unreadable(path, "unsupported_pixels", "16-bit colours, one of which is clear", "save it with 8 bits")


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
