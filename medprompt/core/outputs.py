"""Outputs: nothing of the user's is ever replaced, and one process at a time writes each.

``reserve_outputs`` decides for every command and library call.
"""

from __future__ import annotations

import errno
import shutil
import tempfile
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from glob import escape
from pathlib import Path

from medprompt.core.errors import InputError
from medprompt.core.files import ASIDE, real_path, short_name, unwritten
from medprompt.core.output_kinds import Kind, folder_kind, write_listing

NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP})
"""How a file system says that it knows no locks."""

RETIRED = f"{ASIDE}old-"
"""In the name of a folder that holds what is being replaced, until the new one is in its place."""

UNSEARCHED = frozenset({".csv", ".html", ".json", ".md", ".pdf", ".safetensors", ".xml", ".yaml"})
"""Suffixes of files that a search for images passes over: such an output may lie among images."""

Place = tuple[int | str, ...]


@dataclass(frozen=True)
class Output:
    """What is to be written, and where.

    Attributes:
        files: Of a folder that is written into: those that are written. Other files in it stay as they are.
        force: Whether one of ours may be replaced, whatever else may.
    """

    path: Path
    kind: Kind
    files: Sequence[Path] | None = None
    force: bool = False


@contextmanager
def reserve_outputs(
    outputs: Mapping[str, Output | None],
    inputs: Iterable[Path | None] = (),
    images: Iterable[Path] = (),
    *,
    force: bool = False,
) -> Iterator[None]:
    """Keep outputs for this process as long as the block lasts, and refuse those that would destroy something.

    Refused are an output that is an input, holds one or lies in an input folder; two outputs that are one, whatever
    their spelling; a file or folder that medprompt did not write; and one that it did, without ``force``.

    Args:
        outputs: What is to be written, by the parameter that names it; those that are None are left out.
        inputs: Files and folders that are read. Nothing may be written into the folders.
        images: Images, and folders that are searched for some: files that such a search passes over
            (``UNSEARCHED``) may be written there.
        force: Replace what we wrote.

    Raises:
        InputError: Nothing was written. Also where another process is at one of them.
    """
    present = {name: output for name, output in outputs.items() if output is not None}
    check_places(present, inputs, images)
    check_existing(present, force=force)
    with lock_outputs(output.path for output in present.values()):
        for output in present.values():
            _clear(output)
        check_existing(present, force=force)  # again: another process may have ended in between
        yield


def check_places(outputs: Mapping[str, Output], inputs: Iterable[Path | None], images: Iterable[Path] = ()) -> None:
    """Refuse outputs that are or hold inputs, lie in an input folder, or are one; see ``reserve_outputs``."""
    placed = lru_cache(maxsize=None)(place_of)
    read = [path for path in inputs if path is not None]
    searched = list(images)
    strict, loose = ({placed(path) for path in paths} for paths in (read, searched))
    above = {placed(parent) for path in (*read, *searched) for parent in _parents(path)}
    taken: dict[Place, str] = {}
    for name, output in outputs.items():
        place, around = placed(output.path), {placed(parent) for parent in _parents(output.path)}
        unsearched = output.files is None and output.path.suffix.lower() in UNSEARCHED
        if place in strict | loose | above:
            expected = "a path that neither is an input nor holds one"
        elif around & (strict if unsearched else strict | loose):
            expected = "a path outside the folders that are read"
        else:
            _check_apart(name, output, taken, placed)
            continue
        raise InputError(
            "An output would replace inputs, or become one.",
            where=name,
            expected=expected,
            got=str(output.path),
            fix="choose another path",
        )


def _check_apart(name: str, output: Output, taken: dict[Place, str], placed: Callable[[Path], Place]) -> None:
    for path in (output.path, *(output.files or ())):
        if placed(path) in taken:
            where = f"{taken[placed(path)]}, {name}"
            raise InputError("Two outputs are one.", where=where, got=str(path), fix="give each a path of its own")
    taken.update(dict.fromkeys(map(placed, (output.path, *(output.files or ()))), name))


def place_of(path: Path) -> Place:
    """What a path is, whatever its spelling: its innermost part that exists, by device and inode, and names below."""
    real, below = real_path(path), list[str]()
    while True:
        with suppress(OSError):
            found = real.stat()
            names = map(_plain, below) if below and _ignores_case(real) else below
            return (found.st_dev, found.st_ino, *reversed(list(names)))
        below.append(real.name)
        real = real.parent


