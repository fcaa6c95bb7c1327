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
    return tuple((name, _shape(name, feeds[name])) for name in names)


def _shape(name: str, feed: Feed) -> tuple[int, ...]:
    if isinstance(feed, np.ndarray):
        return feed.shape
    kinds = {(row.shape, row.dtype) for row in feed}
    if len(kinds) != 1:
        raise EngineError(
            "The rows of an input do not make one array.",
            where=name,
            expected="at least one row, all of one shape and type",
            got="; ".join(sorted(f"{kind} {list(shape)}" for shape, kind in kinds)) or "none",
        )
    return (len(feed), *next(iter(kinds))[0])


def kind_of(feed: Feed) -> np.dtype[Any]:
    """The element type of what is fed."""
    return feed.dtype if isinstance(feed, np.ndarray) else np.result_type(*(row.dtype for row in feed))


def fill(target: NDArray[Any], feed: Feed) -> None:
    """Write what is fed where it is sent from: the one copy that the host makes of it."""
    if isinstance(feed, np.ndarray):
        np.copyto(target, feed)
        return
    for place, row in zip(target, feed, strict=True):
        np.copyto(place, row)


def cannot_change(feed: Feed) -> bool:
    """Whether an array, and all that it is a view of, is read-only: then the same object is the same content."""
    part: Any = feed
    while isinstance(part, np.ndarray):
        if part.flags.writeable:
            return False
        part = part.base
    return part is None
