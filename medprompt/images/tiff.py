"""Which TIFF layouts Pillow shows rightly; the others by tifffile, which knows more of them, or not at all.

Pillow takes the first plane of some planar files for the picture, and the values of some palettes for something else.
What it may read is therefore listed: each row was compared with tifffile and libtiff (tests/medprompt/images).
"""

from __future__ import annotations

import ctypes
import json
import logging
import logging.handlers
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import cycle, repeat
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, _imaging

from medprompt.core import picture
from medprompt.core.integrity import TiffTags, decode_jpeg, jpeg_colours
from medprompt.core.packages import install_command
from medprompt.images.levels import byte_levels
from medprompt.images.unreadable import unreadable

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6
NONE, JPEG = 1, 7
AMBIGUOUS = frozenset({6, JPEG, 33003})
"""Compressions whose colours tifffile does not tell for sure: the third, Aperio's, is JPEG 2000 of YCbCr, whatever the
photometric interpretation says (https://openslide.org/formats/aperio/)."""
FAX = frozenset({2, 3, 4})
LOSSLESS = frozenset({NONE, 5, 8, 32773, 32946, 34925, 50000})
"""LZW, deflate (two numbers), PackBits, LZMA, Zstandard."""

MANY_SAMPLES = 1024
"""More are damage; a hyperspectral image has some hundred."""

ASSOCIATED = 1
"""Kind of an extra sample: opacity that the colours are multiplied with already (TIFF 6.0, section 18)."""

_ALPHA = ((ASSOCIATED,), (2,))
_RGB_EXTRA = ((), (0,), *_ALPHA)
_GREY = {(grey, (bits,), ()) for grey in (WHITE_IS_ZERO, BLACK_IS_ZERO) for bits in (1, 2, 4, 8, 16)}
_BYTES = {(RGB, (8,) * (3 + len(extra)), extra) for extra in _RGB_EXTRA} | {(CMYK, (8,) * 4, ())}
_PLANES = _BYTES - {(RGB, (8,) * 4, (ASSOCIATED,))}
_PIXELS = {
    *_GREY,
    *_BYTES,
    (BLACK_IS_ZERO, (12,), ()),
    (BLACK_IS_ZERO, (8, 8), (2,)),
    *((PALETTE, (bits,), ()) for bits in (1, 2, 4, 8)),
    *((RGB, (16,) * (3 + len(extra)), extra) for extra in ((), (0,), (2,))),
}
_PHOTOS = {(BLACK_IS_ZERO, (8,), ()), (RGB, (8,) * 3, ()), (YCBCR, (8,) * 3, ())}
"""What Pillow shows rightly, as photometric interpretation, bits of the samples, kinds of the extra ones: in planes,
pixel by pixel, and as JPEG."""


@dataclass(frozen=True)
class TiffLayout:
    """How the pixels of a TIFF's first page lie; attributes are named as the tags (TIFF 6.0, section 8)."""

    photometric: int
    bits: tuple[int, ...]
    extra: tuple[int, ...]
    planes: bool
    compression: int
    formats: frozenset[int]
    fill_order: int

    @property
    def depth(self) -> int:
        """Bits of a sample, the most where they differ."""
        return max(self.bits)

    @property
    def fits_pillow(self) -> bool:
        """Whether Pillow is known to show it rightly."""
        form = self.photometric, self.bits, self.extra
        if self.formats == {2}:
            return form == (BLACK_IS_ZERO, (32,), ()) and self.compression in LOSSLESS and self.fill_order == 1
        if self.formats != {1} or self.fill_order != 1:
            return False
        if self.compression in LOSSLESS:
            return form in (_PLANES if self.planes else _PIXELS)
        return form in _PHOTOS if self.compression == JPEG else self.compression in FAX and form in _GREY

    @property
    def fits_tifffile(self) -> bool:
        """Whether what tifffile returns has one meaning: levels of grey or RGB, with at most an opacity."""
        colours = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3}.get(self.photometric)
        if colours is None or self.compression in AMBIGUOUS or len(set(self.bits)) != 1 or self.formats != {1}:
            return False
        known = self.extra in ((), *_ALPHA) or (self.extra == (0,) and self.photometric == RGB)
        return known and len(self.bits) == colours + len(self.extra) and 2 <= self.depth <= 16

    def __str__(self) -> str:
        kinds = {1: "unsigned", 2: "signed", 3: "floating point"}
        return (
            f"TIFF of {len(self.bits)} x {self.depth} bits, {', '.join(kinds.get(one, '?') for one in self.formats)}, "
            f"photometric interpretation {self.photometric}, compression {self.compression}"
            + (", in planes" if self.planes else "")
        )


