"""``medprompt bench report``: one HTML file that a reviewer can open anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medprompt.commands.common import (
    AsJson,
    BundlePath,
    Data,
    Force,
    Reference,
    Resamples,
    Rounds,
    Seed,
    TimedThreads,
    need,
    print_json,
    refuse_existing,
)
from medprompt.core.errors import ParityError


def bench_report(
    bundle: BundlePath,
    data: Data,
    out: Annotated[Path, typer.Option(help="HTML file to write.")],
    reference: Reference = None,
    pdf: Annotated[Path | None, typer.Option(help="Print the page here too; needs an installed Chromium.")] = None,
    device: Annotated[
        list[str] | None, typer.Option("--device", help="An engine to time; repeats. Accuracy is the first one's.")
    ] = None,
    threads: TimedThreads = 1,
    rounds: Rounds = 20,
    resamples: Resamples = 1000,
    seed: Seed = 0,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Measure accuracy and latency of one bundle in one run, and write them as a page that needs no network.

    Decisions that differ from PyTorch's beyond the tolerance fail the run (exit 3); the page is written all the same.

    Example: `medprompt bench report polyp.bundle --reference CKPT --data val.json --out report.html --pdf report.pdf`
    """
    need("faster_coco_eval", "The report", "bench")
    need("jinja2", "The report", "bench")
    from medprompt.benchmarks.report.page import measure_report, write_pdf
    from medprompt.core.files import atomic_write
    from medprompt.core.terminal import Steps
    from medprompt.data import read_detection_set

    refuse_existing(force, out, pdf)
    with Steps("report") as steps:
        report = measure_report(
            bundle,
            [read_detection_set(source) for source in data],
            checkpoint=reference,
            devices=device or ["auto"],
            threads=threads,
            rounds=rounds,
            resamples=resamples,
            seed=seed,
            progress=steps,
        )
        steps.step("write the page")
        with atomic_write(out) as aside:
            aside.write_text(report.html(), encoding="utf-8")
        if pdf:
            steps.step("print it")
            write_pdf(out, pdf)
    passed, why = report.verdict
    if as_json:
        print_json({"out": str(out), "passed": passed, "verdict": why, "accuracy": report.accuracy.as_json()})
    else:
        print(f"{out}: {why}")
    if not passed:
        raise ParityError(
            "The bundle decides otherwise than PyTorch on labelled images.",
            where=str(bundle),
            got=why,
            fix=f"open {out}; the images on which most decisions differ come first",
        )
