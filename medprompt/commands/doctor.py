"""``medprompt doctor``: one screen about this machine, and which engines of a bundle would run on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medprompt.commands import common
from medprompt.core.errors import MedpromptError
from medprompt.core.terminal import print_table

if TYPE_CHECKING:
    from medprompt.runtime.doctor import Diagnosis, EngineVerdict

MARKS = {"ok": "✓", "absent": "–", "problem": "✗", "yes": "✓", "after a self-test": "?", "no": "–"}
LEGEND = "✓ runs here   ? runs once its self-test has passed, when it is loaded   – does not run here"


def doctor(
    bundle: Annotated[Path | None, typer.Argument(help="A bundle, to show which of its engines run here.")] = None,
    as_json: common.AsJson = False,
) -> None:
    """Show what this machine has, which engines of a bundle run here, and why the others do not.

    Example: `medprompt doctor polyp.bundle`
    """
    from medprompt.runtime.doctor import diagnose

    found = diagnose(bundle)
    if as_json:
        common.print_json(found.as_json())
    else:
        _print(found)
    if found.bundle and not found.serves:
        raise MedpromptError(
            "No engine of the bundle can run here.",
            where=found.bundle,
            got=found.reason,
            fix="the table above says what each one lacks",
        )


def _print(found: Diagnosis) -> None:
    machine = [(MARKS[line.status], line.name, _with_fix(line.found, line.fix)) for line in found.findings]
    print_table("This machine", ["", "", "found"], machine, align="left")
    title = f"Engines of {found.bundle}" if found.bundle else "Devices"
    columns = ["", "device", "precision", "why"] if found.bundle else ["", "device", "why"]
    rows = [_row(entry, bool(found.bundle)) for entry in found.engines]
    print_table(title, columns, rows, LEGEND, align="left")
    if found.anomalies:
        faults = [(one.parts, f"{one.what}\n→ {one.handled}\n{one.link}") for one in found.anomalies]
        print_table(
            "Known anomalies of what is installed", ["part", "what, and what is done about it"], faults, align="left"
        )
    if found.serves:
        print(f"--device auto: {found.serves}, {found.reason}")


def _row(entry: EngineVerdict, of_bundle: bool) -> tuple[str, ...]:
    precision = (entry.precision,) if of_bundle else ()
    device = " ".join([entry.device, *entry.gpus])
    return MARKS[entry.runs], device, *precision, _with_fix(entry.why, entry.fix)


def _with_fix(text: str, fix: str) -> str:
    return f"{text}\n→ {fix}" if fix else text
