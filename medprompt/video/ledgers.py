"""What a container says of its packets, held against the packets that come: some go missing without an error."""

from __future__ import annotations

from typing import Any

OVERHEAD = 64
"""Bytes that Matroska may write between two packets: the headers of a block and of a cluster."""


class Ledger:
    """Of a container that says nothing."""

    def missing(self, packet: Any) -> int | None:
        """How many listed packets are missing before this one; 0 for an unknown number, None where none is."""
        return None

    def knows(self, packet: Any) -> bool:
        """Whether the container lists this packet; what it does not list is no packet, but looks like one."""
        return True


class Places(Ledger):
    """Of Matroska, which lists nothing: packets lie one after another, so bytes between them are a lost one."""

    def __init__(self) -> None:
        self._end: int | None = None

    def missing(self, packet: Any) -> int | None:
        if packet.pos is None:
            return None
        before, self._end = self._end, packet.pos + packet.size
        return 0 if before is not None and packet.pos - before > OVERHEAD else None


class Index(Ledger):
    """Of AVI, which lists the place of each packet.

    Args:
        stream: The picture stream.
    """

    HEADER = 8

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._entries = stream.index_entries
        self._next = 0
        self._usable: bool | None = None

    def missing(self, packet: Any) -> int | None:
        if packet.stream_index != self._stream.index or not self._follows(packet):
            return None
        passed = 0
        while self._next < len(self._entries) and self._place(self._next) < packet.pos:
            passed += self._entries[self._next].size > 0
            self._next += 1
        if self.knows(packet):
            self._next += 1
            return passed or None
        return passed

    def knows(self, packet: Any) -> bool:
        if packet.stream_index != self._stream.index or not self._follows(packet):
            return True
        return any(self._place(n) == packet.pos for n in (self._next - 1, self._next) if 0 <= n < len(self._entries))

    def _follows(self, packet: Any) -> bool:
        if self._usable is None:
            self._usable = packet.pos is not None and len(self._entries) > 0 and self._place(0) == packet.pos
        return self._usable

    def _place(self, number: int) -> int:
        return int(self._entries[number].pos) + self.HEADER


def ledger_of(kind: str, stream: Any) -> Ledger:
    """The ledger of a container, by FFmpeg's name of it."""
    if kind == "avi":
        return Index(stream)
    return Places() if kind.startswith("matroska") else Ledger()
