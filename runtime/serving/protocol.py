"""The Open Inference Protocol v2 over HTTP: a message's JSON head, and tensors in it or behind it as bytes.

Sources: the protocol (github.com/kserve/open-inference-protocol, ``specification/protocol/inference_rest.md``) and its
binary tensor extension (github.com/triton-inference-server/server, ``extension_binary_data.md`` among its protocols).
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from medprompt.core.errors import InputError
from medprompt.runtime.serving.contract import IMAGE

HEADER_LENGTH = "Inference-Header-Content-Length"
"""The HTTP header that says how many bytes of the body are JSON, where tensors follow as bytes."""

BINARY_SIZE = "binary_data_size"
BINARY_WANTED = "binary_data"
ALL_BINARY_WANTED = "binary_data_output"

DTYPES: dict[str, np.dtype[Any]] = {
    "UINT8": np.dtype("u1"),
    "INT32": np.dtype("<i4"),
    "FP32": np.dtype("<f4"),
    "BYTES": np.dtype(object),
}
"""The protocol's names of those that the contract uses; bytes are little-endian."""

MAX_JSON = 1 << 24
"""Bytes of a request that are JSON: read, they take up to 37 times as many."""

LENGTH = struct.Struct("<I")
"""Before each element of a BYTES tensor."""


@dataclass(frozen=True)
class Message:
    """A request or an answer.

    Attributes:
        tensors: By name. BYTES are ``bytes`` in an array of objects.
        parameters: Those of the message itself.
        id: The caller's name for it, which the answer repeats.
        wanted: Of a request: the outputs that it asks for, and whether as bytes; all where empty.
        binary: Of a request: whether outputs of which it says nothing else come as bytes.
    """

    tensors: Mapping[str, NDArray[Any]]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    id: str = ""
    wanted: Mapping[str, bool] = field(default_factory=dict)
    binary: bool = False


def message_from_body(body: bytes, header_length: str | None, kind: str = "inputs") -> Message:
    """Read a message; ``kind`` is ``inputs`` of a request, ``outputs`` of an answer.

    Raises:
        InputError: It is malformed; the text says where, and quotes nothing of it.
    """
    length = _head_length(header_length, len(body))
    if kind == "inputs" and length > MAX_JSON:
        _malformed("the body", f"at most {MAX_JSON:,} bytes of JSON, and larger tensors behind it", f"{length:,}")
    head = _object(_json(body[:length]), "the body")
    rest = memoryview(body)[length:]
    tensors: dict[str, NDArray[Any]] = {}
    for entry in _entries(head, kind):
        name, tensor, used = _tensor(entry, rest)
        if name in tensors:
            _malformed(kind, "each tensor once", f"{name!r} twice")
        tensors[name], rest = tensor, rest[used:]
    if len(rest):
        _malformed(kind, "as many bytes as the tensors state", f"{len(rest)} bytes more")
    parameters = dict(_object(head.get("parameters", {}), "parameters"))
    binary = parameters.pop(ALL_BINARY_WANTED, False) is True
    wanted = dict(_wanted(head, binary)) if kind == "inputs" else {}
    return Message(tensors, parameters, str(head.get("id", "")), wanted, binary)


def body_from_message(message: Message, kind: str, more: Mapping[str, Any] | None = None) -> tuple[bytes, int | None]:
    """Write a message, and how long its JSON is where tensors follow as bytes.

    Args:
        message: Of an answer, ``wanted`` and ``binary`` are its request's.
        kind: ``inputs`` or ``outputs``.
        more: Further entries of the JSON, such as the model's name.
    """
    entries, parts = [], []
    for name, tensor in message.tensors.items():
        if message.wanted and name not in message.wanted:
            continue
        entry: dict[str, Any] = {"name": name, "datatype": datatype_of(tensor), "shape": list(tensor.shape)}
        if message.wanted.get(name, message.binary):
            parts.append(_bytes_of(tensor))
            entry["parameters"] = {BINARY_SIZE: len(parts[-1])}
        else:
            entry["data"] = _json_of(name, tensor)
        entries.append(entry)
    head: dict[str, Any] = {**(more or {}), kind: entries}
    if message.id:
        head["id"] = message.id
    parameters = dict(message.parameters)
    if kind == "inputs" and message.binary:
        parameters[ALL_BINARY_WANTED] = True
    if parameters:
        head["parameters"] = parameters
    text = bytes_of_json(head)
    return b"".join([text, *parts]), len(text) if parts else None


