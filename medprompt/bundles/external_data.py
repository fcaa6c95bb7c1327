"""Where an ONNX file keeps its weights, read from the bytes alone: the runtime does without the onnx package.

ONNX is a protobuf message. This walks every path of its schema on which a tensor can lie and collects the
locations of external data. What it cannot follow, it refuses: an engine might follow it.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from medprompt.core.errors import BundleError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
LOCATION_KEY = b"location"
EXTERNAL_DATA = 13
DEEPEST = 64
"""Nested graphs deeper than this are refused; real models have two or three levels."""

# onnx.proto, IR version 13: message, field number, the message that lies there. Fields without a tensor are absent.
SCHEMA: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {EXTERNAL_DATA: "Entry"},
}


def external_locations(path: Path) -> tuple[str, ...]:
    """Return every external-data location that an ONNX file names, in order, without doubles.

    Raises:
        BundleError: The bytes are not a protobuf message, or a location is not text.
    """
    if path.stat().st_size == 0:
        raise _damaged(path, "an empty file")
    with path.open("rb") as handle:
        # Never closed by hand: an error's traceback still holds views of it.
        content = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
    # The key stands in the bytes as it is. A file without it, such as one with all weights inside, needs no walk.
    if content.find(LOCATION_KEY) < 0:
        return ()
    try:
        found = [value.decode() for value in _locations(memoryview(content), "Model", 0)]
    except (ValueError, IndexError) as error:
        raise _damaged(path, str(error)) from error
    return tuple(dict.fromkeys(found))


def _damaged(path: Path, got: str) -> BundleError:
    return BundleError(
        "The model is not a readable ONNX file.", where=str(path), got=got, fix="export the bundle again"
    )


def _locations(view: memoryview, message: str, depth: int) -> Iterator[bytes]:
    if depth > DEEPEST:
        raise ValueError("messages nested too deeply")
    if message == "Entry":
        yield from _entry_locations(view)
        return
    children = SCHEMA[message]
    for field, content in _fields(view):
        if field in children and content is not None:
            yield from _locations(content, children[field], depth + 1)


def _entry_locations(view: memoryview) -> Iterator[bytes]:
    """Values of one entry, if any of its keys is ``location``; readers differ on doubled fields."""
    fields = [(field, bytes(content)) for field, content in _fields(view) if content is not None]
    if any(field == 1 and content == LOCATION_KEY for field, content in fields):
        yield from (content for field, content in fields if field == 2)


def _fields(view: memoryview) -> Iterator[tuple[int, memoryview | None]]:
    """Yield each field of a message: its number, and its bytes where it is length-delimited."""
    position, end = 0, len(view)
    while position < end:
        tag, position = _varint(view, position)
        field, kind = tag >> 3, tag & 7
        content = None
        if kind == VARINT:
            _, position = _varint(view, position)
        elif kind == BYTES:
            length, position = _varint(view, position)
            content = view[position : position + length]
            position += length
        elif kind in (FIXED32, FIXED64):
            position += 4 if kind == FIXED32 else 8
        else:
            raise ValueError(f"wire type {kind}, which ONNX does not use")
        if field == 0 or position > end:
            raise ValueError("a field that leaves its message")
        yield field, content


def _varint(view: memoryview, position: int) -> tuple[int, int]:
    """Read a base-128 number; return it and the position behind it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = view[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number longer than ten bytes")
