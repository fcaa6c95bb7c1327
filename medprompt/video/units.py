"""Units of H.264 and HEVC: what a packet consists of, and bytes that none may have."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

START = b"\0\0\1"
"""Begins a unit of a stream without lengths; zeros ahead of it belong to no unit."""

LENGTH_AT = {"h264": 4, "hevc": 21}
"""Where a container's record of the decoder says how many bytes the length of a unit has (ISO/IEC 14496-15)."""

FORBIDDEN = re.compile(rb"\x00\x00(?:[\x00-\x02]|\x03[^\x00-\x03])")
"""Bytes that an encoder escapes (ITU-T H.264 and H.265, 7.4.1 and 7.4.2). FFmpeg decodes them all the same."""


def length_of_codec(codec: Any) -> int:
    """Bytes of a unit's length in the packets of a context; 0 where start codes divide them."""
    record, at = codec.extradata or b"", LENGTH_AT[codec.name]
    return (record[at] & 3) + 1 if len(record) > at and record[0] == 1 else 0


def units_of_packet(content: bytes, length: int) -> Iterator[bytes]:
    """The units of a packet, without the zeros that may follow one."""
    if not length:
        yield from (unit.rstrip(b"\0") for unit in content.split(START)[1:])
        return
    at = 0
    while at + length <= len(content):
        start = at + length
        at = start + int.from_bytes(content[at:start], "big")
        yield content[start:at]


def is_forbidden(content: bytes, length: int) -> bool:
    """Whether a unit of a packet has bytes that no encoder writes."""
    return any(FORBIDDEN.search(unit.rstrip(b"\0")) for unit in units_of_packet(content, length))
