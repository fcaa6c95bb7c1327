"""The process of one section: it writes down what it finds, and last how it ended."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medprompt.benchmarks.gpu_check.notes import Notes, Subject, ended
from medprompt.benchmarks.gpu_check.sections import SECTIONS

STATUS = "status"
"""The fact that says how a section ended; one that crashed or was stopped has none."""


def run_section(name: str, subject: Subject, notes: Notes) -> None:
    """Run a section here."""

    def run() -> Mapping[str, Any]:
        SECTIONS[name].load()(subject, notes)
        return {}

    status, _ = ended(run)
    notes.add(STATUS, f"failed: {notes.failed}" if status == "ok" and notes.failed else status)


if __name__ == "__main__":
    section, notes_file, *given = sys.argv[1:]
    paths = [Path(path) if path else None for path in given]
    run_section(section, Subject(*paths), Notes(Path(notes_file)))
