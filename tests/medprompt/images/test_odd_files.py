"""Files that some readers show otherwise than others: each is refused with its code, or shown with a word on it."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medprompt.core.errors import ImageError
from medprompt.images.read import load_picture
from tests.medprompt.images import made

GREY = made.levels(1, 8)[..., 0]
RGB = made.levels(3, 8)
HEIGHT, WIDTH = GREY.shape
HEADER = struct.pack(">LLBBBBB", WIDTH, HEIGHT, 8, 3, 0, 0, 0)
PALETTE = bytes(range(256)) * 3


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    parts = [struct.pack(">L", len(data)) + name + data for name, data in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(part + struct.pack(">L", zlib.crc32(part[4:])) for part in parts)


def grey_png(*before: tuple[bytes, bytes], header: bytes = HEADER) -> bytes:
    """A palette image with these chunks before its pixels."""
    data = zlib.compress(np.pad(GREY, ((0, 0), (1, 0))).tobytes())
    return png((b"IHDR", header), *before, (b"IDAT", data), (b"IEND", b""))


def saved(kind: str, picture: np.ndarray = RGB, mode: str | None = None, **options: Any) -> bytes:
    stream = BytesIO()
    Image.fromarray(picture, mode).save(stream, kind, **options)
    return stream.getvalue()


def progressive(scans: int) -> bytes:
    """The first scans of a progressive JPEG, and its end."""
    whole = saved("JPEG", progressive=True, quality=90)
    starts = [at for at in range(len(whole)) if whole.startswith(b"\xff\xda", at)]
    return whole[: (*starts, len(whole) - 2)[scans]] + b"\xff\xd9"


def cmyk(adobe: bool) -> bytes:
    whole = saved("JPEG", np.dstack([RGB, GREY]), "CMYK")
    at = whole.index(b"\xff\xee")
    return whole if adobe else whole[:at] + whole[at + 16 :]


def bmp(colours: int) -> bytes:
    """Of 8 bits, with a palette of so many colours."""
    start = 54 + 4 * colours
    info = struct.pack("<LllHHLLllLL", 40, WIDTH, HEIGHT, 1, 8, 0, GREY.size, 0, 0, colours, 0)
    return (
        b"BM" + struct.pack("<LLL", start + GREY.size, 0, start) + info + (PALETTE * 2)[: 4 * colours] + GREY.tobytes()
    )


def gif(screen: tuple[int, int]) -> bytes:
    whole = bytearray(saved("GIF", GREY))
    whole[6:10] = struct.pack("<HH", *screen)
    return bytes(whole)


def tiff(picture: np.ndarray, tags: dict[int, int] | None = None, **options: Any) -> bytes:
    """Written by tifffile, with other values of some tags."""
    tifffile = pytest.importorskip("tifffile")
    stream = BytesIO()
    tifffile.imwrite(stream, picture, metadata=None, **options)
    content = stream.getvalue()
    for tag, value in (tags or {}).items():
        entries = (struct.pack("<HHL", tag, kind, 1) for kind in (3, 4))  # SHORT, LONG: in little endian alike
        at = next(content.index(entry) for entry in entries if entry in content) + 8
        content = content[:at] + struct.pack("<L", value) + content[at + 4 :]
    return content


CMYK = np.dstack([RGB, GREY])
JPEG = {"compression": "jpeg", "photometric": "ycbcr"}
JPEG_RGB = {"compression": "jpeg", "photometric": "rgb", "compressionargs": {"outcolorspace": "rgb"}}
REFUSED: dict[str, tuple[Callable[[], bytes], str, str]] = {
    # case: the file, its code, what is said
    "PNG, colours that the palette lacks": (lambda: grey_png((b"PLTE", PALETTE[:300])), "damaged", "palette of 100"),
    "BMP, colours that the palette lacks": (lambda: bmp(100), "damaged", "palette of 100"),
    "PNG, two palettes": (lambda: grey_png((b"PLTE", PALETTE), (b"PLTE", PALETTE)), "damaged", "two palettes"),
    "PNG, half a colour": (lambda: grey_png((b"PLTE", PALETTE[:767])), "damaged", "half a colour"),
    "PNG, unknown chunk": (lambda: grey_png((b"PLTE", PALETTE), (b"ABCD", b"")), "damaged", "must be understood"),
    "PNG, compression 1": (
        lambda: grey_png((b"PLTE", PALETTE), header=HEADER[:10] + b"\1\0\0"),
        "damaged",
        "unknown compression",
    ),
    "TIFF, other inks": (
        lambda: tiff(CMYK, photometric="separated", extratags=[(332, 3, 1, 2, True)]),
        "unsupported_pixels",
        "inks",
    ),
    "TIFF, strengths reversed": (
        lambda: tiff(CMYK, photometric="separated", extratags=[(336, 3, 2, (255, 0), True)]),
        "unsupported_pixels",
        "reversed",
    ),
    "TIFF, JPEG 2000 of Aperio's YCbCr": (
        lambda: tiff(RGB, {259: 33003}, photometric="rgb", compression="jpeg2000"),
        "unsupported_encoding",
        "compression 33003",
    ),
    "TIFF, JPEG of YCbCr in a page of RGB": (lambda: tiff(RGB, {262: 2}, **JPEG), "damaged", "another colour space"),
    "TIFF, JPEG of RGB in a page of YCbCr": (
        lambda: tiff(RGB, {262: 6}, **JPEG_RGB),
        "damaged",
        "another colour space",
    ),
}
SAID: dict[str, tuple[Callable[[], bytes], str]] = {
    # case: the file, what is said; nothing where it is empty
    "PNG, a chunk that may be passed over": (lambda: grey_png((b"PLTE", PALETTE), (b"abCd", b"")), ""),
    "BMP": (lambda: bmp(256), ""),
    "JPEG, progressive": (lambda: progressive(-1), ""),
    "JPEG, progressive, no last scan": (lambda: progressive(-2), "may have been cut off"),
    "JPEG, progressive, two scans": (lambda: progressive(2), "may have been cut off"),
    "JPEG, CMYK": (lambda: cmyk(adobe=True), ""),
    "JPEG, CMYK without a mark": (lambda: cmyk(adobe=False), "Adobe's mark"),
    "GIF": (lambda: gif((WIDTH, HEIGHT)), ""),
    "GIF, smaller than its screen": (lambda: gif((WIDTH + 9, HEIGHT)), f"covers {WIDTH} x {HEIGHT} pixels"),
    "PGM": (lambda: saved("PPM", GREY), ""),
    "PGM, another behind": (lambda: 2 * saved("PPM", GREY), "page 1 of 2"),
    "PPM, another behind": (lambda: saved("PPM") + b"\n" + saved("PPM", GREY), "page 1 of 2"),
    "PGM of 16 bits, another behind": (lambda: 2 * saved("PPM", GREY.astype(np.uint16) * 257), "page 1 of 2"),
    "PBM, another behind": (lambda: 2 * saved("PPM", GREY > 99), "page 1 of 2"),
    "PPM of 12 bits": (lambda: b"P6 1 1 4095\n" + bytes((15, 255, 0, 0, 8, 0)), ""),
    "TIFF, JPEG": (lambda: tiff(RGB, **JPEG), ""),
    "TIFF, JPEG of RGB": (lambda: tiff(RGB, **JPEG_RGB), ""),
    "TIFF, JPEG in planes": (
        lambda: tiff(np.moveaxis(RGB, -1, 0), compression="jpeg", photometric="rgb", planarconfig="separate"),
        "",
    ),
    "TIFF, JPEG in strips": (lambda: tiff(RGB, rowsperstrip=16, **JPEG), ""),
    "TIFF, JPEG in tiles": (lambda: tiff(RGB, tile=(16, 16), **JPEG), ""),
    "TIFF, CMYK": (lambda: tiff(CMYK, photometric="separated", extratags=[(332, 3, 1, 1, True)]), ""),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(tmp_path: Path, case: str) -> None:
    content, code, got = REFUSED[case]
    (tmp_path / "x").write_bytes(content())
    with pytest.raises(ImageError) as caught:
        load_picture(tmp_path / "x")
    assert caught.value.code == code
    assert got in caught.value.got


@pytest.mark.parametrize("case", SAID)
def test_said(tmp_path: Path, case: str) -> None:
    content, says = SAID[case]
    (tmp_path / "x").write_bytes(content())
    said = load_picture(tmp_path / "x").warnings
    assert len(said) == bool(says)
    assert says in "".join(said)


def test_a_jpeg_that_does_not_fill_its_place_is_damaged(tmp_path: Path) -> None:
    """Pillow shows what is not there as black."""
    content = tiff(RGB, {257: HEIGHT + 10, 278: HEIGHT + 10}, **JPEG)
    (tmp_path / "x.tif").write_bytes(content)
    with pytest.raises(
        ImageError, match=f"{WIDTH} x {HEIGHT} pixels in the place of {WIDTH} x {HEIGHT + 10}"
    ) as caught:
        load_picture(tmp_path / "x.tif")
    assert caught.value.code == "damaged"
