"""What is fed to an engine's inputs: an array each, or the rows of one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medprompt.core.errors import EngineError

Feed = NDArray[Any] | Sequence[NDArray[Any]]
"""What is fed to an input: an array, or the rows of one, which are then joined where they are sent from."""

Shapes = tuple[tuple[str, tuple[int, ...]], ...]
"""Input shapes by name, as a key."""


def shapes_of(feeds: Mapping[str, Feed], names: Iterable[str]) -> Shapes:
    """The shapes of what is fed, in the order of ``names``."""
    return tuple((name, layout_of(name, feeds[name])[0]) for name in names)


def layout_of(name: str, feed: Feed) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and element type of what is fed to an input.

    Raises:
        EngineError: Rows that do not make one array.
    """
    if isinstance(feed, np.ndarray):
        return feed.shape, feed.dtype
    kinds = {(row.shape, row.dtype) for row in feed}
    if len(kinds) != 1:
        raise EngineError(
            "The rows of an input do not make one array.",
            where=name,
            expected="at least one row, all of one shape and type",
            got="; ".join(sorted(f"{kind} {list(shape)}" for shape, kind in kinds)) or "none",
        )
    shape, kind = kinds.pop()
    return (len(feed), *shape), kind


def fill(target: NDArray[Any], feed: Feed) -> None:
    """Write what is fed where it is sent from: the one copy that the host makes of it."""
    if isinstance(feed, np.ndarray):
        np.copyto(target, feed)
        return
    for place, row in zip(target, feed, strict=True):
        np.copyto(place, row)


def fixed(array: NDArray[Any]) -> NDArray[Any]:
    """A read-only copy: an engine that has got it once need not get it again."""
    copy = np.array(array, order="C")
    copy.setflags(write=False)
    return copy


def cannot_change(feed: Feed) -> bool:
    """Whether an array, and all that it is a view of, is read-only: then the same object is the same content."""
    part: Any = feed
    while isinstance(part, np.ndarray):
        if part.flags.writeable:
            return False
        part = part.base
    return part is None
