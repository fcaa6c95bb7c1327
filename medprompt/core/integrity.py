"""Is a compressed image whole? Pillow shows what it can of a damaged one, and says nothing.

Of 3,000 copies of a smear's JPEG with one to four bytes changed Pillow refused 81; libjpeg warned of 1,719 more, whose
pixels are wrong from the fault on. Detections in such a picture are no findings.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import BinaryIO

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image


def decode_jpeg(content: bytes) -> NDArray[np.uint8] | None:
    """Decode a JPEG (baseline or progressive, 8 bits) and refuse what libjpeg so much as warns of.

    Pillow and simplejpeg both decode with libjpeg-turbo and get the same levels; only of CMYK do they make other RGB.

    Returns:
        uint8 ``[H, W, 3]`` RGB, not turned as EXIF says; None for a sound CMYK image, which is for Pillow to decode.

    Raises:
        ValueError: It is damaged; the text is libjpeg's.
    """
    cmyk = simplejpeg.decode_jpeg_header(content)[2] in ("CMYK", "YCCK")
    pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(content, "CMYK" if cmyk else "RGB", strict=True)
    return None if cmyk else pixels


SOF = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
"""Markers that begin a frame and name its process (ISO/IEC 10918-1, B.1.1.3; JPEG-LS: 14495-1)."""

PROCESSES = {0xC0: "baseline", 0xC1: "sequential", 0xC2: "progressive", 0xC9: "arithmetic", 0xCA: "arithmetic"}
"""Those that libjpeg decodes."""


def jpeg_process(content: bytes) -> tuple[int, str]:
    """Bits of a sample of a JPEG, and its process: empty where libjpeg has no decoder for it.

    Of one that breaks off before it says so, 8 and baseline: that it is damaged is for the decoder to say.
    """
    for marker, values in jpeg_segments(content):
        if marker in SOF and values:
            return values[0], PROCESSES.get(marker, "")
    return 8, PROCESSES[0xC0]


def jpegs_in(content: bytes) -> int:
    """How many JPEGs follow one another; the pictures in their tags are none of them."""
    return len(re.findall(rb"\xff\xd9\0*\xff\xd8\xff", content)) + 1


_SOI, _EOI, _SOS, _ADOBE = 0xD8, 0xD9, 0xDA, 0xEE
_MARKER = re.compile(rb"\xff+[^\0\xd0-\xd7\xff]")
"""In coded data: what is neither a byte 255 nor a restart (10918-1, B.1.1.2)."""


def jpeg_segments(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and parameters of each segment of the first JPEG, scans without their coded data, up to its end."""
    at = 2
    while (found := _MARKER.search(content, at)) and (marker := content[found.end() - 1]) not in (_SOI, _EOI):
        at = found.end() + int.from_bytes(content[found.end() : found.end() + 2], "big")
        yield marker, content[found.end() + 2 : at]


def jpeg_colours(content: bytes) -> str:
    """What the marks of a JPEG name its colours (JFIF, Adobe, names of the components), in TurboJPEG's words, or none.

    Subsampled ones are YCbCr without a mark: nobody subsamples RGB.
    """
    kind: str = simplejpeg.decode_jpeg_header(content)[2]
    frame, marks = b"", False
    for marker, values in jpeg_segments(content):
        marks |= (marker == 0xE0 and values.startswith(b"JFIF")) or (marker == _ADOBE and values.startswith(b"Adobe"))
        frame = values if marker in SOF else frame
    marks |= len(set(frame[7::3])) > 1
    return kind if marks or kind != "YCbCr" else ""


def jpeg_remarks(content: bytes) -> Iterator[str]:
    """What a reader should know of a JPEG that libjpeg finds no fault in."""
    segments = list(jpeg_segments(content))
    if _lacks_scans(segments):
        yield "the scans of the JPEG end before its finest detail: it may have been cut off"
    frame = next((values for marker, values in segments if marker in SOF), b"")
    if frame[5:6] == b"\4" and not any(marker == _ADOBE for marker, _ in segments):
        yield "CMYK without Adobe's mark: it was taken for inverted, as Adobe's is; if it is not, this is its negative"


def _lacks_scans(segments: Iterable[tuple[int, bytes]]) -> bool:
    """Whether a progressive JPEG does not bring every bit of every coefficient, which it need not (10918-1, G.1.1)."""
    missing: set[tuple[int, int]] = set()
    for marker, values in segments:
        if marker in (0xC2, 0xCA):
            missing = {(values[6 + 3 * index], place) for index in range(values[5]) for place in range(64)}
        if marker == _SOS and missing:
            parts, (first, last, bits) = values[1 : 1 + 2 * values[0] : 2], values[1 + 2 * values[0] :][:3]
            if not bits & 15:
                missing -= {(part, place) for part in parts for place in range(first, last + 1)}
    return bool(missing)


def check_png(stream: BinaryIO) -> None:
    """Compare each chunk's checksum, which Pillow skips where it decodes, and refuse what no decoder may pass over.

    Raises:
        SyntaxError: A checksum differs.
        OSError: The file breaks off.
        ValueError: A chunk that must be understood is unknown, states an unknown method, or is no palette.
    """
    _check_chunks(stream.read())
    stream.seek(0)
    with Image.open(stream, formats=("PNG",)) as image:
        image.verify()


