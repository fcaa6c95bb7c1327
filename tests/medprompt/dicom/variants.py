"""DICOM files in all pairs of bits, sign, place, filling, codec, window and table; and dcmtk's picture of each."""

from __future__ import annotations

import random
import shutil
import subprocess
from dataclasses import dataclass, fields
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread, uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate

from tests.medprompt.dicom.made import write_dicom

TOOLS = ("dcm2pnm", "dcmconv", "dcmcrle", "dcmcjpeg", "dcmdjpeg", "dcmcjpls", "dcmdjpls")
LOSSY = ("JPEG baseline", "JPEG extended", "JPEG-LS near")

FACTORS: dict[str, tuple[Any, ...]] = {
    "bits": ((8, 8), (8, 7), (8, 6), (8, 2), (16, 16), (16, 15), (16, 12), (16, 10), (16, 8), (16, 5)),
    "signed": (False, True),
    "high": ("low end", "middle", "high end"),
    "unused": ("empty", "sign", "noise"),
    "codec": (
        *("explicit", "implicit", "big endian", "deflated", "RLE", "JPEG lossless", "JPEG lossless SV1"),
        *("JPEG-LS", "JPEG-LS near", "JPEG 2000", "JPEG baseline", "JPEG extended"),
    ),
    "window": ("none", "one", "several", "LINEAR_EXACT", "SIGMOID", "width 1", "width < 1", "narrow"),
    "table": (
        *("none", "rescale", "falling rescale", "steep rescale", "modality 8 packed", "modality 8", "modality 12"),
        *("modality 16", "VOI 8 packed", "VOI 8", "VOI 12", "VOI 16", "VOI after rescale", "VOI short", "palette 8"),
        *("palette 8 packed", "palette 16", "RGB"),
    ),
    "inverted": (False, True),
}


