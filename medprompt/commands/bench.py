"""``medprompt bench …``: accuracy and latency of a bundle, with PyTorch beside it where its checkpoint is given."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medprompt.commands.common import (
    AsJson,
    BundlePath,
    Data,
    Device,
    Reference,
    Resamples,
    Rounds,
    Seed,
    Threads,
    TimedThreads,
    need,
    print_json,
    print_warnings,
)
from medprompt.commands.compare import bench_compare
from medprompt.commands.regress import bench_regress
from medprompt.commands.report import bench_report
from medprompt.commands.sweep import bench_sweep, points
from medprompt.core.errors import InputError, MedpromptError, ParityError

if TYPE_CHECKING:
    from medprompt.benchmarks.accuracy.evaluation import EvaluationReport

bench_app = typer.Typer(no_args_is_help=True, help="Measure a bundle: accuracy, latency, change since a baseline.")
bench_app.command("regress")(bench_regress)
bench_app.command("compare")(bench_compare)
bench_app.command("report")(bench_report)
bench_app.command("sweep")(bench_sweep)

Bank = Annotated[Path | None, typer.Option("--prompts", help="Prompt bank to ask instead of the bundle's own.")]


@bench_app.command("accuracy")
def bench_accuracy(
    bundle: BundlePath,
    data: Data,
    reference: Reference = None,
    prompts: Bank = None,
    csv: Annotated[Path | None, typer.Option("--csv", help="Write one row an image here.")] = None,
    slices: Annotated[
        Path | None,
        typer.Option(help="Table of images (CSV: file, any columns, spacing_mm): figures by each value, shifts in mm."),
    ] = None,
    resamples: Resamples = 1000,
    seed: Seed = 0,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at an image that cannot be read.")] = False,
    device: Device = "auto",
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Measure a bundle on labelled images: AP, FROC, calibration, box shift, with 95 % intervals.

    Each set is asked for its own classes. With --reference every difference from PyTorch has a paired interval, and
    decisions that differ fail the run (exit 3). An image that cannot be read is left out and listed (exit 1).

    Example: `medprompt bench accuracy polyp.bundle --data frames/val.json --csv images.csv`
    """
    need("faster_coco_eval", "Measuring accuracy", "bench")
    from medprompt.benchmarks.accuracy.evaluation import evaluate_bundle
    from medprompt.benchmarks.accuracy.slices import metadata_from_csv, slices_of_report, slices_table
    from medprompt.benchmarks.accuracy.tables import write_csv
    from medprompt.core.terminal import Steps, print_table
    from medprompt.data import read_detection_set
    from medprompt.prompts.bank import load_bank

    metadata = metadata_from_csv(slices) if slices else None
    sets = [read_detection_set(source) for source in data]
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
            progress=steps,
        )
        parts = slices_of_report(report, metadata) if metadata else []
    if csv:
        write_csv(report, csv)
    if as_json:
        print_json(report.as_json() | ({"slices": [part.as_json() for part in parts]} if metadata else {}))
    else:
        _print_accuracy(report)
        if parts:
            table = slices_table(parts)
            print_table(table.title, table.columns, table.rows, table.caption)
    _judge_accuracy(report, bundle)


def _print_accuracy(report: EvaluationReport) -> None:
    from medprompt.benchmarks.accuracy.tables import tables
    from medprompt.core.terminal import print_table

    for table in tables(report):
        print_table(table.title, table.columns, table.rows, table.caption)


def _judge_accuracy(report: EvaluationReport, bundle: Path) -> None:
    """Fail where the bundle decides otherwise than PyTorch, or where images are unknown."""
    print_warnings(f"not read: {line}" for line in report.unread)
    if report.failed:
        raise ParityError(
            "The bundle decides otherwise than PyTorch on labelled images.",
            where=str(bundle),
            expected="parity passed on every set",
            got=", ".join(entry.name for entry in report.failed),
            fix="medprompt verify BUNDLE; see reports/parity.json in the bundle",
        )
    if report.unread:
        count = sum(len(entry.predictions.labelled.images) for entry in report.sets) + len(report.unread)
        raise MedpromptError(
            f"{len(report.unread)} of {count} images were not read; the figures are of the others.",
            where="; ".join(report.unread[:3]),
            fix="mend the files or take them out of the data set",
        )


@bench_app.command("latency")
def bench_latency(
    bundle: BundlePath,
    images: Annotated[list[Path], typer.Option("--images", help="An image or a folder of them; repeats.")],
    reference: Reference = None,
    device: Annotated[list[str] | None, typer.Option("--device", help="An engine to time; repeats. auto.")] = None,
    threads: TimedThreads = 1,
    rounds: Rounds = 30,
    warmup: Annotated[int, typer.Option(min=1, help="Calls of each before them.")] = 2,
    most_images: Annotated[int, typer.Option(min=1, help="Images taken, in order of their names.")] = 10,
    most_seconds: Annotated[float | None, typer.Option(min=0, help="Begin no further round after this long.")] = None,
    autocast: Annotated[bool, typer.Option("--autocast", help="Time PyTorch in bfloat16 too.")] = False,
    compiled: Annotated[bool, typer.Option("--compile", help="Time torch.compile too: minutes of compiling.")] = False,
    batches: Annotated[str, typer.Option(help="Images a call, for throughput; none leaves it out.")] = "1,2,4",
    workers: Annotated[str, typer.Option(help="Detectors at once, for throughput; none leaves it out.")] = "1,2",
    pause: Annotated[float, typer.Option(min=0, help="Seconds of rest after each round, against throttling.")] = 0.0,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Time a bundle's engines, with PyTorch beside them where --reference is given: same images, in turn, one process.

    Example: `medprompt bench latency polyp.bundle --images frames/ --reference CKPT --device ort-cpu --device openvino`
    """
    from medprompt.benchmarks.latency.run import LatencyOptions, run_latency
    from medprompt.core.terminal import Steps, print_table
    from medprompt.images.read import find_images

    if (autocast or compiled) and reference is None:
        raise InputError(
            "There is no PyTorch to time.", where="--autocast, --compile", fix="add --reference CHECKPOINT"
        )
    ways = LatencyOptions(
        device or ["auto"],
        threads,
        rounds,
        warmup,
        autocast,
        compiled,
        points(batches, "--batches"),
        points(workers, "--workers"),
        most_seconds,
        pause,
        seed,
    )
    paths = find_images(images)[:most_images]
    with Steps("latency") as steps:
        run = run_latency(bundle, paths, ways, checkpoint=reference, progress=steps)
    if as_json:
        print_json(run.as_json())
    else:
        for table in run.tables():
            print_table(table.title, table.columns, table.rows, table.caption)
    if run.failures:
        raise MedpromptError(
            f"{len(run.failures)} of what was to be timed failed on the way; the figures are of the others.",
            where=str(bundle),
            got="; ".join(f"{name}: {' '.join(error.split())}" for name, error in run.failures.items()),
        )
