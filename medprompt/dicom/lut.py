"""Look-up tables of a file: modality, VOI and palette, as PS3.3 (C.11.1.1, C.11.2.1.1, C.7.6.3.1.5) describes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

DEPTHS = range(8, 17)
"""Bits that an entry may have."""


@dataclass(frozen=True)
class Lut:
    """A table from whole numbers to 0 … 2^bits - 1.

    Attributes:
        entries: int64 ``[N]``.
        first: The value that the first entry is for; lower ones have it too, as higher ones have the last.
        bits: How many bits an entry has, as stated.
        spare: How many entries the file has beyond those stated; negative where some are missing.
    """

    entries: NDArray[np.int64]
    first: int
    bits: int
    spare: int = 0

    def __call__(self, values: NDArray[Any]) -> NDArray[np.int64]:
        """The entry of each value; values are rounded, since a rescale makes them floating-point ones."""
        places = np.clip(np.rint(values) - self.first, 0, len(self.entries) - 1)
        found: NDArray[np.int64] = self.entries[places.astype(np.int64)]
        return found


def read_lut(holder: Dataset, descriptor: str, data: str, little: bool, inputs: tuple[float, float]) -> Lut:
    """Read the table whose elements are called ``descriptor`` and ``data``.

    The first value's sign is not told by its VR where that is ambiguous, or wrong: it is signed where an input can be
    negative (C.11.2.1.1).

    Args:
        holder: The file, or an item of a sequence.
        descriptor: Keyword of the number of entries, first value and bits.
        data: Keyword of the entries, in words or packed in bytes.
        little: Whether the file is little endian.
        inputs: Least and greatest value that is looked up.

    Raises:
        ValueError: There is no such table, or an empty one.
    """
    stated, value = holder.get(descriptor), holder.get(data)
    if not isinstance(stated, Sequence) or len(stated) != 3 or value is None:
        raise ValueError("no table")
    count, first, bits = (int(number) & 0xFFFF for number in stated)
    content = _little_endian(value, swap=not little and holder[data].VR == "OW")
    count = count or 1 << 16
    there = _entries(content, count)
    entries = there[:count].astype(np.int64)
    return Lut(entries, first_value(first, len(entries), inputs), bits, len(there) - count)


def depth(luts: Sequence[Lut], shown: bool = True) -> int:
    """Bits of the entries of tables that belong together: as stated, where that can be.

    It cannot where entries are larger, nor where a display is meant and all would be below a quarter of white: such
    tables state 16 bits and hold 8 or 12.
    """
    stated = luts[0].bits
    held = max(8, *(int(lut.entries.max()).bit_length() for lut in luts))
    least = stated - 1 if shown else 0
    return stated if stated in DEPTHS and least <= held <= stated else held


def remarks(name: str, luts: Sequence[Lut], shown: bool = True) -> Iterator[str]:
    """What a reader should know of tables that belong together."""
    stated, bits = luts[0].bits, depth(luts, shown)
    if bits != stated:
        yield f"the {name} states {stated} bits and holds {bits}; these were shown"
    if not all(0 <= lut.spare <= 1 for lut in luts):  # one too many is padding
        yield f"the {name} has another number of entries than it states"


def _little_endian(value: Any, swap: bool) -> bytes:
    """The data as little-endian words, in which packed bytes stand in their order (PS3.5, 8.1.1)."""
    if isinstance(value, bytes):
        return np.frombuffer(value[: len(value) // 2 * 2], ">u2").astype("<u2").tobytes() if swap else value
    return (np.atleast_1d(np.array(value, np.int64)) & 0xFFFF).astype("<u2").tobytes()


def _entries(content: bytes, count: int) -> NDArray[Any]:
    """All entries that are there."""
    packed = len(content) in (count, count + 1) and count > 1
    words = np.frombuffer(content, np.uint8) if packed else np.frombuffer(content[: len(content) // 2 * 2], "<u2")
    if not len(words):
        raise ValueError("an empty table")
    return words


def first_value(stated: int, count: int, inputs: tuple[float, float]) -> int:
    """The first value, of 16 bits, with its sign; the other sign where with this one no input met the table."""
    least, greatest = inputs
    stated &= 0xFFFF
    signed = stated - (1 << 16) if stated >= 1 << 15 else stated
    likely = [signed, stated] if least < 0 else [stated, signed]
    return next((first for first in likely if first <= greatest and first + count > least), likely[0])
