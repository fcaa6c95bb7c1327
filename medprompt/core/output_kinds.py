"""Kinds of output: what each is called, and how one that medprompt wrote is told from all else."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from medprompt.core.errors import InputError

LISTING = ".medprompt"
"""File in a folder that we wrote and that is no bundle: which files it has, each with its size in bytes."""

PYTHON_CACHE = "__pycache__"
"""Folder that Python makes beside a module of ours that it imports, such as a Triton repository's: nobody's work."""
ATTACHED_FOLDER = "attached"
"""Folder in a bundle for reports about it. Its hash does not cover them; an index there does."""

HEAD = 4096
"""Bytes at a file's beginning that tell what it is."""


@dataclass(frozen=True)
class Kind:
    """A kind of output, and how one that medprompt wrote is told from all else.

    Attributes:
        name: For messages, such as ``a prompt bank``.
        foreign: What is there at an existing path that we did not write; empty where all is ours.
        folder: Whether it is a folder that is replaced as a whole.
    """

    name: str
    foreign: Callable[[Path], str]
    folder: bool = False


def file_kind(name: str, begins: str) -> Kind:
    """A kind of file that is known by its first bytes: a regular expression over Latin-1, ``.`` any byte."""
    pattern = re.compile(begins.encode("latin-1"), re.DOTALL)
    return Kind(name, lambda path: "" if pattern.match(_head(path)) else str(path))


def read_kind(name: str, read: Callable[[Path], object]) -> Kind:
    """A kind of file that is known by its own reader, which raises an ``InputError`` at any other."""

    def foreign(path: Path) -> str:
        try:
            read(path)
        except InputError:
            return str(path)
        return ""

    return Kind(name, foreign)


def folder_kind(name: str) -> Kind:
    """A kind of folder that we write whole: known by its own list of files, a bundle's manifest or ``LISTING``."""
    return Kind(name, _foreign_in_folder, folder=True)


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD)


def _foreign_in_folder(folder: Path) -> str:
    """The first file that the folder's own list does not have so; the folder where it has no list."""
    try:
        listed = _listed(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return str(folder)
    for path in sorted(folder.rglob("*")):
        if path.parent.name == PYTHON_CACHE:
            continue
        if path.is_symlink() or (
            not path.is_dir() and listed.get(path.relative_to(folder).as_posix()) not in (path.stat().st_size, -1)
        ):
            return str(path)
    return ""


def _listed(folder: Path) -> dict[str, int]:
    """Files that we wrote into a folder, each with its size; -1 for those that list the others."""
    if (folder / LISTING).is_file():
        return {**json.loads((folder / LISTING).read_text(encoding="utf-8"))["files"], LISTING: -1}
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    told = manifest.keys()
    if not ({"schema_version", "checkpoint_sha256"} <= told and {"prompt_summary", "task"} & told):
        raise ValueError("not a bundle's")
    own = dict.fromkeys(("manifest.json", "manifest.sha256", "manifest.sig"), -1)
    return {name: entry["bytes"] for name, entry in manifest["files"].items()} | own | _attached(folder)


def _attached(folder: Path) -> dict[str, int]:
    """Reports that were attached to a bundle."""
    index = folder / ATTACHED_FOLDER / "index.json"
    if not index.is_file():
        return {}
    reports = json.loads(index.read_text(encoding="utf-8"))["reports"]
    names = {f"{ATTACHED_FOLDER}/{name}": entry["bytes"] for name, entry in reports.items()}
    return names | dict.fromkeys((f"{ATTACHED_FOLDER}/index.json", f"{ATTACHED_FOLDER}/index.json.sig"), -1)


def write_listing(folder: Path) -> None:
    """List a folder's files in it, so that a later run knows it as ours."""
    files = {
        path.relative_to(folder).as_posix(): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()
    }
    content = {"written_by": "medprompt", "files": files}
    (folder / LISTING).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
