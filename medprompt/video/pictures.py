"""Packets in, pictures out, in the order shown: each packet's picture comes, or is said to be lost.

FFmpeg conceals damage: it shows what it can guess. Here nothing is decoded between a damaged packet and the next key
frame, and the decoder begins there anew, as after a seek. Pictures that are shown before that key frame and decoded
after it (open groups of pictures) may refer to the damage, so they are lost too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from medprompt.video.ledgers import Ledger

DISCARDED = 0
"""The index of packets that the container's edit list hides: they are decoded, and not shown."""

MAX_HELD = 32
"""Pictures that may wait for one that was to be decoded before them: twice what H.264 and HEVC may reorder."""

LONG_AGO = 1 << 64
"""Before every time stamp."""

TINY = 20
"""Bytes of a packet of MPEG-4 that says: the picture of before, again. FFmpeg shows none for it."""

ONE_HELD = frozenset(["mpeg1video", "mpeg2video", "mpeg4"])
"""Codecs whose decoder holds one picture back, and never two."""

JUMP_S = 60
"""A clock that leaves out more than this jumped; it does not say how many pictures are lost."""

REGULAR = 0.1
"""Frames whose intervals differ by at most this share are of one rate; containers round times to milliseconds."""


@dataclass(eq=False)
class Picture:
    """What a packet promised.

    Attributes:
        index: Its place in the order of decoding.
        epoch: How often the container's clock had jumped back.
        pts: When it is shown, in ticks of the stream; None where nobody says.
        guessed: Whether the container left the time out.
        silent: Whether it may rightly be without a frame.
        headless: Whether its first bytes are not as they should be: damage may have begun in the packet before.
        frame: The decoded frame.
        lost: Why there is none.
    """

    index: int
    epoch: int = 0
    pts: int | None = None
    guessed: bool = False
    silent: bool = False
    headless: bool = False
    frame: Any = None
    lost: str = ""

    @property
    def order(self) -> tuple[int, int]:
        """Where it is shown."""
        return self.epoch, self.pts or 0

    @property
    def suspect(self) -> int:
        """The index from which on pictures may be damaged where this one is."""
        return self.index - self.headless