def layout_from_tags(tags: TiffTags) -> TiffLayout:
    """The layout that the tags of a page state.

    Raises:
        ValueError: They contradict each other.
    """
    samples, bits = tags.get(277, (1,))[0], tags.get(258, (1,))
    if len(bits) not in (1, samples) or samples > MANY_SAMPLES:
        raise ValueError(f"bits of {len(bits)} samples where there are {samples}")
    return TiffLayout(
        photometric=tags.get(262, (-1,))[0],
        bits=bits * samples if len(bits) == 1 else bits,
        extra=tags.get(338, ()),
        planes=samples > 1 and tags.get(284, (1,))[0] == 2,
        compression=tags.get(259, (NONE,))[0],
        formats=frozenset(tags.get(339, (1,))),
        fill_order=tags.get(266, (1,))[0],
    )


def check_first_page(tags: TiffTags, path: Path) -> None:
    """Refuse a first page that is not the picture.

    Raises:
        ImageError: It is a preview or a mask, one block of many planes, or printed with other inks than CMYK.
    """
    about = tags.get(254, (0,))[0]
    if about & 0b101:
        raise unreadable(path, "unsupported_encoding", "a preview or a mask before the picture, as in camera raw files")
    if tags.get(32997, (1,))[0] > 1:
        raise unreadable(path, "unsupported_pixels", "a volume: a picture that is several levels deep")
    darkest, lightest = (*tags.get(336, ()), 0, 1)[:2]  # TIFF 6.0, section 16: DotRange
    if tags.get(332, (1,))[0] != 1 or (336 in tags and darkest > lightest):
        raise unreadable(path, "unsupported_pixels", "inks other than CMYK, or with their strengths reversed")


