"""Text files as the programs of this world write them, and why one cannot be read, in a few words."""

from __future__ import annotations

import json
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

MAX_REASON = 200
"""Characters of another library's message that ours repeats: some hold the whole file."""


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, or a UTF-16 one with its mark, as PowerShell writes it; a byte-order mark is no text.

    Raises:
        OSError: It cannot be read.
        UnicodeDecodeError: Another encoding. ``reason`` says which byte is none of UTF-8.
    """
    content = path.read_bytes()
    if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
        return content.decode("utf-16")
    return content.decode("utf-8-sig")


def json_from_file(path: Path) -> Any:
    """The values of a JSON file in which no key is given twice: of two the last would win, without a word.

    Raises:
        OSError: It cannot be read.
        ValueError: It is none; ``reason`` says where.
        RecursionError: It is nested too deeply.
    """
    return json_from_text(read_text(path))


def json_from_text(text: str, *, allow_nan: bool = True) -> Any:
    """The values of JSON in which no key is given twice; of numbers that JSON does not have, where ``allow_nan``.

    Raises:
        ValueError: It is none; ``reason`` says where.
        RecursionError: It is nested too deeply.
    """
    return json.loads(text, object_pairs_hook=_once, parse_constant=None if allow_nan else _refuse_constant)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {twice!r} is given twice")
    return found


def reason(error: BaseException) -> str:
    """Why a file cannot be read: one line, with the place in the file where there is one, and nothing of its content.

    Of an error that is none of the system's, of a parser or of a codec, the message, cut off.
    """
    text = " ".join(_reason(error).split()) or type(error).__name__
    return text if len(text) <= MAX_REASON else f"{text[:MAX_REASON]}…"


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    if isinstance(error, UnicodeDecodeError):
        line = error.object[: error.start].count(b"\n") + 1
        return f"line {line}: byte 0x{error.object[error.start]:02x} is no {error.encoding.upper()} text"
    if isinstance(error, json.JSONDecodeError):
        return f"line {error.lineno}, column {error.colno}: {error.msg}"
    if isinstance(error, yaml.MarkedYAMLError):
        return _reason_of_yaml(error)
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, KeyError):
        return f"{error} is missing"
    if "integer string conversion" in str(error):  # CPython's advice is for programmers
        return "a number of thousands of digits"
    return str(error)


def _reason_of_yaml(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    problem = error.problem or error.context or "no YAML"
    if "'\\t'" in problem:
        problem = "a tab, where YAML wants spaces"
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark else problem
