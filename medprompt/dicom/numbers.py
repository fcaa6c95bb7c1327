"""Numbers of a header that are none: NaN, infinity, a decimal comma, text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from pydicom.dataset import Dataset

NUMBERS = (
    *("WindowCenter", "WindowWidth", "RescaleIntercept", "RescaleSlope"),
    *("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio"),
)
"""The elements that are read as floating-point numbers."""


def repair_numbers(view: Dataset) -> tuple[str, ...]:
    """Make floats of the ``NUMBERS`` of a frame: NaN of what is no finite number; warnings that name the elements."""
    ill_formed = [name for name in NUMBERS if name in view and not _repaired(view, name)]
    return (f"not written as a finite number: {', '.join(ill_formed)}",) if ill_formed else ()


def _repaired(view: Dataset, name: str) -> bool:
    """Whether the element was well-formed; its values are floats now."""
    try:
        value: Any = view.get(name)
        read = True
    except (ValueError, TypeError, OverflowError):  # pydicom's, of text that is no number
        value = bytes(view.get_item(name).value or b"").decode("latin-1").replace(",", ".").split("\\")
        read = False
    several = isinstance(value, Sequence) and not isinstance(value, str)
    floats = [_finite(one) for one in (value if several else [value]) if one not in (None, "")]
    view.add_new(name, "FD", floats if len(floats) > 1 else (floats or [None])[0])
    return read and not any(map(math.isnan, floats))


def _finite(value: Any) -> float:
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return math.nan
    return number if math.isfinite(number) else math.nan


def floats_of(view: Dataset, name: str) -> list[float]:
    """The values of one of the ``NUMBERS``, after ``repair_numbers``; none where it is absent or empty."""
    value = view.get(name)
    if value is None:
        return []
    return [value] if isinstance(value, float) else list(value)