class Pictures:
    """Feeds one decoder, and knows what each packet owes.

    Args:
        stream: A picture stream of PyAV.
        timed: Whether the container says when pictures are shown. If not, their order is the decoder's.
        ledger: What the container says of its packets.
        live: Whether the source was joined while it ran.
    """

    def __init__(self, stream: Any, *, timed: bool, ledger: Ledger, live: bool) -> None:
        self.codec = stream.codec_context
        self.codec.copy_opaque = True
        self.timed, self.live = timed, live
        self.count = 0
        self._name = self.codec.name
        self._numbers = ledger.numbers
        self._times = ledger.times
        self._rhythm = _Rhythm(stream) if timed and not ledger.lists else None
        self._hole: int | None = None
        self._awaited: list[Picture] = []
        self._gone: list[Picture] = []
        self._came: list[Picture] = []
        self._damage = "" if live else "the file begins before its first key frame"
        self._began = self._flagged = self._interlaced = False
        self._first = self._key = self._latest = (0, -LONG_AGO)
        self._epoch = self._newest = 0
        self._dts: int | None = None
        self._last: Picture | None = None

    def of(self, packet: Any, torn: bool = False) -> Iterator[Picture]:
        """The pictures that are settled after one more packet, whose end may be ``torn`` off."""
        picture = self._promised(packet)
        flagged, self._flagged = self._flagged, packet.is_corrupt
        doubted = flagged or torn or packet.is_corrupt
        if doubted and not self._damage:
            self._spoil(picture.index - (not torn), "marked corrupt")
        if packet.is_keyframe and not doubted and (self._numbers or self._hole is None):
            yield from self._anew(picture)
        if self.live and not self._began:
            return
        if packet.is_discard:
            picture.index = DISCARDED
        else:
            self._awaited.append(picture)
        if self._damage:
            picture.lost = self._damage
        elif self.timed and picture.order < self._key:
            picture.lost = "it may refer to a picture before the key frame"
        else:
            self._decode(packet, picture)
        yield from self._settled()

    def _anew(self, key: Picture) -> Iterator[Picture]:
        """A sound key frame ends damage; what it leads in at the very beginning is no part of the video."""
        if self._damage and self.count > 1:
            self._key = key.order
        elif self.count == 1:
            self._first = key.order
        self._damage, self._began = "", True
        yield from self._settled()

    def rest(self, cut: bool = False) -> Iterator[Picture]:
        """The pictures that are left when the source has ended, or broke off.

        Where it broke off, those are lost that come after a picture which may have been cut off.
        """
        if not self._damage:
            self._collect(self._drained())
            if missing := [one.suspect for one in self._awaited if not one.frame and not one.lost and not one.silent]:
                self._spoil(min(missing), "no picture came of it")
        if cut and self.timed and self._dts is not None:
            for one in self._awaited:
                if one.order > (self._epoch, self._dts):
                    one.frame, one.lost = None, one.lost or "the source breaks off"
        self._damage, self._newest = "", 0
        yield from self._settled()
        self._hole = self._hole or self.count
        yield from self._run(None)

    def hole(self, listed: int = 0) -> None:
        """The container does not hold together here: packets are missing, ``listed`` of which it names."""
        self._spoil(self.count + 1, "packets are missing before it")
        for _ in range(listed):
            self.count += 1
            self._awaited.append(Picture(self.count, self._epoch, self._dts, guessed=True, lost=self._damage))

    def _promised(self, packet: Any) -> Picture:
        if None not in (packet.dts, self._dts) and (self._dts - packet.dts) * packet.time_base > 1:
            self._epoch += 1
        self._dts = packet.dts if packet.dts is not None else self._dts
        self.count += 1
        pts = packet.pts if packet.pts is not None else self._dts
        guessed = packet.pts is None or packet.pos is None  # a packet that a parser cut out of another has no place
        return Picture(self.count, self._epoch, pts, guessed, self._may_be_silent(packet), _headless(packet))

    def _may_be_silent(self, packet: Any) -> bool:
        if self._name == "vp8":
            return not bytes(packet)[0] >> 4 & 1  # show_frame, RFC 6386, 9.1
        return bool(self._name == "mpeg4" and packet.size < TINY)

    def _decode(self, packet: Any, picture: Picture) -> None:
        import av

        packet.opaque = picture.index
        try:
            frames = self.codec.decode(packet)
        except av.error.FFmpegError as error:
            if picture.order >= self._first:
                self._spoil(picture.suspect, error.strerror or type(error).__name__)
            return
        finally:
            self._newest = picture.index
        self._collect(frames)

    def _drained(self) -> list[Any]:
        """The frames that the decoder still holds; it begins anew afterwards."""
        import av

        try:
            return list(self.codec.decode(None))
        except av.error.FFmpegError:
            return []
        finally:
            self.codec.flush_buffers()

    def _spoil(self, index: int, reason: str) -> None:
        """All that is decoded from here on is lost, up to the next key frame."""
        self._damage, self._hole = reason, self.count
        self._take(self._drained())
        for one in self._awaited:
            if one.index >= index or one.frame is None or one.guessed or not self._times:
                one.frame, one.lost = None, one.lost or reason
        self._came = [one for one in self._came if one.frame]

    def _collect(self, frames: list[Any]) -> None:
        self._take(frames)
        wrong = [one.suspect for one in self._awaited if one.frame and one.frame.is_corrupt]
        wrong += [one.suspect for one in self._passed_over()]
        if wrong:
            self._spoil(min(wrong), "no picture came of it, or a damaged one")

    def _take(self, frames: list[Any]) -> None:
        """Give each frame to the packet it came of."""
        for frame in frames:
            picture = self._owner(frame)
            if picture is None:
                continue
            picture.frame, self._latest = frame, max(self._latest, picture.order)
            self._interlaced = frame.interlaced_frame
            self._came.append(picture)

    def _owner(self, frame: Any) -> Picture | None:
        """The picture that a frame is; None where it is not to be shown."""
        mine = [one for one in self._awaited if one.index == frame.opaque]
        if frame.opaque == DISCARDED or any(one.lost for one in mine):
            return None
        owed = [one for one in self._awaited if one.frame is None and not one.lost]
        if mine and mine[0] in owed:
            return mine[0]
        if owed:  # one packet with two pictures, and one with none: AVI's way to hold B-frames
            return min(owed, key=lambda one: one.order)
        picture = Picture(self.count, self._epoch, self._latest[1] + 1, guessed=True)
        self._awaited.append(picture)
        return picture

    def _passed_over(self) -> list[Picture]:
        """Pictures that should have come before one that came."""
        owed = [one for one in self._awaited if one.frame is None and not one.lost]
        if self._name in ONE_HELD and sum(not one.silent for one in owed) > 1:
            pass  # one of two is missing: which, nobody knows
        elif self.timed:
            owed = [one for one in owed if one.order < self._latest]
        elif len(self._came) <= MAX_HELD:
            owed = []
        field = self._interlaced and self._name == "h264"  # the second of a pair has a packet of its own
        silent = [one for one in owed if one.silent or field or one.order < self._first]
        self._awaited = [one for one in self._awaited if one not in silent]
        return [one for one in owed if one not in silent]

    def _settled(self) -> Iterator[Picture]:
        """Pictures in the order shown, as far as nothing can change them, or come between."""
        self._awaited.sort(key=lambda one: one.order if self.timed else (0, one.index))
        while self._awaited:
            first = self._awaited[0] if self.timed or self._awaited[0].lost or not self._came else self._came[0]
            if first.lost:
                self._gone.append(first)
            elif first.frame is None or not self._final(first):
                return
            else:
                yield from self._run(first)
                self._last = first
                yield first
                self._came.remove(first)
            self._awaited.remove(first)

    def _final(self, picture: Picture) -> bool:
        if picture.index == self._newest and not self.live:
            return False  # damage that is noticed in the next packet may begin in this one
        if any(one.index < picture.index and one.frame is None and not one.lost for one in self._awaited):
            return False  # what it builds on has not come
        return not self._damage or (self._dts is not None and picture.order < (self._epoch, self._dts))

    def _run(self, after: Picture | None) -> Iterator[Picture]:
        """The pictures lost between the last one shown and this one."""
        gone, self._gone = sorted(self._gone, key=lambda one: one.order), []
        if self._rhythm:
            gone = self._rhythm.filled(self._last, gone, after, self._hole is not None)
        if after and self._hole is not None and after.index > self._hole:
            self._hole = None
        yield from gone


