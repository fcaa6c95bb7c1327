"""``medprompt bench …``: accuracy and latency of a bundle, with PyTorch beside it where its checkpoint is given."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medprompt.commands import common
from medprompt.commands.audit import bench_prompts
from medprompt.commands.base import Command, Group
from medprompt.commands.compare import bench_compare
from medprompt.commands.regress import bench_regress
from medprompt.commands.report import bench_report
from medprompt.commands.site import bench_site
from medprompt.commands.sweep import bench_sweep
from medprompt.core.errors import InputError, MedpromptError, ParityError, in_one_line
from medprompt.core.terminal import Steps

if TYPE_CHECKING:
    from medprompt.benchmarks.accuracy.evaluation import EvaluationReport

BATCHES, WORKERS = "1,2,4", "1,2"
bench_app = typer.Typer(
    no_args_is_help=True, cls=Group, help="Measure the accuracy and latency of bundles, and compare them."
)
bench_app.command("regress", cls=Command)(bench_regress)
bench_app.command("prompts", cls=Command)(bench_prompts)
bench_app.command("compare", cls=Command)(bench_compare)
bench_app.command("report", cls=Command)(bench_report)
bench_app.command("site", cls=Command)(bench_site)
bench_app.command("sweep", cls=Command)(bench_sweep)


def _throughput(what: str, default: str) -> Any:
    text = f"{what} for the throughput test; repeat for several. 'none' skips it."
    return typer.Option(help=text, show_default=default)


@bench_app.command("accuracy", cls=Command)
def bench_accuracy(
    bundle: common.BundlePath,
    data: common.Data,
    images: common.ImageFolder = None,
    allow: common.Allow = None,
    reference: common.Reference = None,
    prompts: common.Bank = None,
    csv: Annotated[Path | None, typer.Option("--csv", help="Write a table here: one row for each image.")] = None,
    slices: Annotated[
        Path | None,
        typer.Option(
            help="Table of images (CSV) with a column 'file' and columns of your own. Results are reported for each of "
            "their values. A column 'spacing_mm' turns box shifts into millimetres."
        ),
    ] = None,
    resamples: common.Resamples = 1000,
    seed: common.Seed = 0,
    strict: common.Strict = False,
    masks: Annotated[bool, typer.Option("--masks", help="Refuse a bundle or labels without masks.")] = False,
    device: common.Device = "auto",
    threads: common.Threads = None,
    force: common.Force = False,
    as_json: common.AsJson = False,
) -> None:
    """Measure the accuracy of a bundle on labelled images: AP, FROC, calibration and box shift; and of its masks.

    Every figure has a 95 % confidence interval. With `--reference`, the differences from PyTorch are measured too.

    The exit code is 3 where decisions differ from PyTorch's, and 1 where an image could not be read.

    Example: `medprompt bench accuracy polyp.bundle --data val.json --csv images.csv`
    """
    from medprompt.benchmarks.accuracy.evaluation import evaluate_bundle
    from medprompt.benchmarks.accuracy.slices import metadata_from_csv, slices_of_report, slices_table
    from medprompt.benchmarks.accuracy.tables import IMAGE_TABLE, tables, write_csv
    from medprompt.prompts.bank import load_bank

    common.reserve(
        {"csv": (csv, IMAGE_TABLE)}, [bundle, reference, prompts, slices], common.data_paths(*data), force=force
    )
    metadata = metadata_from_csv(slices) if slices else None
    sets = common.labelled_sets(data, images, allow)
    bank = load_bank(prompts) if prompts else None
    with Steps("accuracy") as steps:
        report = evaluate_bundle(
            bundle,
            sets,
            checkpoint=reference,
            bank=bank,
            device=device,
            threads=threads,
            resamples=resamples,
            seed=seed,
            strict=strict,
            masks=masks,
            progress=steps,
        )
        parts = slices_of_report(report, metadata) if metadata else []
    if csv:
        write_csv(report, csv)
    if as_json:
        common.print_json(report.as_json() | ({"slices": [part.as_json() for part in parts]} if metadata else {}))
    else:
        common.print_tables([*tables(report), *([slices_table(parts)] if parts else [])])
    _judge_accuracy(report, bundle)


def _judge_accuracy(report: EvaluationReport, bundle: Path) -> None:
    """Fail where the bundle decides otherwise than PyTorch, or where images are unknown."""
    common.print_warnings(f"not read: {line}" for line in report.unread)
    if report.failed:
        raise ParityError(
            "The bundle decides otherwise than PyTorch on labelled images.",
            where=str(bundle),
            expected="parity passed on every set",
            got=", ".join(entry.name for entry in report.failed),
            fix="medprompt verify BUNDLE; see reports/parity.json in the bundle",
        )
    count = sum(len(entry.predictions.labelled.images) for entry in report.sets) + len(report.unread)
    common.refuse_unread(report.unread, "figures", "data set", f" of {count}")


@bench_app.command("latency", cls=Command)
def bench_latency(
    bundle: common.BundlePath,
    images: common.Images,
    reference: common.Reference = None,
    device: common.Devices = None,
    threads: common.TimedThreads = 1,
    rounds: common.Rounds = 30,
    warmup: Annotated[int, typer.Option(min=1, help="Warm-up calls of each engine.")] = 2,
    max_images: common.MaxImages = 10,
    max_seconds: Annotated[
        float | None, typer.Option("--max-seconds", min=0, help="Start no new round after so many seconds.")
    ] = None,
    autocast: Annotated[bool, typer.Option("--autocast", help="Also time PyTorch with autocast to bfloat16.")] = False,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Also time PyTorch with torch.compile, which takes minutes to compile.")
    ] = False,
    batches: Annotated[list[str] | None, _throughput("Batch size", BATCHES)] = None,
    workers: Annotated[list[str] | None, _throughput("Number of workers", WORKERS)] = None,
    pause: Annotated[float, typer.Option(min=0, help="Seconds to rest after each round, against throttling.")] = 0.0,
    seed: common.Seed = 0,
    as_json: common.AsJson = False,
) -> None:
    """Measure the latency and throughput of a bundle's engines.

    All are timed in turn, in one process, on the same images. With `--reference`, PyTorch is timed beside them.

    Example: `medprompt bench latency polyp.bundle --images frames/ --reference CKPT --device ort-cpu
    --device openvino`
    """
    from medprompt.benchmarks.latency.measure import LatencyOptions
    from medprompt.benchmarks.latency.run import run_latency
    from medprompt.images.read import find_images

    if (autocast or compiled) and reference is None:
        raise InputError("There is no PyTorch to time.", where="autocast, compiled", fix="add reference=CHECKPOINT")
    ways = LatencyOptions(
        common.split_list(device) or ["auto"],
        threads,
        rounds,
        warmup,
        autocast,
        compiled,
        common.counts(batches or [BATCHES], "batches"),
        common.counts(workers or [WORKERS], "workers"),
        max_seconds,
        pause,
        seed,
    )
    paths = find_images(images)[:max_images]
    with Steps("latency") as steps:
        run = run_latency(bundle, paths, ways, checkpoint=reference, progress=steps)
    common.print_measured(run, as_json)
    if run.failures:
        raise MedpromptError(
            f"{len(run.failures)} engines failed while they were timed; the figures are of the others.",
            where=str(bundle),
            got="; ".join(f"{name}: {in_one_line(error)}" for name, error in run.failures.items()),
        )
