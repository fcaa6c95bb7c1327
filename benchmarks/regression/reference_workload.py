"""A fixed piece of numpy work that a bundle's time is measured against where nothing better is at hand.

What slows the machine slows both, so the ratio of the two moves less than the time itself. It is no more than a
fallback: PyTorch or the old bundle, in turn in the same process, shares more with what is measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

REFERENCE_WORKLOAD = "reference workload"

SIDE = 192
"""Of the square float32 matrices: three of them fit the second-level cache."""


class ReferenceWorkload:
    """``repeats`` products of two fixed matrices by ``numpy.einsum``, which uses one thread whatever is set."""

    def __init__(self, repeats: int) -> None:
        random = np.random.default_rng(0)
        self.repeats = repeats
        self._left, self._right = random.random((2, SIDE, SIDE), dtype=np.float32)
        self._product = np.empty((SIDE, SIDE), dtype=np.float32)

    def __call__(self) -> None:
        """Do the work once."""
        for _ in range(self.repeats):
            np.einsum("ij,jk->ik", self._left, self._right, out=self._product, optimize=False)


def calibrate_repeats(call: Callable[[], object]) -> int:
    """How many repeats take about as long as ``call``, at least one; the quickest of three calls of each counts."""
    return max(1, round(min(_seconds(call) for _ in range(3)) / min(_seconds(ReferenceWorkload(1)) for _ in range(3))))


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return max(time.perf_counter() - began, 1e-9)
