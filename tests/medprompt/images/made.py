"""Image files of many layouts, each with the picture that it must be shown as.

The levels are known before they are written, so what is right is computed from them and is no reader's answer:
v · 255 / (2^bits - 1), white minus that where white is zero, opacity over white.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

HEIGHT, WIDTH = 33, 40


class Made(NamedTuple):
    name: str
    right: NDArray[np.float64]  # [H, W, 3], 0 … 255


def levels(channels: int, bits: int) -> NDArray[np.generic]:
    """Waves with a white and a black corner: uint8 or uint16 ``[H, W, channels]``."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    waves = [(np.sin(columns / (5 + one)) + np.cos(rows / (7 + 2 * one)) + 2) / 4 for one in range(channels)]
    shares = np.stack(waves, axis=-1)
    shares[:6, :6], shares[-6:, -6:] = 1, 0
    return np.round(shares * ((1 << bits) - 1)).astype(np.uint8 if bits <= 8 else np.uint16)


def shown(stored: NDArray[np.generic], bits: int, *, inverted: bool = False, alpha: str = "") -> NDArray[np.float64]:
    values = stored.astype(np.float64) / ((1 << bits) - 1) * 255
    if alpha == "dropped":
        values = values[:, :, :-1]
    elif alpha:
        clear = 255 - values[:, :, -1:]
        values = values[:, :, :-1] * (1 if alpha == "associated" else 1 - clear / 255) + clear
    if inverted:
        values = 255 - values
    return np.broadcast_to(values, (*values.shape[:2], 3))


TIFF_FORMS = {
    # form: photometric, channels, options of tifffile, how the last channel is shown
    "black": ("minisblack", 1, {}, ""),
    "white": ("miniswhite", 1, {}, ""),
    "black+alpha": ("minisblack", 2, {"extrasamples": ["unassalpha"]}, "over white"),
    "rgb": ("rgb", 3, {}, ""),
    "rgb+alpha": ("rgb", 4, {"extrasamples": ["unassalpha"]}, "over white"),
    "rgb+associated": ("rgb", 4, {"extrasamples": ["assocalpha"]}, "associated"),
    "rgb+other": ("rgb", 4, {"extrasamples": ["unspecified"]}, "dropped"),
}
CODECS = {
    "none": (None, (2, 4, 8, 10, 12, 14, 16)),
    "lzw": ("lzw", (8, 16)),
    "deflate": ("adobe_deflate", (8, 16)),
    "zstd": ("zstd", (8, 16)),
    "packbits": ("packbits", (8, 16)),
    "jpeg2000": ("jpeg2000", (8, 12, 16)),
}


def tiff_files(folder: Path) -> Iterator[Made]:
    """Forms x bits x codecs x planes x byte order x tiles x predictor, as far as tifffile writes them rightly."""
    import tifffile

    for form, (photometric, channels, options, alpha) in TIFF_FORMS.items():
        for codec, (compression, depths) in CODECS.items():
            for bits in depths:
                for planes in (False, True)[: 1 + (channels > 1)]:
                    for variant, more in _variants(codec, bits):
                        stored = levels(channels, bits)
                        if alpha == "associated":
                            stored[:, :, :3] = np.minimum(stored[:, :, :3], stored[:, :, 3:])
                        layout: dict[str, Any] = {"planarconfig": "separate" if planes else "contig"}
                        if channels == 1:
                            layout = {}
                        if bits not in (8, 16):
                            layout["bitspersample"] = bits
                        written = np.ascontiguousarray(np.moveaxis(stored, -1, 0)) if planes else stored
                        name = f"{form}-{bits}-{codec}{'-planes' if planes else ''}{variant}.tif"
                        tifffile.imwrite(
                            folder / name,
                            written[..., 0] if channels == 1 else written,
                            photometric=photometric,
                            compression=compression,
                            metadata=None,
                            **options,
                            **layout,
                            **more,
                        )
                        yield Made(name, shown(stored, bits, inverted=form == "white", alpha=alpha))


def _variants(codec: str, bits: int) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "", {}
    if bits in (8, 16) and codec in ("none", "lzw", "deflate"):
        yield "-big-endian", {"byteorder": ">"}
        yield "-tiles", {"tile": (16, 16)}
        yield "-bigtiff", {"bigtiff": True}
    if bits in (8, 16) and codec in ("lzw", "deflate"):
        yield "-predictor", {"predictor": 2, "byteorder": ">"}


