"""Which JPEG 2000 files Pillow shows rightly; others by OpenJPEG itself, or not at all.

Of colours of more than 8 bits, and of grey of 9, Pillow turns white into black: its rounding leaves the byte. It does
not look at the order that channels are said to have.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from medprompt.core.packages import install_command
from medprompt.images.levels import byte_levels
from medprompt.images.unreadable import unreadable

SIZ = b"\xff\x4f\xff\x51"
"""Start of a codestream and of its SIZ segment (ISO/IEC 15444-1, A.5.1)."""

SRGB, GREYSCALE = 16, 17
"""Enumerated colour spaces (15444-1, I.5.3.3)."""


@dataclass(frozen=True)
class Codestream:
    """What a file states about its samples.

    Attributes:
        size: Width and height.
        bits: Of each component.
        plain: Whether all are unsigned and of the whole size, without a palette, in grey or RGB.
    """

    size: tuple[int, int]
    bits: tuple[int, ...]
    plain: bool

    @property
    def fits_pillow(self) -> bool:
        """Whether Pillow is known to show it rightly."""
        grey = len(self.bits) == 1 and 8 <= self.bits[0] <= 16 and self.bits[0] != 9
        return self.plain and (grey or set(self.bits) == {8})

    @property
    def fits_openjpeg(self) -> bool:
        """Whether the samples have one meaning: levels of grey or RGB."""
        return self.plain and len(self.bits) in (1, 3) and len(set(self.bits)) == 1 and self.bits[0] <= 16


def codestream_of(content: bytes) -> Codestream:
    """Read the header of a JP2 file or a bare codestream.

    Raises:
        ValueError: There is none.
        struct.error: It breaks off.
    """
    start = content.find(SIZ)
    if start < 0:
        raise ValueError("no codestream")
    *_, right, bottom, left, top = struct.unpack_from(">HHLLLL", content, start + 4)
    (count,) = struct.unpack_from(">H", content, start + 40)
    parts = [struct.unpack_from(">BBB", content, start + 42 + 3 * index) for index in range(count)]
    boxes = content[:start]
    space = boxes.find(b"colr\1")
    known = space < 0 or struct.unpack_from(">L", boxes, space + 7)[0] in (SRGB, GREYSCALE)
    known = known and b"pclr" not in boxes and _in_order(boxes, count)  # a palette
    plain = known and all(part[0] < 128 and part[1:] == (1, 1) for part in parts)
    return Codestream((right - left, bottom - top), tuple((part[0] & 127) + 1 for part in parts), plain)


def _in_order(boxes: bytes, count: int) -> bool:
    """Whether the channels are colours in their order, with at most an opacity behind them (15444-1, I.5.3.6)."""
    at = boxes.find(b"cdef")
    if at < 0:
        return count in (1, 3)
    (entries,) = struct.unpack_from(">H", boxes, at + 4)
    found = sorted(struct.unpack_from(">3H", boxes, at + 6 + 6 * index) for index in range(entries))
    colours = [(channel, 0, channel + 1) for channel in range(count)]
    return found == colours or found == [*colours[:-1], (count - 1, 1, 0)]


def picture_by_openjpeg(path: Path, content: bytes, stream: Codestream) -> tuple[Image.Image, list[str]]:
    """Read what Pillow does not show rightly.

    Returns:
        RGB, and what a reader should know.

    Raises:
        ImageError: The samples have no stated meaning, or imagecodecs is not installed.
    """
    words = f"JPEG 2000 of {' + '.join(map(str, stream.bits))} bits" + (
        "" if stream.plain else ", not plain grey or RGB"
    )
    if not stream.fits_openjpeg:
        raise unreadable(path, "unsupported_pixels", words)
    try:
        import imagecodecs
    except ImportError as error:
        raise unreadable(path, "unsupported_pixels", words, install_command("images")) from error
    levels = np.atleast_3d(imagecodecs.jpeg2k_decode(content))
    shown, notes = byte_levels(levels, path, stream.bits[0])
    return Image.fromarray(np.ascontiguousarray(np.broadcast_to(shown, (*shown.shape[:2], 3)))), notes