def _ignores_case(folder: Path) -> bool:
    """Whether a folder's file system takes ``A`` and ``a`` for one, seen at the folder's own name."""
    other = folder.with_name(folder.name.swapcase()) if folder.name else folder
    with suppress(OSError):
        return other.name != folder.name and other.samefile(folder)
    return False


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _parents(path: Path) -> Sequence[Path]:
    return real_path(path).parents


def check_existing(outputs: Mapping[str, Output], *, force: bool) -> None:
    """Refuse to replace what medprompt did not write; and what it did, without ``force``. See ``reserve_outputs``."""
    for name, output in outputs.items():
        for path, foreign in _existing(output):
            if foreign:
                raise InputError(
                    "The output exists, and medprompt did not write it as it is.",
                    where=name,
                    expected=f"a new path, or {output.kind.name} as medprompt wrote it",
                    got=foreign,
                    fix="choose another path",
                )
            if not (force or output.force):
                raise InputError(
                    "The output exists already.",
                    where=name,
                    got=str(path),
                    fix="choose another path, or pass force=True to replace it",
                )


def _existing(output: Output) -> Iterator[tuple[Path, str]]:
    """What would be replaced, each with what is foreign about it; an empty file is as none."""
    if output.files is not None and _is_there(output.path) and not output.path.is_dir():
        yield output.path, str(output.path)
        return
    for path in (output.path,) if output.files is None else output.files:
        if not _is_there(path) or (path.is_file() and not path.stat().st_size):
            continue
        try:
            fits = path.is_dir() if output.kind.folder else path.is_file()
            yield path, output.kind.foreign(path) if fits else str(path)
        except OSError:
            yield path, str(path)


def _is_there(path: Path) -> bool:
    """As ``exists``; False as well where that may not be asked: writing there then says so."""
    with suppress(OSError):
        return path.exists()
    return False


@contextmanager
def lock_outputs(paths: Iterable[Path | None]) -> Iterator[None]:
    """Keep a second process from outputs that this one is at, for as long as the block lasts.

    A lock lies beside each output and goes with the process, however that ends. Where the file system knows no locks
    there is none.

    Raises:
        InputError: Another process is at one of them, or its folder cannot be written to.
    """
    with ExitStack() as stack:
        for path in dict.fromkeys(real_path(one) for one in paths if one is not None):
            stack.enter_context(_locked(path))
        yield


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    lock = FileLock(path.with_name(f".{short_name(path.name)}.lock"), timeout=0, fallback_to_soft=False)
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


def _clear(output: Output) -> None:
    """Remove what a killed process left half-written, and put back what it had moved away. Its lock must be held."""
    path = real_path(output.path)
    _put_back(path)
    left = list(path.parent.glob(f"{escape('.' + short_name(path.name))}{ASIDE}????????"))
    if output.files is not None:
        left += path.glob(f".*{ASIDE}????????")
    for one in left:
        if one.is_dir():
            shutil.rmtree(one, ignore_errors=True)
        else:
            _unlink(one)


def _put_back(path: Path) -> None:
    for retired in path.parent.glob(f"{escape('.' + short_name(path.name))}{RETIRED}????????"):
        if not path.exists() and (retired / path.name).exists():
            (retired / path.name).replace(path)
            retired.rmdir()


@contextmanager
def folder_written_aside(
    path: Path,
    name: str = "a folder",
    *,
    inputs: Iterable[Path | None] = (),
    images: Iterable[Path] = (),
    force: bool = False,
) -> Iterator[Path]:
    """Reserve a folder (see ``reserve_outputs``; ``name`` says what it is), and write it as ``replaced_whole`` does.

    Raises:
        InputError: See both.
    """
    output = Output(path, folder_kind(name))
    with reserve_outputs({"out": output}, inputs, images, force=force), replaced_whole(path) as aside:
        yield aside


@contextmanager
def replaced_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; rename it to ``path`` only if the block ends well.

    What is there is replaced: ``reserve_outputs`` has allowed it. All but bundles get a list of their files.

    Raises:
        InputError: Its parent cannot be written to, or the disk is full.
    """
    path = real_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{short_name(path.name)}{ASIDE}", dir=path.parent))
    except OSError as error:
        raise InputError("The output cannot be written.", where=str(path), got=str(error)) from error
    try:
        yield aside
        if not (aside / "manifest.json").is_file():
            write_listing(aside)
        aside.chmod(0o755)
        if path.exists():
            retired = Path(tempfile.mkdtemp(prefix=f".{short_name(path.name)}{RETIRED}", dir=path.parent))
            path.replace(retired / path.name)
            aside.replace(path)
            retired.replace(aside)  # from here on it may go: a kill leaves it to the next run
        else:
            aside.replace(path)
    except OSError as error:
        raise unwritten(path, error) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        _put_back(path)
