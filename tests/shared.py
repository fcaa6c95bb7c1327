"""What tests of several rooms share; what is made once a run, whichever worker of pytest-xdist asks first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

Cli = Callable[..., tuple[int, str, str]]
"""A command line, run: exit code, stdout, stderr. See the fixture ``cli``."""


def made_once(folder: Path, make: Callable[[Path], object]) -> Path:
    """``folder``, filled by ``make(folder)`` unless that was done; another worker waits meanwhile."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            aside = folder.with_suffix(".part")
            aside.mkdir(exist_ok=True)
            make(aside)
            aside.rename(folder)
    return folder