def stated_planes(tags: TiffTags) -> int:
    """How many pictures the first page's own words say that there are; 1 where they say nothing.

    ImageJ, tifffile and MetaMorph write a stack as one page with more data behind it.
    """
    words = bytes(tags.get(270, ())).decode("latin-1")
    if words.startswith("ImageJ=") and (images := re.search(r"^images=(\d+)", words, re.MULTILINE)):
        return int(images[1])
    if words.startswith('{"shape":'):
        try:
            shape = json.loads(words.rstrip("\0"))["shape"]
            values = int(np.prod([int(length) for length in shape], dtype=np.float64))
        except (ValueError, TypeError):
            return 1
        return max(1, values // max(1, tags[256][0] * tags[257][0] * tags.get(277, (1,))[0]))
    return max(1, len(tags.get(33628, ())) and len(tags.get(33629, ())))


def check_parts(tags: TiffTags) -> None:
    """Refuse strips or tiles of no bytes: readers show them as zeros, or as what stands at the file's start.

    Raises:
        ValueError: There is one, or tiles are larger than any picture may be.
    """
    if tags.get(322, (0,))[0] * tags.get(323, (0,))[0] > picture.MAX_PIXELS:
        raise ValueError("a tile has too many pixels")
    if 0 in tags.get(325, tags.get(279, (1,))):
        raise ValueError("a strip or tile is empty")


def check_jpeg_parts(stream: BinaryIO, tags: TiffTags, layout: TiffLayout) -> None:
    """Decode each strip or tile as strictly as a JPEG file: libtiff passes on what libjpeg warns of.

    Raises:
        ValueError: One is damaged, smaller than its place, or names other colours than the page: libtiff goes by the
            page's word, tifffile by the JPEG's.
    """
    tables = bytes(tags.get(347, ()))[:-2]
    offsets, lengths = (tags.get(324) or tags.get(273, ())), (tags.get(325) or tags.get(279, ()))
    parts = zip(offsets, lengths, strict=True)
    for (offset, length), (height, width) in zip(parts, _part_sizes(tags), strict=False):  # the sizes have no end
        stream.seek(offset)
        part = stream.read(length)
        content = tables + part[2:] if tables else part
        pixels = decode_jpeg(content)
        if pixels is not None and (pixels.shape[1] != width or len(pixels) < height):
            raise ValueError(f"a JPEG of {pixels.shape[1]} x {len(pixels)} pixels in the place of {width} x {height}")
        if jpeg_colours(content) not in ("", *_COLOURS.get(layout.photometric, ())):
            raise ValueError("a JPEG that names another colour space than its page")


_COLOURS = {RGB: ("RGB", "Gray"), YCBCR: ("YCbCr",), BLACK_IS_ZERO: ("Gray",)}
"""What a JPEG may name itself, by photometric interpretation."""


def _part_sizes(tags: TiffTags) -> Iterator[tuple[int, int]]:
    """Least height, and width, of each tile, or of each strip of each plane, without end."""
    if 322 in tags:
        yield from repeat((tags[323][0], tags[322][0]))
    (width,), (height,) = tags[256], tags[257]
    rows = max(1, min(height, tags.get(278, (height,))[0]))
    yield from cycle([(min(rows, height - top), width) for top in range(0, height, rows)])


def widen_palette(image: Image.Image, tags: TiffTags) -> None:
    """Some writers put 8-bit levels into the colour map, whose levels have 16: libtiff then takes them as they are."""
    colours = tags.get(320, ())
    if image.mode == "P" and colours and max(colours) < 256:
        image.load()
        image.putpalette(np.array(colours, np.uint8).reshape(3, -1).T.tobytes())


def picture_by_tifffile(path: Path, stream: BinaryIO, layout: TiffLayout) -> tuple[Image.Image, int, list[str]]:
    """Read what Pillow does not show rightly.

    Returns:
        Grey or RGB, not turned; the number of pages; what a reader should know.

    Raises:
        ImageError: The layout has no stated meaning, or tifffile is not installed.
    """
    if not layout.fits_tifffile:
        plain = layout.compression in LOSSLESS | FAX
        raise unreadable(path, "unsupported_pixels" if plain else "unsupported_encoding", str(layout))
    try:
        import imagecodecs  # noqa: F401  (tifffile decodes with it)
        import tifffile
    except ImportError as error:
        raise unreadable(path, "unsupported_encoding", str(layout), install_command("images")) from error
    stream.seek(0)
    with _no_remarks("tifffile"), tifffile.TiffFile(stream) as file:
        levels, pages = np.asarray(file.pages.first.asarray()), len(file.pages)
    image, notes = _picture(np.atleast_3d(np.moveaxis(levels, 0, -1) if layout.planes else levels), path, layout)
    return image, pages, notes


@contextmanager
def _no_remarks(name: str) -> Iterator[None]:
    """What is missing, tifffile fills with zeros, and says so in its log alone.

    Raises:
        ValueError: It logged something; not what, for that quotes the file.
    """
    logger, remarks = logging.getLogger(name), logging.handlers.BufferingHandler(1 << 20)
    passed_on, logger.propagate = logger.propagate, False
    logger.addHandler(remarks)
    try:
        yield
    finally:
        logger.removeHandler(remarks)
        logger.propagate = passed_on
    if any(remark.levelno >= logging.WARNING for remark in remarks.buffer):
        raise ValueError(f"{name} finds tags or data damaged or missing")


def _picture(levels: NDArray[np.generic], path: Path, layout: TiffLayout) -> tuple[Image.Image, list[str]]:
    """Levels ``[H, W, C]``, the extra samples behind the colours, as an 8-bit picture."""
    colours = levels[:, :, : levels.shape[2] - len(layout.extra)]
    opacity = layout.extra in _ALPHA
    shown, notes = byte_levels(colours, path, layout.depth, stretched=opacity)
    if layout.photometric == WHITE_IS_ZERO:
        shown = 255 - shown
    if opacity:
        alpha, _ = byte_levels(levels[:, :, -1:], path, layout.depth, stretched=True)
        shown = _over_white(shown, alpha, associated=layout.extra == (ASSOCIATED,))
    return Image.fromarray(np.ascontiguousarray(np.broadcast_to(shown, (*shown.shape[:2], 3)))), notes


def _over_white(colours: NDArray[np.uint8], alpha: NDArray[np.uint8], *, associated: bool) -> NDArray[np.uint8]:
    wide, opaque = colours.astype(np.uint16), alpha.astype(np.uint16)
    own = wide if associated else (wide * opaque + 127) // 255
    shown: NDArray[np.uint8] = np.minimum(own + (255 - opaque), 255).astype(np.uint8)
    return shown


@cache
def silence_libtiff() -> None:
    """Keep Pillow's libtiff from writing to stderr; what it finds wrong is an error of Pillow's as well.

    Its handlers are set where the library is a shared one, as in the wheels.
    """
    try:
        library = ctypes.CDLL(_imaging.__file__)
        library.TIFFSetErrorHandler(None)
        library.TIFFSetWarningHandler(None)
    except (OSError, AttributeError):
        return
