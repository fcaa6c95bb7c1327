"""What the benchmarks' own command lines share: errors in our words, exit codes, JSON files."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medprompt.core.errors import MedpromptError
from medprompt.core.files import written_aside


@dataclass(frozen=True)
class Table:
    """A table for people."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    caption: str = ""


def run_command(command: Callable[[], None]) -> None:
    """Run a command; an error of ours ends the process with its own exit code and no traceback."""
    try:
        command()
    except MedpromptError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def write_json(path: Path | None, content: Any) -> None:
    """Write JSON, whole or not at all; nothing where no path is given.

    Raises:
        InputError: The place cannot be written to.
    """
    if path is None:
        return
    with written_aside(path) as aside:
        aside.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
