"""What a container says of its packets, held against the packets that come: some go missing without an error."""

from __future__ import annotations

from typing import Any

OVERHEAD = 64
"""Bytes that Matroska may write between two packets: the headers of a block and of a cluster."""

BARE = frozenset(["h264", "hevc", "mjpeg", "mpegvideo"])
"""FFmpeg's names of streams without a container, so without times."""


DROPS = "FFmpeg drops damaged parts of this container silently"


class Ledger:
    """Of a container that says nothing.

    Attributes:
        lists: Whether it lists its packets, so that none can go missing uncounted.
        numbers: Whether the number of a picture can be told after a loss: by the list, or by the time.
        times: Whether it states when each picture is shown.
        paced: Whether pictures that came at one pace and leave a gap are lost ones.
        doubt: Why every number may be wrong, though nothing was noticed.
    """

    lists = numbers = times = paced = False
    doubt = ""

    def short(self, packets: int) -> int:
        """How many packets more than these it promises."""
        return 0

    def ticks(self, number: int) -> int | None:
        """When the frame of this number is shown, in ticks of the stream, where the list alone knows."""
        return None

    def missing(self, packet: Any) -> int | None:
        """How many listed packets are missing before this one; 0 for an unknown number, None where none is."""
        return None

    def knows(self, packet: Any) -> bool:
        """Whether the packet just asked about is listed; what is not is no packet, but looks like one."""
        return True


NO_CONTAINER = "the stream has no container"


class Bare(Ledger):
    """Of a stream without a container."""

    def __init__(self, stream: Any) -> None:
        rate = stream.average_rate or stream.guessed_rate
        self.doubt = f"{NO_CONTAINER}, and times count {float(rate):g} frames a second" if rate else ""


class Times(Ledger):
    """Of a container with a time for each picture."""

    numbers = times = True


class Clock(Times):
    """Of MPEG-TS, MPEG-PS and ASF: made for lossy lines. The count of four bits in MPEG-TS misses one loss in sixteen.

    Pictures that came at one pace for so long as ``STEADY``, and then leave a gap, are lost ones; one time that lies
    beside the pace is a damaged one.
    """

    STEADY = 12
    STATED = 4
    """How many steps one of the stated rate counts for."""

    paced = True

    def __init__(self, stream: Any, doubt: str = "") -> None:
        self.doubt = doubt
        self._stream = stream
        self._dts: int | None = None
        self._pace = self._kept = self._astray = 0
        rate = stream.average_rate
        self._stated = round(1 / rate / stream.time_base) if rate else 0

    def missing(self, packet: Any) -> int | None:
        """See ``Ledger``."""
        if packet.stream_index != self._stream.index or packet.dts is None:
            return None
        before, self._dts = self._dts, packet.dts
        if before is None:
            return None
        step, astray = packet.dts - before, self._astray
        if astray and abs(step + astray - self._pace) <= 2:
            self._astray = 0
            return 0
        if self._kept >= self.STEADY and (step > 1.5 * self._pace or self._beside(packet)):
            return 0
        self._note(step)
        return None

    def _note(self, step: int) -> None:
        """Keep the pace at the first step beside it: the next may come back to it."""
        even = abs(step - self._pace) <= 2
        self._astray = 0 if even or self._astray or self._kept < self.STEADY else step - self._pace
        if self._astray:
            return
        self._kept = self._kept + (self.STATED if abs(step - self._stated) <= 2 else 1) if even else 0
        self._pace = step

    def _beside(self, packet: Any) -> bool:
        """Whether the two times of a packet are no multiple of half the pace apart: a field is half a frame."""
        if packet.pts is None or self._pace <= 0:
            return False
        ahead = packet.pts - packet.dts
        halves = round(2 * ahead / self._pace)
        return bool(abs(ahead - halves * self._pace / 2) > 2 + abs(halves))


