"""Grey levels: what a display shows for each stored value, as a table.

The arithmetic is PS3.3's (C.11.1, C.11.2), on 64-bit floats. pydicom has its own, which refuses tables of 12 bits or
packed in bytes, takes the sign of a table's first value from the pixels', and computes with NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset

from medprompt.dicom.lut import Lut, depth, read_lut, remarks
from medprompt.dicom.numbers import floats_of

PERCENTILES = (0.5, 99.5)
"""Window of a frame of more than 8 bits whose file gives none: from and to these percentiles of its own values."""

FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")

STORED_ARE_SHOWN = (uid.XRayAngiographicImageStorage, uid.XRayRadiofluoroscopicImageStorage)
"""SOP classes whose modality LUT or rescale leads back to X-ray intensity and is no step of the display. dcmtk leaves
it out too; see also PS3.17, FFF.2.3.1.3.4."""

_PIECE = 1 << 22
"""Pixels counted at a time: numpy widens them to 8 bytes each."""

_Range = tuple[float, float]
_Notes = tuple[str, ...]
_Levels = NDArray[np.float64]


def grey_table(view: Dataset, stored: NDArray[Any], inverted: bool) -> tuple[NDArray[np.uint8], dict[str, Any], _Notes]:
    """Make the table from stored values, integers of 8 or 16 bits, to what a display shows.

    The VOI LUT of the file is used, else its first usable window, else for up to 8 bits the full range, else a window
    over ``PERCENTILES`` of the frame without its padding, with a warning. For low values that are bright it is
    ``inverted``. What the file states and cannot be used is left out, with a warning.

    Returns:
        uint8 ``[2^bits]`` by the unsigned value of the stored bits; which window was used, as JSON values; warnings.
    """
    bits = 8 * stored.dtype.itemsize
    values = np.arange(1 << bits, dtype=f"u{stored.dtype.itemsize}").view(stored.dtype).astype(np.float64)
    modality, possible, notes = _modality(view, values)
    shares, window, more = _shares(view, modality, possible, stored)
    table = np.rint(np.clip(shares, 0, 1) * 255).astype(np.uint8)
    return (255 - table if inverted else table), window, (*notes, *more)


def stored_range(view: Dataset) -> _Range:
    """Least and greatest value that the stored bits can hold."""
    bits = int(view.BitsStored)
    least = -(1 << (bits - 1)) if int(view.PixelRepresentation) else 0
    return least, least + (1 << bits) - 1


def _modality(view: Dataset, values: _Levels) -> tuple[_Levels, _Range, _Notes]:
    """What the stored values mean, and from where to where that can reach; warnings."""
    possible = stored_range(view)
    if view.get("SOPClassUID") in STORED_ARE_SHOWN:
        return values, possible, ()
    lut, notes = _lut(view, "ModalityLUTSequence", possible)
    if lut:
        return lut(values).astype(np.float64), (0, (1 << depth([lut], shown=False)) - 1), notes
    rescale = _rescale(view)
    if not rescale:
        given = floats_of(view, "RescaleSlope") or floats_of(view, "RescaleIntercept")
        return values, possible, (*notes, *(["the rescale of the file cannot be used"] if given else []))
    least, greatest = sorted(map(rescale, possible))
    return rescale(values), (least, greatest), notes


def _rescale(view: Dataset) -> Callable[[Any], Any] | None:
    """The file's rescale, of a value or an array; None where it has none, or one that leaves no picture."""
    slope, intercept = floats_of(view, "RescaleSlope"), floats_of(view, "RescaleIntercept")
    if not slope or not intercept or not abs(slope[0]) > 0 or not np.isfinite(slope[0] * 65536.0 + intercept[0]):
        return None
    return lambda value: value * slope[0] + intercept[0]


def _lut(view: Dataset, sequence: str, inputs: _Range) -> tuple[Lut | None, _Notes]:
    """The first table of a sequence; a warning where it is there and no table."""
    items = view.get(sequence)
    if not items:
        return None, ()
    name = "modality LUT" if sequence.startswith("Modality") else "VOI LUT"
    little = uid.UID(view.file_meta.TransferSyntaxUID).is_little_endian
    try:
        lut = read_lut(items[0], "LUTDescriptor", "LUTData", little, inputs)
    except ValueError:
        return None, (f"the {name} of the file cannot be used",)
    return lut, tuple(remarks(name, [lut], shown=name == "VOI LUT"))