def _headless(packet: Any) -> bool:
    """Whether a packet begins with neither a start code, nor a length that fits, nor JPEG's mark."""
    head = bytes(memoryview(packet)[:4])
    begins = head.startswith((b"\0\0\1", b"\0\0\0\1", b"\xff\xd8"))
    return not begins and not 0 < int.from_bytes(head, "big") <= packet.size - 4


class _Rhythm:
    """How far frames lie apart, where it is always the same: lost ones are counted by it."""

    def __init__(self, stream: Any) -> None:
        rate = stream.average_rate or stream.guessed_rate
        self.stated = 1 / Fraction(rate) / stream.time_base if rate else None
        self.longest = JUMP_S / stream.time_base
        self.least = self.most = self.total = self.count = 0

    def filled(self, before: Picture | None, gone: list[Picture], after: Picture | None, hole: bool) -> list[Picture]:
        """The pictures that are lost between two that are not, by their number and times."""
        shown = [one.order for one in (before, after) if one]
        known = list({one.order: one for one in gone if not one.guessed and one.order not in shown}.values())
        gone = known + [one for one in gone if one.guessed]  # a parser may take a torn packet for two
        start = before or (known[0] if known else None)
        end = after or (known[-1] if known else None)
        if start is None or end is None or start.epoch != end.epoch:
            return gone
        span = (end.pts or 0) - (start.pts or 0)
        if not gone and not hole:
            self._note(span)
            return gone
        step = self._step()
        if step is None or not step / 2 <= span <= self.longest:
            return gone
        places = range(0 if start is not before else 1, round(span / step) + (end is not after))
        if len(places) < len(known):
            return known
        reason = gone[0].lost if gone else "packets are missing"
        return [Picture(0, start.epoch, round((start.pts or 0) + place * step), lost=reason) for place in places]

    def _note(self, span: int) -> None:
        self.least, self.most = min(self.least or span, span), max(self.most, span)
        self.total, self.count = self.total + span, self.count + 1

    def _step(self) -> Fraction | None:
        if not self.count:
            return self.stated
        mean = Fraction(self.total, self.count)
        if self.most - self.least > max(min(Fraction(2), mean / 2), mean * Fraction(REGULAR)):
            return None
        near = self.stated and abs(self.stated - mean) < mean * Fraction(REGULAR) / 2
        return self.stated if near else mean