def _check_chunks(content: bytes) -> None:
    """PNG (third edition), 5.4, 11.2.1 and 11.2.2; Pillow looks at none of it."""
    at, palettes = 8, 0
    while at + 8 <= len(content):
        length, name = struct.unpack_from(">L4s", content, at)
        data, at = content[at + 8 : at + 8 + length], at + 12 + length
        palettes += name == b"PLTE"
        if name == b"IHDR" and data[10:12] != b"\0\0":
            raise ValueError("a PNG of unknown compression or filters")
        if name == b"PLTE" and (length % 3 or palettes > 1):
            raise ValueError("a PNG with two palettes, or with half a colour in one")
        if not name[0] & 32 and name not in PNG_CHUNKS:
            raise ValueError("a PNG with a chunk that must be understood and is not known")
        if name == b"IEND":
            return


PNG_CHUNKS = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND"})
"""Those that a decoder must understand."""

MAX_TAGS = 1 << 16
MAX_TAG_BYTES = 1 << 26
"""A longer tag is damaged, or no picture of ``picture.MAX_PIXELS`` needs it."""

HEIGHT, STRIP_OFFSETS, ROWS_PER_STRIP, PLANAR_CONFIGURATION = 257, 273, 278, 284
ONE_NUMBER = frozenset({256, 257, 259, 262, 266, 274, 277, 278, PLANAR_CONFIGURATION})
"""Tags of one number each (TIFF 6.0, section 8): width, length, compression, photometric interpretation, fill order,
orientation, samples, rows of a strip, planar configuration."""
MANY_NUMBERS = frozenset({258, 273, 279, 320, 322, 323, 324, 325, 338, 339})
"""Bits of each sample; where strips and tiles are, and how long; colour map; extra samples; sample format."""
WHOLE_NUMBERS = {1: 1, 3: 2, 4: 4, 16: 8}
"""BYTE, SHORT, LONG, LONG8, and the bytes that each takes."""
RAW_BYTES = frozenset({2, 7})
"""ASCII, UNDEFINED."""

TiffTags = Mapping[int, tuple[int, ...]]
"""Values by tag: whole numbers, or single bytes; empty for other types. See ``check_tiff``."""


def check_tiff(stream: BinaryIO) -> TiffTags:
    """Look at the tags of the first page that say where and what the pixels are.

    Pillow leaves out a tag whose type it does not know, and then takes it for the default: one bit a sample, no
    compression.

    Returns:
        The tags of the first page, TIFF or BigTIFF.

    Raises:
        ValueError: One is of a type or count that it cannot have.
        struct.error: The directory breaks off.
    """
    found: dict[int, tuple[int, ...]] = {}
    for tag, kind, count, values in _tiff_entries(stream):
        known = tag in ONE_NUMBER or tag in MANY_NUMBERS
        wrong = kind not in WHOLE_NUMBERS or len(values) != count or (tag in ONE_NUMBER and count != 1)
        if (known and wrong) or (tag == PLANAR_CONFIGURATION and values[0] not in (1, 2)):
            raise ValueError(f"tag {tag} is damaged (type {kind}, {count} values, {values[:4]})")
        found.setdefault(tag, values)
    _check_strips(found)
    return found


def _check_strips(found: TiffTags) -> None:
    """Refuse fewer strips than the rows need: Pillow shows those that there are as the whole picture."""
    if not {STRIP_OFFSETS, ROWS_PER_STRIP, HEIGHT} <= set(found):
        return
    strips, (rows,), (height,) = len(found[STRIP_OFFSETS]), found[ROWS_PER_STRIP], found[HEIGHT]
    needed = -(-height // max(1, rows))
    if strips < needed:
        raise ValueError(f"{strips} strips of {rows} rows do not make {height}")


def _tiff_entries(handle: BinaryIO) -> Iterator[tuple[int, int, int, tuple[int, ...]]]:
    """Tag, type, count and values of each entry of the first directory, TIFF or BigTIFF."""
    handle.seek(0)
    header = handle.read(16)
    order = "<" if header[:2] == b"II" else ">"
    big = struct.unpack_from(f"{order}H", header, 2)[0] == 43
    (start,) = struct.unpack_from(f"{order}{'Q' if big else 'L'}", header, 8 if big else 4)
    length, offset, entry, size = ("Q", "Q", "HHQ8s", 20) if big else ("H", "L", "HHL4s", 12)
    handle.seek(start)
    (entries,) = struct.unpack(f"{order}{length}", handle.read(struct.calcsize(f"{order}{length}")))
    if entries > MAX_TAGS:
        raise ValueError(f"a directory of {entries} tags")
    for content in [handle.read(size) for _ in range(entries)]:
        tag, kind, count, field = struct.unpack(f"{order}{entry}", content)
        wide = 1 if kind in RAW_BYTES else WHOLE_NUMBERS.get(kind, 0)
        if wide * count > len(field):
            handle.seek(struct.unpack(f"{order}{offset}", field)[0])
            field = handle.read(min(wide * count, MAX_TAG_BYTES))
        whole = min(count, len(field) // wide) if wide else 0
        yield tag, kind, count, tuple(np.frombuffer(field, f"{order}u{wide or 1}", whole).tolist())
