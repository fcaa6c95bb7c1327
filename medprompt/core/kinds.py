"""What a file is, by its first bytes: the formats that are read, and by name those that are not.

A name says nothing: a PostScript file may be called ``.jpg``, and Pillow would run Ghostscript on it.
"""

from __future__ import annotations

from dataclasses import dataclass

from medprompt.core.errors import RejectCode

IMAGE_SUFFIXES = frozenset(
    [".avif", ".bmp", ".gif", ".j2k", ".jfif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff"]
) | {".webp"}
"""Files of a folder that count as images."""

HEAD_BYTES = 512
"""How much of a file is looked at."""

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""Formats that Pillow may open: each ``Image.open`` names some of these, for it knows others that run programs.
``JPEG`` stands for MPO too."""


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        name: What people call it; empty where it is not known.
        formats: Those of ``FORMATS`` that it may be; empty: it is not read as an image.
        code: Then why not.
    """

    name: str = ""
    formats: tuple[str, ...] = ()
    code: RejectCode = "not_an_image"


UNKNOWN = Kind()
TEXT = Kind("text")
VIDEO = Kind("video")
HEIC = Kind("HEIC", code="unsupported_encoding")
AVIF = Kind("AVIF", ("AVIF",))
JPEG = Kind("JPEG", ("JPEG",))

_TIFF = Kind("TIFF", ("TIFF",))
_J2K = Kind("JPEG 2000", ("JPEG2000",))
_JXL = Kind("JPEG XL", code="unsupported_encoding")
_STARTS = (
    (b"\x89PNG\r\n", Kind("PNG", ("PNG",))),
    (b"\xff\xd8\xff\xf7", Kind("JPEG-LS", code="unsupported_encoding")),
    (b"\xff\xd8\xff", JPEG),
    *((start, _TIFF) for start in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    (b"GIF8", Kind("GIF", ("GIF",))),
    (b"BM", Kind("BMP", ("BMP",))),
    *(
        (b"P%d" % number + blank, Kind("PNM", ("PPM",)))
        for number in range(1, 7)
        for blank in (b"\n", b" ", b"\t", b"\r")
    ),
    (b"\0\0\0\x0cjP  \r\n\x87\n", _J2K),
    (b"\xff\x4f\xff\x51", _J2K),
    (b"\0\0\0\x0cJXL \r\n\x87\n", _JXL),
    (b"\xff\x0a", _JXL),
    (b"8BPS", Kind("Photoshop", code="unsupported_encoding")),
    *((start, Kind("PostScript")) for start in (b"%!", b"\xc5\xd0\xd3\xc6")),
    (b"%PDF", Kind("PDF")),
    (b"PK\x03\x04", Kind("ZIP")),
    (b"\x1f\x8b", Kind("gzip")),
    (b"\x89HDF", Kind("HDF5")),
    *(
        (start, VIDEO) for start in (b"\x1a\x45\xdf\xa3", b"\0\0\x01\xba", b"\0\0\x01\xb3", b"FLV\x01")
    ),  # Matroska, MPEG
    *((start, VIDEO) for start in (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", b"\x06\x0e\x2b\x34", b"OggS")),  # ASF, MXF
    *((b"\0\0\0\x01" + unit, VIDEO) for unit in (b"\x06", b"\x09", b"\x27", b"\x67", b"\x40\x01", b"\x46\x01")),
    # H.264: information, delimiter, parameters; HEVC: parameters, delimiter
)
_RIFF = {b"WEBP": Kind("WebP", ("WEBP",)), b"AVI ": VIDEO}
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
_TS_SYNCS = ((0, 188), (4, 196))
"""Where two packets of an MPEG transport stream have their sync byte (ISO/IEC 13818-1, 2.4.3.2); second, on disc."""


def kind_of(head: bytes) -> Kind:
    """The kind of a file by its first ``HEAD_BYTES`` bytes; DICOM, whose mark lies further on, is not among them."""
    if head[:4] == b"RIFF":
        return _RIFF.get(head[8:12], UNKNOWN)
    if head[4:8] == b"ftyp":  # ISO/IEC 14496-12, 4.3: the brand, its version, further brands
        return _kind_of_brands(head[8:12], {head[at : at + 4] for at in range(16, len(head), 4)})
    if head[4:8] in (b"moov", b"mdat", b"wide"):
        return VIDEO
    if any(head[first : second + 1 : second - first] == b"GG" for first, second in _TS_SYNCS):
        return VIDEO
    return next((kind for start, kind in _STARTS if head.startswith(start)), TEXT if _is_text(head) else UNKNOWN)


def _is_text(head: bytes) -> bool:
    """UTF-8 without control characters but blanks; the last character may be cut off."""
    text = head.decode("utf-8", "replace").rstrip("\ufffd")
    return bool(text) and all(letter >= " " or letter.isspace() for letter in text) and "\ufffd" not in text


def _kind_of_brands(first: bytes, others: set[bytes]) -> Kind:
    if first in (b"avif", b"avis") or (first in (b"mif1", b"msf1") and others & {b"avif", b"avis"}):
        return AVIF
    return HEIC if first in _HEIC_BRANDS else VIDEO
