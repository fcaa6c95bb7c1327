"""Packets in, pictures out, in the order shown: each packet's picture comes, or is said to be lost.

FFmpeg conceals damage: it shows what it can guess. Here nothing is decoded between a damaged packet and the next key
frame, and the decoder begins there anew, as after a seek. Pictures that are shown before that key frame and decoded
after it (open groups of pictures) may refer to the damage, so they are lost too. So are those that were decoded before
it in the same group: what was noticed may not be the first that was wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from medprompt.video.groups import Groups
from medprompt.video.ledgers import Ledger
from medprompt.video.marks import index_of, mark_packet
from medprompt.video.picture import Picture
from medprompt.video.rhythm import Rhythm
from medprompt.video.units import LENGTH_AT, is_forbidden, length_of_codec
from medprompt.video.witness import witness_of

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
        self._rhythm = Rhythm(stream, ledger.paced) if timed and not ledger.lists else None
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
        self._groups = Groups()
        self._witness = witness_of(self.codec)
        self._contradicted: list[int] = []
        self._length = length_of_codec(self.codec) if self._name in LENGTH_AT else None

    def of(self, packet: Any, torn: bool = False) -> Iterator[Picture]:
        """The pictures that are settled after one more packet, whose end may be ``torn`` off."""
        picture = self._promised(packet)
        flagged, self._flagged = self._flagged, packet.is_corrupt
        doubted = flagged or torn or packet.is_corrupt
        if doubted and not self._damage:
            self._spoil(picture.index - (not torn), "marked corrupt")
        if packet.is_keyframe and not doubted and (self._numbers or self._hole is None):
            yield from self._anew(picture)
            self._groups.begin(picture)
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
        yield from self._groups.rest()
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

        mark_packet(packet, picture.index)
        if self._length is not None and is_forbidden(bytes(packet), self._length):
            self._spoil(picture.suspect, "bytes that no encoder writes")
            picture.lost = self._damage
            return
        try:
            frames = self.codec.decode(packet)
        except av.error.FFmpegError as error:
            if picture.order >= self._first:
                self._spoil(picture.suspect, error.strerror or type(error).__name__)
            return
        finally:
            self._newest = picture.index
        self._witness.decode(packet)
        self._collect(frames)

    def _drained(self) -> list[Any]:
        """The frames that the decoder still holds; it begins anew afterwards."""
        import av

        self._witness.drain()
        try:
            return list(self.codec.decode(None))
        except av.error.FFmpegError:
            return []
        finally:
            self.codec.flush_buffers()

    def _spoil(self, index: int, reason: str) -> None:
        """The group of this picture is lost, up to the next key frame."""
        self._damage, self._hole = reason, self.count
        self._take(self._drained())
        index, self._contradicted = min([index, *self._contradicted]), []
        index = index if self.live else self._groups.spoil(index, reason)
        for one in self._awaited:
            if one.index >= index or one.frame is None or one.guessed or not self._times:
                one.frame, one.lost = None, one.lost or reason
        self._came = [one for one in self._came if one.frame]

    def _collect(self, frames: list[Any]) -> None:
        self._take(frames)
        wrong = [one.suspect for one in self._awaited if one.frame and one.frame.is_corrupt]
        wrong += [*self._contradicted, *(one.suspect for one in self._passed_over())]
        if wrong:
            self._spoil(min(wrong), "no picture came of it, or a damaged one")

    def _take(self, frames: list[Any]) -> None:
        """Give each frame to the packet it came of."""
        for frame in frames:
            picture = self._owner(frame)
            agreed = self._witness.agrees(frame)
            if picture is None:
                continue
            if not agreed:
                self._contradicted.append(picture.suspect)
            picture.frame, self._latest = frame, max(self._latest, picture.order)
            self._interlaced = frame.interlaced_frame
            self._came.append(picture)

    def _owner(self, frame: Any) -> Picture | None:
        """The picture that a frame is; None where it is not to be shown."""
        index = index_of(frame)
        mine = [one for one in self._awaited if one.index == index]
        if index == DISCARDED or any(one.lost for one in mine):
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
        """Pictures in the order shown, as far as nothing can change them, or come between; of a file by groups."""
        for picture in self._in_order():
            yield from [picture] if self.live else self._groups.of(picture)

    def _in_order(self) -> Iterator[Picture]:
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
