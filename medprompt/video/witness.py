"""Second decoders, for codecs of which FFmpeg's decoder does not ask whether a picture ends where its bytes end.

Nothing is estimated: both decode a sound stream alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from medprompt.video.marks import index_of, mark_packet
from medprompt.video.units import START, length_of_codec, units_of_packet

NEVER_READ = bytes([0xA5, 0x5A, 0xC3, 0x3C] * 8)
"""No start code, no escape, and not the next bits that an arithmetic decoder would expect."""

SLICES = 32
"""Types of units below it are slices (ITU-T H.265, 7.4.2.2)."""


class Witness:
    """Of a codec whose decoder needs none."""

    def decode(self, packet: Any) -> None:
        """Decode what the other one has decoded without an error."""

    def drain(self) -> None:
        """Let go of what the decoder still holds, and begin anew."""

    def agrees(self, frame: Any) -> bool:
        """Whether it has the same picture, of the same packet."""
        return True


class HevcWitness(Witness):
    """Gets the same packets with bytes after each slice that a sound slice never reads.

    Once damage has thrown the arithmetic decoder off its track, it reads on into them, and the two pictures differ.

    Args:
        codec: The other's context, with its options, before it is opened.
    """

    def __init__(self, codec: Any) -> None:
        import av

        self._codec = av.CodecContext.create(codec.name, "r")
        self._codec.extradata = codec.extradata
        self._codec.thread_type, self._codec.thread_count = "NONE", 1
        self._codec.options = codec.options
        self._codec.copy_opaque = True
        self._length = length_of_codec(codec)
        self._frames: dict[int | None, Any] = {}

    def decode(self, packet: Any) -> None:
        """See ``Witness``."""
        import av

        content = bytes(packet)
        copy = av.Packet(_followed(content, self._length))
        copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
        if (index := index_of(packet)) is not None:
            mark_packet(copy, index)
        for data in packet.iter_sidedata():
            copy.set_sidedata(data)
        self._take(copy)

    def drain(self) -> None:
        """See ``Witness``."""
        self._take(None)
        self._codec.flush_buffers()

    def _take(self, packet: Any) -> None:
        import av

        with suppress(av.error.FFmpegError):  # a frame that is missing tells as much
            self._frames.update((index_of(frame), frame) for frame in self._codec.decode(packet))

    def agrees(self, frame: Any) -> bool:
        """See ``Witness``."""
        own = self._frames.pop(index_of(frame), None)
        return own is not None and all(map(np.array_equal, _planes(own), _planes(frame)))


class JpegWitness(Witness):
    """libjpeg, whose warnings tell that a scan does not end where its bytes end."""

    def __init__(self) -> None:
        self._able = self._sound = False

    def decode(self, packet: Any) -> None:
        """See ``Witness``; the first picture comes at once. What libjpeg has never decoded it may not know."""
        self._sound = _decodes(bytes(packet), strict=True)
        self._able = self._able or self._sound or _decodes(bytes(packet), strict=False)

    def agrees(self, frame: Any) -> bool:
        """See ``Witness``."""
        return self._sound or not self._able


def witness_of(codec: Any) -> Witness:
    """The second decoder of a codec's context."""
    return HevcWitness(codec) if codec.name == "hevc" else JpegWitness() if codec.name == "mjpeg" else Witness()


def _decodes(content: bytes, strict: bool) -> bool:
    """Whether libjpeg decodes a JPEG; as small as it can, for the bits are the same."""
    try:
        simplejpeg.decode_jpeg(content, min_height=1, min_width=1, min_factor=8, strict=strict)
    except ValueError:
        return False
    return True


def _planes(frame: Any) -> Iterator[NDArray[np.uint8]]:
    """Bytes of each plane ``[H, W]``, without what lies between the lines."""
    for plane in frame.planes:
        wide = plane.width * ((frame.format.components[0].bits + 7) // 8)
        yield np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height, :wide]


def _followed(content: bytes, length: int) -> bytes:
    """A packet whose slices are followed by ``NEVER_READ``; ``length``: bytes of a unit's length, 0 for start codes."""
    longer = [
        unit + NEVER_READ if unit and unit[0] >> 1 & 63 < SLICES else unit for unit in units_of_packet(content, length)
    ]
    return b"".join((len(unit).to_bytes(length, "big") if length else START) + unit for unit in longer)