@dataclass(frozen=True)
class Variant:
    """One value of each of the ``FACTORS``."""

    bits: tuple[int, int]
    signed: bool
    high: str
    unused: str
    codec: str
    window: str
    table: str
    inverted: bool

    @property
    def colour(self) -> bool:
        return self.table == "RGB" or self.table.startswith("palette")

    @property
    def high_bit(self) -> int:
        allocated, stored = self.bits
        return {"low end": stored - 1, "middle": (allocated + stored) // 2 - 1, "high end": allocated - 1}[self.high]

    @property
    def valid(self) -> bool:
        """Whether the standard, or the encoder that is at hand, has such a file."""
        allocated, stored = self.bits
        lossy = self.codec in LOSSY
        return not (
            (self.high_bit == stored - 1) != (self.high == "low end")
            or (allocated == stored and self.unused != "empty")
            or (self.unused == "sign" and not (self.signed and self.high == "low end"))
            or (self.codec == "JPEG baseline" and stored != 8)
            or (self.codec == "JPEG extended" and not 8 < stored <= 12)
            or (lossy and (self.signed or self.colour or self.unused != "empty" or self.high != "low end"))
            or (lossy and (self.table != "none" or stored < 8))
            or (self.colour and (self.window != "none" or self.inverted))
            or (self.table == "RGB" and (self.signed or self.high != "low end" or stored < 8 or self.unused != "empty"))
        )


def variants(count: int, seed: int = 0) -> list[Variant]:
    """At least ``count``, and as many as it takes until each pair of values is met that is met in 10,000 at random."""
    rng = random.Random(seed)
    pool = list(dict.fromkeys(one for one in (_any(rng) for _ in range(150_000)) if one.valid))[:10_000]
    missing = set[Any]().union(*map(_pairs, pool))
    chosen: dict[Variant, None] = {}
    while missing or len(chosen) < count:
        sample = rng.sample(pool, 50) if len(chosen) < count else pool
        best = max(sample, key=lambda one: len(_pairs(one) & missing))
        chosen[best] = None
        missing -= _pairs(best)
    return list(chosen)


def _any(rng: random.Random) -> Variant:
    return Variant(**{name: rng.choice(values) for name, values in FACTORS.items()})


@cache
def _pairs(variant: Variant) -> frozenset[Any]:
    values = [(field.name, getattr(variant, field.name)) for field in fields(variant)]
    return frozenset(combinations(values, 2))


def write_variant(variant: Variant, folder: Path) -> tuple[Path, Path]:
    """Write it, and what dcm2pnm is shown: its uncompressed twin, or what dcmtk decodes of a lossy codec."""
    plain, coded = folder / "plain.dcm", folder / "coded.dcm"
    write_dicom(plain, _cells(variant), **_elements(variant))
    tools = {
        "implicit": ["dcmconv", "+ti"],
        "big endian": ["dcmconv", "+tb"],
        "deflated": ["dcmconv", "+td"],
        "RLE": ["dcmcrle"],
        "JPEG lossless": ["dcmcjpeg", "+el"],
        "JPEG lossless SV1": ["dcmcjpeg", "+e1"],
        "JPEG-LS": ["dcmcjpls"],
        "JPEG-LS near": ["dcmcjpls", "+en"],
        "JPEG baseline": ["dcmcjpeg", "+eb"],
        "JPEG extended": ["dcmcjpeg", "+ee", "+bt"],
    }
    if variant.codec == "explicit":
        return plain, plain
    if variant.codec == "JPEG 2000":
        _write_jpeg2000(variant, plain, coded)
        return coded, plain
    subprocess.run([*tools[variant.codec], str(plain), str(coded)], check=True, capture_output=True)
    if variant.codec not in LOSSY:
        return coded, plain
    shown, decoder = folder / "decoded.dcm", "dcmdjpls" if "LS" in variant.codec else "dcmdjpeg"
    subprocess.run([decoder, str(coded), str(shown)], check=True, capture_output=True)
    return coded, shown


def _write_jpeg2000(variant: Variant, plain: Path, coded: Path) -> None:
    """In the precision of the allocated bits where the others hold anything, else of the stored ones."""
    from openjpeg.utils import encode_array

    dataset = dcmread(plain)
    allocated, stored = variant.bits
    sign_fills = variant.unused == "sign" or (variant.unused == "empty" and not variant.signed)
    lower = variant.high == "low end" and sign_fills
    cells = _cells(variant)
    colour = cells.ndim == 3
    stream = encode_array(
        cells, bits_stored=stored if lower else allocated, photometric_interpretation=1 if colour else 2, use_mct=False
    )
    dataset.PixelData = encapsulate([stream])
    dataset["PixelData"].VR = "OB"
    dataset.file_meta.TransferSyntaxUID = uid.JPEG2000Lossless
    dataset.save_as(coded)


def _values(variant: Variant) -> NDArray[np.int64]:
    """Samples over the whole range of the stored bits, smooth, so that lossy codecs keep them near."""
    stored = variant.bits[1]
    rows, columns = np.mgrid[0:48, 0:64]
    ramp = (rows * 64 + columns) if variant.codec not in ("JPEG baseline", "JPEG extended") else (rows + columns) * 27
    values = ramp * ((1 << stored) - 1) // ramp.max()
    if variant.table == "RGB":
        values = np.stack([values, values[::-1], values.T.reshape(48, 64)], axis=-1)
    return values - (1 << (stored - 1)) if variant.signed else values


def _cells(variant: Variant) -> NDArray[Any]:
    """Allocated bits: the sample in its place, the others filled."""
    allocated, stored = variant.bits
    shift = variant.high_bit + 1 - stored
    mask = ((1 << stored) - 1) << shift
    values = _values(variant)
    cells = (values << shift) & mask
    if variant.unused == "sign":
        cells = values << shift
    elif variant.unused == "noise":
        cells |= np.random.default_rng(3).integers(0, 1 << allocated, cells.shape) & ~mask
    unsigned = (cells & ((1 << allocated) - 1)).astype(f"u{allocated // 8}")
    return unsigned.view(f"i{allocated // 8}") if variant.signed else unsigned


def _elements(variant: Variant) -> dict[str, Any]:
    elements = {"BitsStored": variant.bits[1], "HighBit": variant.high_bit, **_table(variant)}
    least, greatest = _modality_range(variant)
    span = max(greatest - least, 2)
    middle = (least + greatest) / 2
    windows: dict[str, dict[str, Any]] = {
        "none": {},
        "one": {"WindowCenter": middle, "WindowWidth": span},
        "several": {"WindowCenter": [middle + span / 8, middle], "WindowWidth": [max(2, span / 2), span]},
        "LINEAR_EXACT": {"WindowCenter": middle, "WindowWidth": span / 2, "VOILUTFunction": "LINEAR_EXACT"},
        "SIGMOID": {"WindowCenter": middle, "WindowWidth": span / 2, "VOILUTFunction": "SIGMOID"},
        "width 1": {"WindowCenter": round(middle), "WindowWidth": 1},
        "width < 1": {"WindowCenter": middle, "WindowWidth": 0.5},
        "narrow": {"WindowCenter": round(middle), "WindowWidth": max(2, round(span / 10))},
    }
    for name, value in windows[variant.window].items():
        many = value if isinstance(value, list) else [value]
        elements[name] = value if isinstance(value, str) else [f"{one:.10g}" for one in many]
    if variant.inverted:
        elements["PhotometricInterpretation"] = "MONOCHROME1"
    return elements


RESCALES = {
    "rescale": (1, -1024),
    "falling rescale": (-2, 100),
    "steep rescale": (3, -7),
    "VOI after rescale": (1, -1024),
}
"""Slope and intercept; whole numbers, since dcm2pnm cuts off what is behind the point."""


def _modality_range(variant: Variant) -> tuple[float, float]:
    stored = variant.bits[1]
    least = -(1 << (stored - 1)) if variant.signed else 0
    ends: tuple[float, float] = (least, least + (1 << stored) - 1)
    if variant.table in RESCALES:
        slope, intercept = RESCALES[variant.table]
        ends = (ends[0] * slope + intercept, ends[1] * slope + intercept)
    if variant.table.startswith("modality"):
        ends = (0, (1 << int(variant.table.split()[1])) - 1)
    return min(ends), max(ends)


def _table(variant: Variant) -> dict[str, Any]:
    kind, _, rest = variant.table.partition(" ")
    elements: dict[str, Any] = {}
    if variant.table in RESCALES:
        slope, intercept = RESCALES[variant.table]
        elements |= {"RescaleSlope": str(slope), "RescaleIntercept": str(intercept)}
    least, greatest = map(int, _modality_range(variant) if kind == "VOI" else _stored_ends(variant))
    depth = int(rest.split()[0]) if rest[:1].isdigit() else 12
    count = min(greatest - least + 1, 4096 if rest == "short" else 1 << 16) // (2 if rest == "short" else 1)
    first = least + (count // 4 if rest == "short" else 0)
    # A curve, so that neither order nor scale can be mistaken.
    curve = np.rint(np.linspace(0, 1, count) ** 0.6 * ((1 << depth) - 1)).astype(np.int64)
    packed = rest.endswith("packed")
    if kind in ("modality", "VOI"):
        sequence = "ModalityLUTSequence" if kind == "modality" else "VOILUTSequence"
        elements[sequence] = [_item(first, depth, curve, packed, least < 0)]
    if kind == "palette":
        elements["PhotometricInterpretation"] = "PALETTE COLOR"
        curves = {"Red": curve, "Green": curve[::-1], "Blue": np.roll(curve, count // 3)}
        for colour, entries in curves.items():
            elements[f"{colour}PaletteColorLookupTableDescriptor"] = [count % (1 << 16), first, depth]
            elements[f"{colour}PaletteColorLookupTableData"] = _data(entries, packed)
    return elements


def _stored_ends(variant: Variant) -> tuple[int, int]:
    least = -(1 << (variant.bits[1] - 1)) if variant.signed else 0
    return least, least + (1 << variant.bits[1]) - 1


def _item(first: int, depth: int, entries: NDArray[np.int64], packed: bool, signed: bool) -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if signed else "US", [len(entries) % (1 << 16), first, depth])
    item.add_new("LUTData", "OW", _data(entries, packed))
    item.ModalityLUTType = "US"
    return item


def _data(entries: NDArray[np.int64], packed: bool) -> bytes:
    content = entries.astype(np.uint8 if packed else "<u2").tobytes()
    return content + b"\0" * (len(content) % 2)


def dcmtk_picture(path: Path, window: dict[str, Any] | None) -> NDArray[np.int64]:
    """What dcm2pnm shows, RGB.

    Without a window it is given the one that was found: it has no percentiles, and its white is 240 in 4 bits.
    """
    out = path.with_suffix(".pnm")
    subprocess.run(["dcm2pnm", "-O", *_options(path, window), str(path), str(out)], check=True, capture_output=True)
    return np.asarray(Image.open(out).convert("RGB")).astype(np.int64)


def _options(path: Path, window: dict[str, Any] | None) -> list[str]:
    if window is None:
        return []
    if window["source"] == "voi_lut":
        return ["+Wl", "1"]
    if window["source"] != "file":
        low, high = window["low"], window["high"]
        return ["+Ww", str((low + high) / 2 + 0.5), str(high - low + 1)]
    if window["function"] == "LINEAR_EXACT":  # dcmtk 3.6.7 takes it for LINEAR
        return ["+Ww", str(window["centre"] + 0.5), str(window["width"] + 1)]
    return ["+Wi", "1"]


def have_tools() -> bool:
    return all(map(shutil.which, TOOLS))
