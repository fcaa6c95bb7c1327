"""Golden checkpoints, imported once a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from medprompt.export.imported import write_checkpoint
from tests.export.importers.goldens import options, source
from tests.shared import made_once


@pytest.fixture(scope="session")
def imported(run_folder: Path) -> Callable[[str], Path]:
    """``imported(name)``: the folder that a golden checkpoint became; do not write into it."""

    def folder(name: str) -> Path:
        def make(aside: Path) -> None:
            write_checkpoint(source(name), aside, options(name, aside.parent / f"{name}-tokenizer"))

        return made_once(run_folder / "imported" / name, make)

    return folder
