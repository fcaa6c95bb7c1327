"""Which bytes of a file are which frame (PS3.5, 8 and A.4): told by what lies there, not by what is said of it.

Encapsulated frames are told apart by the first and last bytes of their fragments. An offset table is compared, no more:
a wrong one would show one frame in the place of another.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from io import SEEK_END
from struct import iter_unpack, unpack_from
from typing import BinaryIO

from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32, STANDARD_VR

from medprompt.dicom.codestream import begins, ends

UNDEFINED = 0xFFFFFFFF
"""A length that a delimiter ends (PS3.5, 7.1.1)."""

_PIXEL_DATA = 0x7FE00010

_ITEM, _DELIMITER = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"

_NOT_ENCAPSULATED = "compressed pixel data that is not encapsulated"

Span = tuple[int, int]
"""First byte of a piece of a file, and the one behind its last."""


@dataclass(frozen=True)
class Element:
    """Pixels in a stream: where their value starts, its length as stated, VR (empty where implicit), element's name."""

    stream: BinaryIO
    start: int
    length: int
    vr: str
    name: str

    @property
    def available(self) -> int:
        """Bytes of the stream from ``start`` on."""
        return max(0, self.stream.seek(0, SEEK_END) - self.start)


@dataclass(frozen=True)
class PixelData:
    """The frames of a file.

    Attributes:
        element: Where they are.
        frames: How many there are, or ought to be.
        whole: How many of them, from the first, are there.
        spans: The fragments of each, where they are encapsulated.
        notes: What a reader of the results should know.
        contradiction: Why no frame may be trusted; empty where nothing speaks against them.
    """

    element: Element
    frames: int
    whole: int
    spans: tuple[tuple[Span, ...], ...] = ()
    notes: tuple[str, ...] = ()
    contradiction: str = ""

    def missing(self, frame: int) -> str:
        """Why a frame (from 1) cannot be shown; empty where it can."""
        return self.contradiction or ("" if frame <= self.whole else f"the file breaks off before frame {frame}")

    def content(self, frame: int) -> bytes:
        """The bytes of an encapsulated frame (from 1)."""
        return b"".join(read_span(self.element.stream, span) for span in self.spans[frame - 1])


def read_span(stream: BinaryIO, span: Span) -> bytes:
    """A piece of a file."""
    stream.seek(span[0])
    return stream.read(span[1] - span[0])


