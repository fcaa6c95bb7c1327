"""Which packet a frame is of: a mark that FFmpeg carries along."""

from __future__ import annotations

from typing import Any


class _Mark:
    """PyAV keeps what a packet carries under its address, and drops it with the first packet that lets go of it.

    So no two packets may carry one object: small numbers are one object each, whichever decoder they are given to.
    """

    __slots__ = ("index",)

    def __init__(self, index: int) -> None:
        self.index = index


def mark_packet(packet: Any, index: int) -> None:
    """Let a packet's frames carry ``index``; the decoder has to ``copy_opaque``."""
    packet.opaque = _Mark(index)


def index_of(marked: Any) -> int | None:
    """The index that a frame or a packet carries; None without one."""
    mark = marked.opaque
    return mark.index if isinstance(mark, _Mark) else None