def jpeg2000_files(folder: Path) -> Iterator[Made]:
    import imagecodecs

    for channels in (1, 3):
        for bits in (4, 8, 10, 12, 14, 16):
            for suffix in ("jp2", "j2k"):
                stored = levels(channels, bits)
                name = f"{channels}-{bits}.{suffix}"
                picture = stored[..., 0] if channels == 1 else stored
                content = imagecodecs.jpeg2k_encode(
                    picture, level=0, bitspersample=bits, codecformat=suffix, mct=channels == 3, reversible=True
                )
                (folder / name).write_bytes(content)
                yield Made(name, shown(stored, bits))


def pnm_files(folder: Path) -> Iterator[Made]:
    for white in (1, 15, 100, 255, 256, 1023, 4095, 16383, 65535):
        for channels, binary, text in ((1, 5, 2), (3, 6, 3)):
            stored = np.round(levels(channels, 16) / 65535 * white).astype(int)
            right = np.broadcast_to(stored / white * 255, (HEIGHT, WIDTH, 3))
            head = f"{WIDTH} {HEIGHT}\n{white}\n"
            values = stored.astype(">u2" if white > 255 else "u1").tobytes()
            (folder / f"{binary}-{white}.pnm").write_bytes(f"P{binary}\n# made\n{head}".encode() + values)
            yield Made(f"{binary}-{white}.pnm", right)
            (folder / f"{text}-{white}.pnm").write_text(f"P{text}\n{head}" + "\n".join(map(str, stored.ravel())) + "\n")
            yield Made(f"{text}-{white}.pnm", right)


GREY, COLOUR, PALETTE, GREY_ALPHA, COLOUR_ALPHA = 0, 2, 3, 4, 6
"""Colour types of PNG (11.2.1)."""


def png_files(folder: Path) -> Iterator[Made]:
    for bits in (1, 2, 4, 8, 16):
        grey = levels(1, bits)
        yield _png(folder, f"grey-{bits}.png", GREY, bits, grey, shown(grey, bits))
        clear = int(grey[10, 10, 0])
        right = np.where(grey == clear, 255.0, shown(grey, bits))
        yield _png(folder, f"grey-{bits}-clear.png", GREY, bits, grey, right, tRNS=struct.pack(">H", clear))
        if bits < 16:
            colours = np.random.default_rng(bits).integers(0, 256, (1 << bits, 3), np.uint8)
            right = colours[grey[..., 0]].astype(np.float64)
            yield _png(folder, f"palette-{bits}.png", PALETTE, bits, grey, right, PLTE=colours.tobytes())
            right = np.where(grey == 0, 255.0, right)
            chunks = {"PLTE": colours.tobytes(), "tRNS": b"\0"}
            yield _png(folder, f"palette-{bits}-clear.png", PALETTE, bits, grey, right, **chunks)
    for bits in (8, 16):
        for kind, channels in ((COLOUR, 3), (GREY_ALPHA, 2), (COLOUR_ALPHA, 4)):
            stored = levels(channels, bits)
            right = shown(stored, bits, alpha="" if kind == COLOUR else "over white")
            yield _png(folder, f"type{kind}-{bits}.png", kind, bits, stored, right)
    colour = levels(3, 8)
    clear_colour = (colour == colour[10, 10]).all(axis=-1, keepdims=True)
    chunk = struct.pack(">HHH", *map(int, colour[10, 10]))
    right = np.where(clear_colour, 255.0, shown(colour, 8))
    yield _png(folder, "type2-8-clear.png", COLOUR, 8, colour, right, tRNS=chunk)


def _png(
    folder: Path,
    name: str,
    kind: int,
    bits: int,
    stored: NDArray[np.generic],
    right: NDArray[np.float64],
    **more: bytes,
) -> Made:
    (folder / name).write_bytes(png(kind, bits, stored, **more))
    return Made(name, np.broadcast_to(right, (HEIGHT, WIDTH, 3)))


def png(kind: int, bits: int, stored: NDArray[np.generic], **more: bytes) -> bytes:
    """A PNG; ``more`` are the chunks between its header and its pixels."""
    if bits >= 8:
        rows = stored.astype(">u2" if bits == 16 else "u1").reshape(HEIGHT, -1).view(np.uint8)
    else:
        wide = np.unpackbits(stored.astype(np.uint8), axis=-1).reshape(HEIGHT, WIDTH, 8)
        rows = np.packbits(wide[:, :, 8 - bits :].reshape(HEIGHT, -1), axis=1)
    pixels = b"".join(b"\0" + row.tobytes() for row in rows)
    head = struct.pack(">LLBBBBB", WIDTH, HEIGHT, bits, kind, 0, 0, 0)
    chunks = {"IHDR": head, **more, "IDAT": zlib.compress(pixels), "IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name.encode(), data) for name, data in chunks.items())


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">L", len(data)) + name + data + struct.pack(">L", zlib.crc32(name + data))
