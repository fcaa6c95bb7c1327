"""Files as a medical device wants them: hashed, and written whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from medprompt.core.errors import InputError

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO})
"""How the operating system says that a file cannot grow."""

NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP})
"""How a file system says that it knows no locks."""


def sha256_of_file(path: Path) -> str:
    """Return the hex SHA-256 of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@contextmanager
def atomic_write(path: Path, mode: int = 0o644) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` only if the block ends well.

    Until then only its owner may read it, in the end those that ``mode`` says.

    Raises:
        InputError: The folder cannot be written to, or the disk is full.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise InputError("The output cannot be written.", where=str(path), got=str(error)) from error
    os.close(handle)
    aside = Path(name)
    try:
        yield aside
        aside.chmod(mode)
        aside.replace(path)
    except OSError as error:
        raise _unwritten(path, error) from error
    finally:
        aside.unlink(missing_ok=True)


def _unwritten(path: Path, error: OSError) -> Exception:
    """What a failed write means to the user; other errors as they are."""
    if error.errno not in NO_ROOM:
        return error
    return InputError(
        "The output cannot be written: nothing was left half-written, and what was there before is as it was.",
        where=str(path),
        got=error.strerror or str(error),
        fix="make room, or choose another path",
    )


def check_outputs(outputs: Mapping[str, Path | None], inputs: Iterable[Path]) -> None:
    """Refuse outputs that would replace an input, each other, or lie in a folder whose images are analysed.

    Args:
        outputs: Files and folders to be written, by the parameter that names each.
        inputs: The files that are analysed.

    Raises:
        InputError: Nothing was written.
    """
    read = {path.resolve() for path in inputs}
    folders = {path.parent for path in read}
    written: dict[Path, str] = {}
    for name, given in outputs.items():
        if given is None:
            continue
        path = given.resolve()
        if path in read or (path in folders and not path.is_file()):
            what = "a folder without inputs" if path in folders else "a file that is no input"
            raise InputError(
                "An output would replace inputs.", where=name, expected=what, got=str(given), fix="choose another path"
            )
        if path in written:
            where = f"{written[path]}, {name}"
            raise InputError("Two outputs are one.", where=where, got=str(given), fix="give each a path of its own")
        written[path] = name


def check_replaceable(name: str, path: Path | None, starts: bytes) -> None:
    """Refuse to replace a file that begins otherwise than what is written there: it is not ours.

    Args:
        name: The parameter that names the file.
        path: The file; nothing is refused where it is None, absent or empty.
        starts: The first bytes of what is written there.

    Raises:
        InputError: The file is as it was.
    """
    if path is None or not path.is_file() or path.stat().st_size == 0:
        return
    with path.open("rb") as file:
        if file.read(len(starts)) == starts:
            return
    raise InputError(
        "The file exists and is none of ours.",
        where=name,
        expected=f"a new file, or one that begins with {starts.decode()}",
        got=str(path),
        fix="choose another path",
    )


@contextmanager
def lock_outputs(paths: Iterable[Path | None]) -> Iterator[None]:
    """Keep a second process from outputs that this one is at, for as long as the block lasts.

    A lock lies beside each output and goes with the process, however that ends. Where the file system knows no locks
    there is none.

    Raises:
        InputError: Another process is at one of them, or its folder cannot be written to.
    """
    with ExitStack() as stack:
        for path in dict.fromkeys(one.absolute() for one in paths if one is not None):
            stack.enter_context(_locked(path))
        yield


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=0, fallback_to_soft=False)
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock)
            # While it is still ours: who waits for a lock whose file is gone makes a new one.
            stack.callback(_unlink, Path(lock.lock_file))
        except Timeout as error:
            raise InputError(
                "Another process is writing here.",
                where=str(path),
                expected="one process an output",
                fix="wait for it, or choose another output",
            ) from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise InputError("The output cannot be written.", where=str(path), got=str(error)) from error
        yield


def _unlink(lock: Path) -> None:
    with suppress(OSError):  # Windows keeps a file that is open; there it goes when the lock does
        lock.unlink()


@contextmanager
def folder_written_aside(path: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; rename it to ``path`` only if the block ends well.

    Raises:
        InputError: ``path`` exists and ``force`` is not set, or its parent cannot be written to.
    """
    path = Path(path)
    if path.exists() and not force:
        raise InputError(
            "The output folder exists already.",
            where=str(path),
            fix="choose another out=, or pass force=True to replace it",
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise InputError("The output cannot be written.", where=str(path), got=str(error)) from error
    try:
        yield aside
        aside.chmod(0o755)
        if path.exists():
            retired = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
            path.replace(retired / path.name)
            aside.replace(path)
            shutil.rmtree(retired)
        else:
            aside.replace(path)
    except OSError as error:
        raise _unwritten(path, error) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def resolve_within(folder: Path, relative: str) -> Path | None:
    """Resolve ``relative`` below ``folder``; None where it leaves the folder (absolute, ``..`` or a link out)."""
    target = (folder / relative).resolve()
    return target if target.is_relative_to(folder.resolve()) else None


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