def bytes_of_json(value: Any) -> bytes:
    """JSON in UTF-8. Half a surrogate pair, which a request can have sent, is no UTF-8: JSON's escape stands for it."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode(errors="backslashreplace")


def datatype_of(tensor: NDArray[Any]) -> str:
    """The protocol's name of an array's type."""
    return next(name for name, dtype in DTYPES.items() if dtype == tensor.dtype)


def _head_length(text: str | None, size: int) -> int:
    if text is None:
        return size
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and int(text) <= size):
        _malformed(HEADER_LENGTH, f"0 … {size}, the bytes of the body", "another value")
    return int(text)


def _json(text: bytes) -> Any:
    try:
        return json.loads(text.decode(), parse_constant=_no_number)
    except UnicodeDecodeError:
        _malformed("the body", "JSON in UTF-8", "other bytes")
    except (ValueError, RecursionError):
        _malformed("the body", "JSON; bytes after it need the header " + HEADER_LENGTH, "something else")


def _no_number(name: str) -> NoReturn:
    raise ValueError(name)  # JSON has no NaN


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        _malformed(where, "a JSON object", type(value).__name__)
    return value


def _entries(head: Mapping[str, Any], kind: str) -> Iterator[dict[str, Any]]:
    entries = head.get(kind)
    if not isinstance(entries, list) or not entries:
        _malformed(kind, "a list of tensors", "none")
    for entry in entries:
        yield _object(entry, kind)


def _wanted(head: Mapping[str, Any], binary: bool) -> Iterator[tuple[str, bool]]:
    for entry in _entries(head, "outputs") if head.get("outputs") else ():
        parameters = _object(entry.get("parameters", {}), "outputs")
        yield str(entry.get("name")), parameters.get(BINARY_WANTED, binary) is True


def _tensor(entry: Mapping[str, Any], rest: memoryview) -> tuple[str, NDArray[Any], int]:
    """Name, array, and how many bytes of the rest it took."""
    name, datatype = entry.get("name"), entry.get("datatype")
    if not isinstance(name, str) or not name.isidentifier():
        _malformed("inputs", "a tensor's name", "another value")
    if not isinstance(datatype, str) or datatype not in DTYPES:
        _malformed(name, f"a datatype of {', '.join(DTYPES)}", "another value")
    shape = _shape(name, entry.get("shape"))
    size = _object(entry.get("parameters", {}), name).get(BINARY_SIZE)
    if size is None:
        return name, _tensor_from_json(name, datatype, shape, entry.get("data")), 0
    if type(size) is not int or not 0 <= size <= len(rest):
        _malformed(name, f"{BINARY_SIZE} of at most the {len(rest)} bytes that are left", "another value")
    return name, _tensor_from_bytes(name, datatype, shape, rest[:size]), size


def _shape(name: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(side) is int and side >= 0 for side in value):
        _malformed(name, "a shape: a list of whole numbers", "another value")
    return tuple(value)


def _tensor_from_bytes(name: str, datatype: str, shape: tuple[int, ...], data: memoryview) -> NDArray[Any]:
    count = math.prod(shape)
    if datatype == "BYTES":
        return _filled(name, shape, list(islice(_elements(name, data), count + 1)))
    dtype = DTYPES[datatype]
    if len(data) != count * dtype.itemsize:
        _malformed(name, f"{count * dtype.itemsize} bytes for the shape {list(shape)}", f"{len(data)} bytes")
    return _shaped(name, shape, np.frombuffer(data, dtype))


def _elements(name: str, data: memoryview) -> Iterator[bytes]:
    start = 0
    while start < len(data):
        end = start + LENGTH.size
        size = LENGTH.unpack(data[start:end])[0] if end <= len(data) else len(data)
        if end + size > len(data):
            _malformed(name, "elements, each after its length in 4 bytes", "a length beyond the end")
        yield bytes(data[end : end + size])
        start = end + size


def _tensor_from_json(name: str, datatype: str, shape: tuple[int, ...], data: Any) -> NDArray[Any]:
    if not isinstance(data, list):
        _malformed(name, f"data, or {BINARY_SIZE}", "neither")
    try:
        if datatype == "BYTES":
            return _filled(name, shape, [_encoded(name, text) for text in _flat(data)])
        return _numbers(name, datatype, shape, np.asarray(data).reshape(-1))
    except (ValueError, RecursionError, OverflowError):
        _malformed(name, f"data of the shape {list(shape)}", "ragged lists")


def _numbers(name: str, datatype: str, shape: tuple[int, ...], flat: NDArray[Any]) -> NDArray[Any]:
    dtype = DTYPES[datatype]
    if flat.size and flat.dtype.kind not in ("iuf" if dtype.kind == "f" else "iu"):
        _malformed(name, f"{datatype} numbers", "others")
    if (
        dtype.kind != "f"
        and flat.size
        and not (np.iinfo(dtype).min <= flat.min() and flat.max() <= np.iinfo(dtype).max)
    ):
        _malformed(name, f"{datatype} numbers", "some out of range")
    if flat.size != math.prod(shape):
        _malformed(name, f"{math.prod(shape)} numbers for the shape {list(shape)}", f"{flat.size}")
    return _shaped(name, shape, flat.astype(dtype))


def _flat(data: list[Any]) -> Iterator[Any]:
    for one in data:
        if isinstance(one, list):
            yield from _flat(one)
        else:
            yield one


def _encoded(name: str, text: Any) -> bytes:
    """A string of JSON; of an image its base64, since JSON has no bytes."""
    if not isinstance(text, str):
        _malformed(name, "strings", type(text).__name__)
    if name != IMAGE:
        return str(text).encode()
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        _malformed(name, "files in base64", "another text")


def _filled(name: str, shape: tuple[int, ...], elements: list[bytes]) -> NDArray[Any]:
    if len(elements) != math.prod(shape):
        _malformed(name, f"{math.prod(shape)} elements for the shape {list(shape)}", f"{len(elements)}")
    array = np.empty(len(elements), object)
    array[:] = elements
    return _shaped(name, shape, array)


def _shaped(name: str, shape: tuple[int, ...], flat: NDArray[Any]) -> NDArray[Any]:
    """Of as many elements as the shape has, which may still have more sides than numpy knows, or huge ones."""
    try:
        return flat.reshape(shape)
    except (ValueError, OverflowError):
        _malformed(name, "a shape of at most 64 sides, each in 63 bits", "another")


def _bytes_of(tensor: NDArray[Any]) -> bytes:
    if tensor.dtype != object:
        return np.ascontiguousarray(tensor).tobytes()
    return b"".join(LENGTH.pack(len(one)) + one for one in tensor.reshape(-1))


def _json_of(name: str, tensor: NDArray[Any]) -> list[Any]:
    flat = tensor.reshape(-1).tolist()
    if tensor.dtype != object:
        return list(flat)
    return [base64.b64encode(one).decode() if name == IMAGE else one.decode() for one in flat]


def _malformed(where: str, expected: str, got: str) -> NoReturn:
    fix = "see `medprompt docs serve`, or ask with tritonclient or medprompt.runtime.serving.client"
    raise InputError("The message is malformed.", where=where, expected=expected, got=got, fix=fix)
