"""``medprompt gpu-check``: what only a GPU can tell about a machine, in ten minutes and one JSON file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medprompt.commands import common
from medprompt.core.errors import MedpromptError, NoVerdictError
from medprompt.core.terminal import Steps, print_table


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
