"""Files as a medical device wants them: hashed, and written whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medprompt.core.errors import InputError

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO})
"""How the operating system says that a file cannot grow."""

ASIDE = ".medprompt-"
"""In the name of what is being written: ``.NAME.medprompt-`` and eight characters, beside ``NAME``."""

MOST_OF_A_NAME = 200
"""Bytes: file systems take 255 a name, encrypted ones fewer."""


def real_path(path: Path) -> Path:
    """As ``Path.resolve``, which raises a RuntimeError at links that go in a circle."""
    return Path(os.path.realpath(path))


def short_name(name: str) -> str:
    """A name that leaves room for what is put around it: a longer one is cut, and ends in 16 digits of its hash."""
    encoded = os.fsencode(name)
    if len(encoded) <= MOST_OF_A_NAME:
        return name
    digits = hashlib.sha256(encoded).hexdigest()[:16]
    return f"{encoded[: MOST_OF_A_NAME - 17].decode(errors='ignore')}-{digits}"


def sha256_of_file(path: Path) -> str:
    """Return the hex SHA-256 of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@contextmanager
def atomic_write(path: Path, mode: int = 0o644) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` only if the block ends well.

    Until then only its owner may read it, in the end those that ``mode`` says. A link stays one: its target is written.

    Raises:
        InputError: The folder cannot be written to, ``path`` is no file, or the disk is full.
    """
    path = real_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{short_name(path.name)}{ASIDE}", dir=path.parent)
    except OSError as error:
        raise InputError("The output cannot be written.", where=str(path), got=str(error)) from error
    os.close(handle)
    aside = Path(name)
    try:
        yield aside
        aside.chmod(mode)
        _rename(aside, path)
    except OSError as error:
        raise unwritten(path, error) from error
    finally:
        aside.unlink(missing_ok=True)


def _rename(aside: Path, path: Path) -> None:
    try:
        aside.replace(path)
    except OSError as error:  # a folder, or a place where others mount
        raise InputError("The output cannot be written.", where=str(path), got=error.strerror or "") from error


def unwritten(path: Path, error: OSError) -> Exception:
    """What a failed write means to the user; other errors as they are."""
    if error.errno not in NO_ROOM:
        return error
    return InputError(
        "The output cannot be written: nothing was left half-written, and what was there before is as it was.",
        where=str(path),
        got=error.strerror or str(error),
        fix="make room, or choose another path",
    )


def files_of(folder: Path, *suffixes: str) -> list[Path]:
    """What lies in a folder under such endings, but for what systems hide there: macOS puts a ._NAME beside a NAME."""
    return [path for path in folder.iterdir() if path.suffix in suffixes and not path.name.startswith(".")]


def resolve_within(folder: Path, relative: str) -> Path | None:
    """Resolve ``relative`` below ``folder``; None where it leaves the folder (absolute, ``..`` or a link out)."""
    target = real_path(folder / relative)
    return target if target.is_relative_to(real_path(folder)) else None


def write_json(path: Path | None, content: Any, *, indent: int | None = 2, allow_nan: bool = True) -> None:
    r"""Write JSON, whole or not at all; nothing where no path is given.

    Bytes of a file's name that are no UTF-8 are written as ``\udcXX``, which any reader of JSON takes for text.

    Raises:
        InputError: The path cannot be written to.
        ValueError: A number that JSON does not have, where ``allow_nan`` is not set.
    """
    if path is not None:
        text = json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=allow_nan)
        write_text(path, re.sub("[\ud800-\udfff]", lambda byte: f"\\\\u{ord(byte[0]):04x}", text) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all.

    Raises:
        InputError: The path cannot be written to.
    """
    with atomic_write(Path(path)) as aside:
        aside.write_text(text, encoding="utf-8")
