"""Shape arithmetic that stays arithmetic in a trace, so that one graph serves images of any size."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def rounded_up(size: int, unit: int) -> int:
    """The next multiple of a unit."""
    return (size + unit - 1) // unit * unit


def split_axis(tensor: Tensor, axis: int, sizes: Sequence[int]) -> Tensor:
    """``Tensor.unflatten``, whose trace would keep the other axes' sizes of one image."""
    shape = tensor.shape
    return tensor.reshape(*shape[:axis], *sizes, *shape[axis + 1 :])