def _shares(
    view: Dataset, modality: _Levels, possible: _Range, stored: NDArray[Any]
) -> tuple[_Levels, dict[str, Any], _Notes]:
    """How bright each value is, 0 … 1; which window was used; warnings."""
    lut, notes = _lut(view, "VOILUTSequence", possible)
    if lut:
        window: dict[str, Any] = {"source": "voi_lut", "available": len(view.VOILUTSequence)}
        return lut(modality) / ((1 << depth([lut])) - 1), window, notes
    found, more = _window(view)
    notes = (*notes, *more)
    if found:
        return _by_window(modality, found["centre"], found["width"], found["function"]), found, notes
    if int(view.BitsStored) <= 8:
        low, high = possible
        return _linear(modality, low, high), {"source": "full_range", "low": float(low), "high": float(high)}, notes
    low, high = _percentiles(view, modality, stored)
    warning = f"no window in the file: grey levels {low:g} … {high:g} were shown (its {PERCENTILES} percentiles)"
    return _linear(modality, low, high), {"source": "percentile", "low": low, "high": high}, (*notes, warning)


def _window(view: Dataset) -> tuple[dict[str, Any] | None, _Notes]:
    """The first usable window of the file (PS3.3, C.11.2.1.2.1 and C.11.2.1.3); warnings."""
    stated = str(view.get("VOILUTFunction") or "LINEAR").upper()
    function = stated if stated in FUNCTIONS else "LINEAR"
    centres, widths = floats_of(view, "WindowCenter"), floats_of(view, "WindowWidth")
    pairs = list(zip(centres, widths, strict=False))
    least = 1.0 if function == "LINEAR" else np.finfo(np.float64).tiny
    usable = [(centre, width) for centre, width in pairs if np.isfinite(centre) and width >= least]
    passed_over = (centres or widths) and (not usable or usable[0] != pairs[0])
    notes = ["the window of the file cannot be used"] if passed_over else []
    if centres and widths and len(centres) != len(widths):
        notes.append("the file has another number of window centres than of window widths")
    if not usable:
        return None, tuple(notes)
    if stated != function:
        notes.append("the VOI LUT function of the file is not known: its window was shown as LINEAR")
    centre, width = usable[0]
    window = {"source": "file", "centre": centre, "width": width, "function": function, "available": len(pairs)}
    return window, tuple(notes)


def _by_window(values: _Levels, centre: float, width: float, function: str) -> _Levels:
    """PS3.3, C.11.2.1.2.1 (LINEAR), C.11.2.1.3.1 (SIGMOID) and C.11.2.1.3.2 (LINEAR_EXACT)."""
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * ((values - centre) / width), -700, 700)))
    if function == "LINEAR":
        centre, width = centre - 0.5, width - 1
    return (values - centre) / width + 0.5 if width else (values > centre).astype(np.float64)


def _linear(values: NDArray[Any], low: float, high: float) -> _Levels:
    """0 at ``low``, 1 at ``high``; black where there is no range."""
    if high == low:
        return np.zeros(values.shape)
    return (values.astype(np.float64) - low) / (high - low)


def _percentiles(view: Dataset, modality: NDArray[Any], stored: NDArray[Any]) -> tuple[float, float]:
    """The frame's ``PERCENTILES``: modality values below which that share of its pixels lies, padding left out."""
    counts = np.zeros(len(modality), dtype=np.int64)
    flat = stored.reshape(-1).view(f"u{stored.dtype.itemsize}")
    for start in range(0, len(flat), _PIECE):
        counts += np.bincount(flat[start : start + _PIECE], minlength=len(counts))
    whole = counts.copy()
    for value in _padding(view, len(counts)):
        counts[value] = 0
    if not counts.any():
        counts = whole
    order = np.argsort(modality, kind="stable")
    below = np.cumsum(counts[order])
    low, high = (modality[order[np.searchsorted(below, share / 100 * below[-1])]] for share in PERCENTILES)
    return float(low), float(high)


def _padding(view: Dataset, count: int) -> range | list[int]:
    """Places of padding in a table of ``count`` values (PS3.3, C.7.5.1.1.2)."""
    first = view.get("PixelPaddingValue")
    if first is None:
        return []
    last = view.get("PixelPaddingRangeLimit")
    ends = sorted((int(first), int(first if last is None else last)))
    return [value % count for value in range(ends[0], min(ends[1], ends[0] + count - 1) + 1)]
