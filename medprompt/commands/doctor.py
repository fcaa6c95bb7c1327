"""``medprompt doctor`` and ``gpu-check``: this machine on one screen, and what only its GPU can tell."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medprompt.commands import common
from medprompt.core.errors import MedpromptError, NoVerdictError
from medprompt.core.terminal import Steps, print_table

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


def gpu_check(
    out: Annotated[Path, typer.Option(help="The report to write (JSON).")],
    bundle: Annotated[
        Path | None, typer.Argument(help="A bundle. Without one, its engines and decisions are not checked.")
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="The bundle's checkpoint, to compute its decisions in fp32, TF32, bf16 and fp16 on the GPU."),
    ] = None,
    force: common.Force = False,
    as_json: common.AsJson = False,
) -> None:
    """Check a machine with an NVIDIA GPU: engine worker, copies, resize kernels, decisions, latency and energy.

    It takes ten minutes at most and needs no network. Each section ends as ok, failed or not run, with its reason.

    The exit code is 1 where a section failed, and 4 where nothing could run.

    Example: `medprompt gpu-check polyp.bundle --checkpoint CKPT --out gpu.json`
    """
    from medprompt.benchmarks.gpu_check.run import GPU_CHECK, run_gpu_check

    common.reserve({"out": (out, GPU_CHECK)}, [bundle, checkpoint], force=force)
    with Steps("gpu-check") as steps:
        check = run_gpu_check(bundle, checkpoint, out=out, progress=steps)
    if as_json:
        common.print_json(check.as_json())
    else:
        for table in check.tables():
            print_table(table.title, table.columns, table.rows, align="left")
    if check.failed:
        raise MedpromptError(
            f"{len(check.failed)} sections of the GPU check failed.",
            where=str(out),
            got=", ".join(check.failed),
            fix="the table above says what failed in each",
        )
    if check.proves_nothing:
        raise NoVerdictError(
            "Nothing could be checked on a GPU.",
            where=str(out),
            got=check.outcomes[0].status,
            fix="medprompt doctor says what this machine lacks",
        )
