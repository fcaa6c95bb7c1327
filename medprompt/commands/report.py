"""``medprompt bench report``: one HTML file that a reviewer can open anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medprompt.commands import common
from medprompt.core.errors import ParityError
from medprompt.core.terminal import Steps


def bench_report(
    bundle: common.BundlePath,
    data: common.Data,
    out: Annotated[Path, typer.Option(help="The page to write (HTML).")],
    images: common.ImageFolder = None,
    allow: common.Allow = None,
    reference: common.Reference = None,
    pdf: Annotated[
        Path | None, typer.Option(help="Write the page here too (PDF). Needs an installed Chromium.")
    ] = None,
    device: common.Devices = None,
    threads: common.TimedThreads = 1,
    rounds: common.Rounds = 20,
    resamples: common.Resamples = 1000,
    seed: common.Seed = 0,
    force: common.Force = False,
    as_json: common.AsJson = False,
) -> None:
    """Measure accuracy and latency of a bundle, and write them as one page that opens without a network.

    Accuracy is measured on the first `--device`. The exit code is 3 where decisions differ from PyTorch's; the page is
    written all the same.

    Example: `medprompt bench report polyp.bundle --reference CKPT --data val.json --out report.html`
    """
    common.need("jinja2", "The report", "bench")
    from medprompt.benchmarks.report.page import PAGE, PDF, measure_report, write_pdf
    from medprompt.core.files import atomic_write

    common.reserve({"out": (out, PAGE), "pdf": (pdf, PDF)}, [bundle, reference], common.data_paths(*data), force=force)
    sets = common.labelled_sets(data, images, allow)
    with Steps("report") as steps:
        report = measure_report(
            bundle,
            sets,
            checkpoint=reference,
            devices=common.split_list(device) or ["auto"],
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
        common.print_json({"out": str(out), "passed": passed, "verdict": why, "accuracy": report.accuracy.as_json()})
    else:
        print(f"{out}: {why}")
    if not passed:
        raise ParityError(
            "The bundle decides otherwise than PyTorch on labelled images.",
            where=str(bundle),
            got=why,
            fix=f"open {out}; the images on which most decisions differ come first",
        )
