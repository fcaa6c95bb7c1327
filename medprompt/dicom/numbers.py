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
    except OverflowError:  # pydicom's, of an infinite IS
        value = "inf"
    if isinstance(value, str):  # pydicom leaves text that is no number as it is
        value = value.split("\\")
    values = [one for one in (value if isinstance(value, Sequence) else [value]) if one not in (None, "")]
    floats = list(map(_finite, values))
    view.add_new(name, "FD", floats[0] if len(floats) == 1 else floats or None)
    return not any(isinstance(one, str) or math.isnan(number) for one, number in zip(values, floats, strict=True))


def _finite(value: Any) -> float:
    """The number, also with a decimal comma; else NaN."""
    try:
        number = float(str(value).replace(",", "."))
    except ValueError:
        return math.nan
    return number if math.isfinite(number) else math.nan


def floats_of(view: Dataset, name: str) -> list[float]:
    """The values of one of the ``NUMBERS``, after ``repair_numbers``; none where it is absent or empty."""
    value = view.get(name)
    if value is None:
        return []
    return [value] if isinstance(value, float) else list(value)
