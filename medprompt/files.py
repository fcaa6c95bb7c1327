"""Files as a medical device wants them: hashed, and written whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medprompt.errors import InputError


def sha256_of_file(path: Path) -> str:
    """Return the hex SHA-256 of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@contextmanager
def written_aside(path: Path, mode: int = 0o644) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` only if the block ends well.

    Args:
        path: The file to make.
        mode: Who may read it in the end; until then only its owner may.

    Raises:
        InputError: The folder cannot be written to.
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
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def folder_written_aside(path: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; rename it to ``path`` only if the block ends well.

    Args:
        path: The folder to make.
        force: Replace a folder that exists.

    Raises:
        InputError: ``path`` exists and ``force`` is not set, or its parent cannot be written to.
    """
    path = Path(path)
    if path.exists() and not force:
        raise InputError(
            "The output folder exists already.",
            where=str(path),
            fix="choose another --out, or pass --force to replace it",
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
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def inside(folder: Path, relative: str) -> Path | None:
    """Resolve ``relative`` below ``folder``; None where it leaves the folder (absolute, ``..`` or a link out)."""
    target = (folder / relative).resolve()
    return target if target.is_relative_to(folder.resolve()) else None