def native_frames(element: Element, dataset: Dataset, stated: int, syntax: uid.UID) -> PixelData:
    """Uncompressed frames, which lie one behind the other."""
    if element.length == UNDEFINED:
        return PixelData(element, stated, 0, contradiction="encapsulated data, which the transfer syntax excludes")
    bits, there = _bits_of_frame(dataset), min(element.length, element.available)
    if dataset.PhotometricInterpretation == "YBR_FULL_422" and 16 * there >= 3 * bits * stated:
        return PixelData(element, stated, 0, contradiction="3 bytes a pixel, where YBR_FULL_422 has 2")
    needed = -(-bits * stated // 8)
    surplus = there - needed
    # A byte of padding, which makes the length even, may be as long as frames of a few bits.
    holds = stated if surplus in (0, needed % 2) else 8 * there // bits
    breaks_off = element.length > there
    notes = list(_said_of_count(stated, holds, breaks_off))
    if holds <= stated and surplus > 1:
        notes.append(f"{surplus} bytes follow the pixels of the last frame: rows or columns may be wrong")
    if not breaks_off:
        notes.extend(_shifted(element, element.start + there, syntax.is_little_endian))
    return _counted(element, stated, holds, breaks_off, notes)


def _shifted(element: Element, behind: int, little: bool = True) -> Iterable[str]:
    """What is said where neither elements nor zeros follow the pixels, which end ``behind`` a byte."""
    stream, at, size, last = element.stream, behind, element.start + element.available, _PIXEL_DATA
    while at + 8 <= size:
        head = read_span(stream, (at, at + 12))
        group, number, vr, length = unpack_from(("<" if little else ">") + "HH2sH", head)
        at += 8
        if not element.vr or vr.decode("latin-1") in EXPLICIT_VR_LENGTH_32:
            long, at = (head[8:], at + 4) if element.vr else (head[4:8], at)
            length = int.from_bytes(long, "little" if little else "big")
        known = not element.vr or vr.decode("latin-1") in STANDARD_VR
        if not last < (last := group << 16 | number) or not known:
            break
        if length == UNDEFINED:  # a sequence
            return
        at += length
    if at != size and read_span(stream, (behind, size)).strip(b"\0"):
        yield "bytes that are no DICOM element follow the pixels: these may be shifted"


def _bits_of_frame(dataset: Dataset) -> int:
    samples = int(dataset.get("SamplesPerPixel") or 1)
    bits = int(dataset.Rows) * int(dataset.Columns) * samples * int(dataset.BitsAllocated)
    if not bits:
        raise ValueError("a frame of no bits")
    return bits // 3 * 2 if dataset.PhotometricInterpretation == "YBR_FULL_422" else bits


def encapsulated_frames(element: Element, dataset: Dataset, stated: int, syntax: uid.UID) -> PixelData:
    """Compressed frames, each of one or more fragments (PS3.5, A.4)."""
    if element.length != UNDEFINED:
        return PixelData(element, stated, 0, contradiction=_NOT_ENCAPSULATED)
    items, end = _items(element)
    delimited = end > 0
    table, fragments = items[:1], items[1:]
    if len(fragments) != stated:
        fragments = [span for span in fragments if span[1] > span[0]]
    firsts = _firsts(element.stream, fragments, stated, syntax)
    spans = tuple(tuple(fragments[a:b]) for a, b in zip(firsts, [*firsts[1:], len(fragments)], strict=True))
    holds = len(spans)
    if holds and not _is_whole(element, spans[-1], delimited, syntax):
        holds -= 1
    notes = list(_said_of_count(stated, holds, not delimited))
    if delimited:
        notes.extend(_shifted(element, end))
    offsets = _offsets(element.stream, table, dataset)
    if offsets and offsets != [span[0][0] - 8 - table[0][1] for span in spans]:
        notes.append("the offset table does not fit the data: frames were told apart by the data")
    return replace(_counted(element, stated, holds, not delimited, notes), spans=spans)


def clip_inside(element: Element, stated: int) -> PixelData:
    """A video, all of whose frames are one stream of fragments (PS3.5, A.4.5 … A.4.8)."""
    if element.length != UNDEFINED:
        return PixelData(element, stated, 0, contradiction=_NOT_ENCAPSULATED)
    items, end = _items(element)
    notes = () if end else ("the file breaks off",)
    return PixelData(element, stated, stated, (tuple(items[1:]),), notes)


def _items(element: Element) -> tuple[list[Span], int]:
    """Every item, the offset table first, and the place behind the delimiter that ends them; 0 where none does."""
    stream, at, spans = element.stream, element.start, list[Span]()
    while True:
        head = read_span(stream, (at, at + 8))
        if len(head) < 8 or not head.startswith(_ITEM):
            return spans, at + 8 if head.startswith(_DELIMITER) else 0
        length = int.from_bytes(head[4:], "little")
        if length == UNDEFINED:
            return spans, 0
        spans.append((at + 8, at + 8 + length))
        at += 8 + length


def _firsts(stream: BinaryIO, fragments: Sequence[Span], stated: int, syntax: uid.UID) -> list[int]:
    """Places of the fragments with which a frame begins."""
    if syntax == uid.RLELossless and len(fragments) == stated:  # each is a frame (PS3.5, A.4.2), a damaged one too
        return list(range(stated))
    firsts = [0] if fragments else []
    for place in range(1, len(fragments)):
        start, end = fragments[place]
        head = read_span(stream, (start, min(start + 16, end)))
        if begins(head, syntax) or ends(_tail(stream, fragments[place - 1]), syntax):
            firsts.append(place)
    return firsts


def _is_whole(element: Element, spans: tuple[Span, ...], delimited: bool, syntax: uid.UID) -> bool:
    """Whether the last frame is not cut off: inside a fragment, or behind one that others should follow."""
    if spans[-1][1] > element.start + element.available:
        return False
    return delimited or syntax == uid.RLELossless or ends(_tail(element.stream, spans[-1]), syntax)


def _tail(stream: BinaryIO, span: Span) -> bytes:
    return read_span(stream, (max(span[0], span[1] - 16), span[1]))


def _offsets(stream: BinaryIO, table: list[Span], dataset: Dataset) -> list[int]:
    """The extended offset table, which is taken out of the data set, or else the basic one; empty where none is."""
    element = dataset.pop("ExtendedOffsetTable", None)  # pydicom would use it
    extended = element and element.value
    content = extended or (read_span(stream, table[0]) if table else b"")
    return [offset for (offset,) in iter_unpack("<Q" if extended else "<L", content)]


def _said_of_count(stated: int, holds: int, breaks_off: bool) -> Iterable[str]:
    if breaks_off:
        yield f"the file breaks off after {holds} of {max(stated, holds)} frames"
    if holds > stated:
        yield f"the file holds {holds} frames and states {stated}: all were read"


def _counted(element: Element, stated: int, holds: int, breaks_off: bool, notes: list[str]) -> PixelData:
    """Where a file that does not break off holds too few frames, nothing says which of them are missing."""
    fewer = f"data of {holds} frames, where the file states {stated}: which are missing is not known"
    contradiction = fewer if holds < stated and not breaks_off else ""
    return PixelData(element, max(stated, holds), holds, (), tuple(notes), contradiction)