class Loose(Clock):
    """Of Ogg and MXF, which have one pace from the first frame on."""

    numbers = times = paced = False

    def __init__(self, stream: Any) -> None:
        super().__init__(stream, DROPS)
        self._begun = False
        if stream.average_rate:
            self._pace, self._kept = round(1 / stream.average_rate / stream.time_base), self.STEADY

    def missing(self, packet: Any) -> int | None:
        """See ``Ledger``."""
        gap, begun = super().missing(packet), self._begun
        self._begun = begun or packet.stream_index == self._stream.index
        return gap if begun or not self._begun or packet.is_keyframe else 0


class Table(Ledger):
    """Of MP4, which is read by its list of packets."""

    lists = numbers = times = True

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._entries = stream.index_entries

    def short(self, packets: int) -> int:
        """See ``Ledger``."""
        return sum(1 for one in self._entries if one.size) - packets


class Places(Ledger):
    """Of one that lists nothing, with packets one after another: bytes between them are a lost one."""

    def __init__(self, numbers: bool) -> None:
        self.numbers = self.times = numbers
        self._end: int | None = None

    def missing(self, packet: Any) -> int | None:
        """See ``Ledger``."""
        if packet.pos is None or not packet.size:
            return None
        before, self._end = self._end, packet.pos + packet.size
        return 0 if before is not None and packet.pos - before > OVERHEAD else None


class Index(Table):
    """Of AVI, which lists the place of each packet, and is read from one to the next."""

    HEADER = 8
    lists = times = False

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._next = 0
        self._known = True

    def missing(self, packet: Any) -> int | None:
        """See ``Ledger``."""
        if packet.stream_index != self._stream.index or not packet.size:
            return None
        passed = 0
        while self._next < len(self._entries) and self._place(self._next) < packet.pos:
            passed += self._entries[self._next].size > 0
            self._next += 1
        self._known = self._next < len(self._entries) and self._place(self._next) == packet.pos
        if not self._known:
            return passed
        late = self._entries[self._next].timestamp - (packet.dts or 0)  # FFmpeg counts on from the packet before
        packet.dts, packet.pts = (packet.dts or 0) + late, None if packet.pts is None else packet.pts + late
        self._next += 1
        return passed or None

    def ticks(self, number: int) -> int | None:
        """See ``Ledger``."""
        return int(self._entries[number - 1].timestamp) if number <= len(self._entries) else None

    def knows(self, packet: Any) -> bool:
        """See ``Ledger``."""
        return self._known or packet.stream_index != self._stream.index

    def _place(self, number: int) -> int:
        return int(self._entries[number].pos) + self.HEADER


class Stated(Places):
    """Of an AVI whose list lacks some: it states a number of frames, which have numbers for times."""

    def __init__(self, stream: Any) -> None:
        super().__init__(numbers=False)
        self._stream = stream
        self.doubt = f"the AVI states {stream.frames} frames and lists {len(stream.index_entries)}"
        self._dts = -1

    def missing(self, packet: Any) -> int | None:
        """See ``Ledger``."""
        if packet.stream_index != self._stream.index or packet.dts is None:
            return super().missing(packet)
        begun, self._dts = self._dts >= 0, packet.dts + (packet.duration or 1) - 1
        return super().missing(packet) if begun or packet.is_keyframe else 0

    def short(self, packets: int) -> int:
        """See ``Ledger``."""
        return int(self._stream.frames) - 1 - self._dts


def ledger_of(container: Any, stream: Any) -> Ledger:
    """The ledger of an open container, as it was when it was opened."""
    kind, entries = container.format.name, stream.index_entries
    if kind == "avi":
        return Index(stream) if _reaches(entries, stream.frames) else Stated(stream)
    if kind.startswith("matroska"):
        return Places(numbers=True)
    if kind.startswith("mov,"):
        return Table(stream)
    if kind in ("mpegts", "mpeg", "asf"):
        return Clock(stream, DROPS if kind == "asf" else "")
    if kind in ("ogg", "mxf", "mxf_opatom"):
        return Loose(stream)
    return Bare(stream) if kind in BARE else Times()


def _reaches(entries: Any, frames: int) -> bool:
    """Whether a list of AVI goes on to the last of the frames that are stated, some of which may be empty."""
    if len(entries) < 2:
        return len(entries) == frames
    before, last = (entries[len(entries) - back].timestamp for back in (2, 1))
    return bool(last + (last - before) >= frames)
