"""Grey levels: what a display shows for each stored value, as a table."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_modality_lut, apply_voi, apply_windowing

PERCENTILES = (0.5, 99.5)
"""Window of a frame of more than 8 bits whose file gives none: from and to these percentiles of its own values."""

_PIECE = 1 << 22
"""Pixels counted at a time: numpy widens them to 8 bytes each."""


def grey_table(
    view: Dataset, stored: NDArray[Any], inverted: bool
) -> tuple[NDArray[np.uint8], dict[str, Any], tuple[str, ...]]:
    """Make the table from stored values, integers of 8 or 16 bits, to what a display shows.

    The VOI LUT of the file is used, else its first window, else for up to 8 bits the full range, else a window over
    ``PERCENTILES`` of the frame without its padding, with a warning. For low values that are bright it is ``inverted``.

    Returns:
        uint8 ``[2^bits]`` by the unsigned value of the stored bits; which window was used, as JSON values; warnings.
    """
    bits = 8 * stored.dtype.itemsize
    values = np.arange(1 << bits, dtype=f"u{stored.dtype.itemsize}").view(stored.dtype).astype(np.int32)
    modality = np.asarray(apply_modality_lut(values, view))
    shares, window, notes = _shares(view, values, modality, stored)
    table = np.rint(np.clip(shares, 0, 1) * 255).astype(np.uint8)
    return (255 - table if inverted else table), window, notes


def _shares(
    view: Dataset, values: NDArray[np.int32], modality: NDArray[Any], stored: NDArray[Any]
) -> tuple[NDArray[np.float64], dict[str, Any], tuple[str, ...]]:
    """How bright each value is, 0 … 1; which window was used; warnings."""
    if view.get("VOILUTSequence"):
        return _by_lut(view, modality), {"source": "voi_lut", "available": len(view.VOILUTSequence)}, ()
    centres, widths = _numbers(view.get("WindowCenter")), _numbers(view.get("WindowWidth"))
    if centres and widths and _usable(widths[0], str(view.get("VOILUTFunction") or "LINEAR")):
        return _by_window(view, modality), _file_window(view, centres, widths), ()
    notes = ("the window of the file cannot be used",) if centres or widths else ()
    if int(view.BitsStored) <= 8:
        low, high = _range(view, values, modality)
        return _linear(modality, low, high), {"source": "full_range", "low": low, "high": high}, notes
    low, high = _percentiles(view, modality, stored)
    warning = f"no window in the file: grey levels {low:g} … {high:g} were shown (its {PERCENTILES} percentiles)"
    return _linear(modality, low, high), {"source": "percentile", "low": low, "high": high}, (*notes, warning)


def _numbers(value: Any) -> list[float]:
    if value is None or value == "":
        return []
    many = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    return [float(one) for one in many]


def _usable(width: float, function: str) -> bool:
    """PS3.3, C.11.2.1.2.1 and C.11.2.1.3."""
    return width >= 1 if function.upper() == "LINEAR" else width > 0


def _file_window(view: Dataset, centres: list[float], widths: list[float]) -> dict[str, Any]:
    return {
        "source": "file",
        "centre": centres[0],
        "width": widths[0],
        "function": str(view.get("VOILUTFunction") or "LINEAR").upper(),
        "available": min(len(centres), len(widths)),
    }


def _by_window(view: Dataset, modality: NDArray[Any]) -> NDArray[np.float64]:
    """The window as pydicom applies it, and what it gives far below and far above as the ends."""
    with np.errstate(over="ignore"):
        low, high = apply_windowing(np.array([-np.inf, np.inf]), view)
        shown = apply_windowing(modality.astype(np.float64), view)
    return _linear(shown, float(low), float(high))


def _by_lut(view: Dataset, modality: NDArray[Any]) -> NDArray[np.float64]:
    """The VOI LUT as pydicom applies it; indices are whole numbers, since a rescale makes them floating-point ones."""
    item = copy.deepcopy(view.VOILUTSequence[0])
    entries, first, bits = map(int, item.LUTDescriptor)
    # pydicom keeps indices in the type of the entries, too narrow for a table of over 256 bytes.
    item.LUTDescriptor = [entries, first, max(bits, 16)]
    holder = Dataset()
    holder.file_meta = view.file_meta
    holder.VOILUTSequence = [item]
    indices = np.clip(np.rint(modality).astype(np.int64), first, first + (entries or 65536) - 1)
    return apply_voi(indices, holder).astype(np.float64) / ((1 << bits) - 1)


def _linear(values: NDArray[Any], low: float, high: float) -> NDArray[np.float64]:
    """0 at ``low``, 1 at ``high``; also for a falling range, and black where there is none."""
    if high == low:
        return np.zeros(values.shape)
    return (values.astype(np.float64) - low) / (high - low)


def _range(view: Dataset, values: NDArray[np.int32], modality: NDArray[Any]) -> tuple[float, float]:
    """Least and largest modality value that the stored bits can make."""
    bits = int(view.BitsStored)
    least = -(1 << (bits - 1)) if int(view.PixelRepresentation) else 0
    possible = modality[(values >= least) & (values < least + (1 << bits))]
    return float(possible.min()), float(possible.max())


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
