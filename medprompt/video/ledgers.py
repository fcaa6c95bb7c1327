"""What a container says of its packets, held against the packets that come: some go missing without an error."""

from __future__ import annotations

from typing import Any

OVERHEAD = 64
"""Bytes that Matroska may write between two packets: the headers of a block and of a cluster."""

BARE = frozenset(["h264", "hevc", "mjpeg", "mpegvideo"])
"""FFmpeg's names of streams without a container, so without times."""


class Ledger:
    """Of a container that says nothing, as a stream without one.

    Attributes:
        lists: Whether it lists its packets, so that none can go missing uncounted.
        numbers: Whether the number of a picture can be told after a loss: by the list, or by the time.
    """

    lists = numbers = False

    def listed(self) -> int:
        """How many packets it lists; 0 where it does not."""
        return 0

    def missing(self, packet: Any) -> int | None:
        """How many listed packets are missing before this one; 0 for an unknown number, None where none is."""
        return None

    def knows(self, packet: Any) -> bool:
        """Whether the container lists this packet; what it does not list is no packet, but looks like one."""
        return True


class Clock(Ledger):
    """Of a container with a time for each picture."""

    numbers = True


class Table(Ledger):
    """Of MP4, which is read by its list of packets."""

    lists = numbers = True

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._entries = stream.index_entries

    def listed(self) -> int:
        return sum(1 for one in self._entries if one.size)


class Places(Ledger):
    """Of one that lists nothing, with packets one after another: bytes between them are a lost one."""

    def __init__(self, numbers: bool) -> None:
        self.numbers = numbers
        self._end: int | None = None

    def missing(self, packet: Any) -> int | None:
        if packet.pos is None:
            return None
        before, self._end = self._end, packet.pos + packet.size
        return 0 if before is not None and packet.pos - before > OVERHEAD else None


class Index(Table):
    """Of AVI, which lists the place of each packet, and is read from one to the next."""

    HEADER = 8

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._next = 0

    def missing(self, packet: Any) -> int | None:
        if packet.stream_index != self._stream.index:
            return None
        passed = 0
        while self._next < len(self._entries) and self._place(self._next) < packet.pos:
            passed += self._entries[self._next].size > 0
            self._next += 1
        known = self.knows(packet)
        self._next += known
        return None if known and not passed else passed

    def knows(self, packet: Any) -> bool:
        return any(self._place(n) == packet.pos for n in (self._next - 1, self._next) if 0 <= n < len(self._entries))

    def _place(self, number: int) -> int:
        return int(self._entries[number].pos) + self.HEADER


class Stated(Places):
    """Of an AVI whose list is not there: it states a number of frames."""

    def __init__(self, frames: int) -> None:
        super().__init__(numbers=False)
        self._frames = frames

    def listed(self) -> int:
        return self._frames


def ledger_of(kind: str, stream: Any) -> Ledger:
    """The ledger of a container, by FFmpeg's name of it."""
    if kind == "avi":
        return Index(stream) if len(stream.index_entries) >= max(1, stream.frames) else Stated(stream.frames)
    if kind.startswith("matroska"):
        return Places(numbers=True)
    if kind.startswith("mov,"):
        return Table(stream)
    return Ledger() if kind in BARE else Clock()
