"""What a compressed frame says of itself: its own size, samples, bits and colours, which the file's header may deny."""

from __future__ import annotations

from dataclasses import dataclass
from struct import unpack_from
from typing import Literal

from pydicom import uid

JPEG, JPEG_2000, JP2 = b"\xff\xd8", b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  "
"""First bytes: JPEG and JPEG-LS (ISO/IEC 10918-1, B.1.1.3), a JPEG 2000 codestream and file (15444-1, A.4, I.5.1)."""

END = b"\xff\xd9"
"""EOI and EOC: last marker of all three, which their coded data cannot hold."""

_SOF = {*range(0xFFC0, 0xFFD0), 0xFFF7} - {0xFFC4, 0xFFC8, 0xFFCC}
"""Start of frame: JPEG's processes (10918-1, table B.1) and JPEG-LS (14495-1, C.1)."""

_FILL, _JFIF, _ADOBE, _SOS = 0xFFFF, 0xFFE0, 0xFFEE, 0xFFDA

_COD, _SOT = 0xFF52, 0xFF90
"""Coding style default; start of a tile-part, with which the main header ends (15444-1, A.2)."""


@dataclass(frozen=True)
class Codestream:
    """What the header of a compressed frame says.

    Attributes:
        size_hw: Rows and columns.
        samples: How many each pixel has.
        bits: Of the widest sample.
        frame_at: Where the frame header of a JPEG begins (SOF).
        marks_at: Where its application segments begin, which may name its colours.
        colours: Of three samples, by the rules of libjpeg; empty where nothing tells.
        settled: Whether libjpeg turns them into RGB whatever is asked of it.
        signed: Whether samples are; None where the format does not say, as in JPEG.
        transformed: Whether a JPEG 2000 holds RGB that became luma and chroma within it; None of other formats.
        unread: Why the decoder would show something else; empty where it does not.
    """

    size_hw: tuple[int, int]
    samples: int
    bits: int
    frame_at: int = 0
    marks_at: tuple[int, ...] = ()
    colours: Literal["RGB", "YBR", ""] = ""
    settled: bool = False
    signed: bool | None = None
    transformed: bool | None = None
    unread: str = ""


def begins(content: bytes, syntax: uid.UID) -> bool:
    """Whether a fragment is the first of a frame, by its first 16 bytes."""
    if syntax == uid.RLELossless:  # PS3.5, G.5: up to 15 segments, the first behind a header of 64 bytes
        return content[:8] in {bytes((count, 0, 0, 0, 64, 0, 0, 0)) for count in range(1, 16)}
    return content.startswith((JPEG, JPEG_2000, JP2))


def ends(content: bytes, syntax: uid.UID) -> bool:
    """Whether a fragment is the last of a frame, by its last bytes: padding may follow the marker."""
    return syntax != uid.RLELossless and content.rstrip(b"\0").endswith((END, END + b"\xff"))


def codestream_of(content: bytes) -> Codestream:
    """Read the header of a JPEG, JPEG-LS or JPEG 2000 frame.

    Raises:
        ValueError: It has none.
        struct.error: It breaks off.
    """
    if content.startswith(JPEG):
        return _jpeg(content)
    if content.startswith((JPEG_2000, JP2)):
        return _jpeg_2000(content, content.index(JPEG_2000))
    raise ValueError("neither JPEG nor JPEG 2000")


def _jpeg(content: bytes) -> Codestream:
    """The header up to the first scan, whose end settles the colours."""
    at, start, jfif, adobe, marks = 2, 0, False, -1, list[int]()
    while True:
        marker, length = unpack_from(">HH", content, at)
        if marker == _SOS:
            break
        if marker == _FILL:
            at += 1
            continue
        if marker < 0xFFC0 or length < 2:
            raise ValueError("no marker where one is due")
        if marker in _SOF:
            start = start or at
        if 0xFFE0 <= marker <= 0xFFEF:
            marks.append(at)
        jfif |= marker == _JFIF and content.startswith(b"JFIF", at + 4)
        if marker == _ADOBE and content.startswith(b"Adobe", at + 4) and length >= 14:
            adobe = content[at + 15]
        at += 2 + length
    if not start:
        raise ValueError("a scan without a frame")
    bits, height, width, samples = unpack_from(">BHHB", content, start + 4)
    parts = [unpack_from(">BB", content, start + 10 + 3 * place) for place in range(samples)]
    if samples != 3:
        return Codestream((height, width), samples, bits, start, tuple(marks))
    colours, settled = _colours(bytes(name for name, _ in parts), {factor for _, factor in parts}, jfif, adobe)
    return Codestream((height, width), samples, bits, start, tuple(marks), colours, settled)


def _colours(names: bytes, factors: set[int], jfif: bool, adobe: int) -> tuple[Literal["RGB", "YBR", ""], bool]:
    """By jdapimin.c, default_decompress_parms; that RGB is never subsampled is nobody's rule but everybody's habit."""
    settled = adobe >= 0 or (names == b"RGB" and not jfif)
    if names in (b"RGB", b"rgb") or (adobe == 0 and not jfif):
        return "RGB", settled
    return "YBR" if jfif or adobe > 0 or len(factors) > 1 else "", settled


def _jpeg_2000(content: bytes, at: int) -> Codestream:
    """The SIZ segment (15444-1, A.5.1), and of the COD segment (A.6.1) the transformation of components."""
    right, bottom, left, top, *_, samples = unpack_from(">8IH", content, at + 8)
    parts = [unpack_from("3B", content, at + 42 + 3 * place) for place in range(samples)]
    unread = ""
    if any(part[1:] != (1, 1) for part in parts):  # OpenJPEG's plug-in makes RGB of three, whatever they are
        unread = "JPEG 2000 with samples of several resolutions"
    elif left or top:
        unread = "JPEG 2000 whose picture does not begin at 0"
    return Codestream(
        (bottom - top, right - left),
        samples,
        max((part[0] & 0x7F) + 1 for part in parts),
        signed=any(part[0] & 0x80 for part in parts),
        transformed=_is_transformed(content, at + 2),
        unread=unread,
    )


def _is_transformed(content: bytes, at: int) -> bool | None:
    marker, length = unpack_from(">HH", content, at)
    while marker not in (_COD, _SOT):
        at += 2 + length
        marker, length = unpack_from(">HH", content, at)
    return bool(content[at + 8]) if marker == _COD else None
