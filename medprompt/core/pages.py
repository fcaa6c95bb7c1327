"""The documentation pages that are installed with the package, by name."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from medprompt.core.errors import InputError

PARTS = ("", "tutorials", "how-to", "reference", "explanation")
"""Folders of the pages for users; ``""`` is the top."""


def pages() -> dict[str, Path]:
    """File of each page by its name, in the order of the parts."""
    folder = Path(str(files("medprompt"))) / "docs"
    if not folder.is_dir():  # a checkout that is installed editable: docs/ lies beside the package
        folder = folder.parent.parent / "docs"
    found = [path for part in PARTS for path in sorted((folder / part).glob("*.md"))]
    return {path.stem: path for path in found}


def page_text(name: str) -> str:
    """A page as Markdown.

    Raises:
        InputError: There is no such page.
    """
    found = pages()
    if name not in found:
        raise InputError("There is no such page.", where="page", expected=", ".join(found), got=name)
    return found[name].read_text(encoding="utf-8")


def page_title(path: Path) -> str:
    """The first heading of a page."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return next((line.removeprefix("# ") for line in lines if line.startswith("# ")), path.stem)
