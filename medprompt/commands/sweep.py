"""``medprompt bench sweep``: how latency grows with phrases, batch, threads and image size."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from medprompt.commands import common
from medprompt.core.errors import InputError
from medprompt.core.terminal import Steps

POINTS = {"phrases": "1,10,30,100,500", "batch": "1,2,4,8", "sides": "256,512,1024,2048,4096", "thread_counts": "none"}
AXES = {"sides": "side", "thread_counts": "threads"}
"""The library's axis of an option, where its name is another."""


def _points(option: str, what: str) -> Any:
    text = f"{what}; repeat for several. 'none' skips this axis."
    return typer.Option(help=text, show_default=POINTS[option])


def bench_sweep(
    bundle: common.BundlePath,
    images: common.Images,
    phrases: Annotated[list[str] | None, _points("phrases", "Number of phrases")] = None,
    batch: Annotated[list[str] | None, _points("batch", "Batch size")] = None,
    sides: Annotated[list[str] | None, _points("sides", "Longer side of the source image in pixels")] = None,
    thread_counts: Annotated[list[str] | None, _points("thread_counts", "Number of CPU threads")] = None,
    device: common.Devices = None,
    threads: common.TimedThreads = 1,
    rounds: common.Rounds = 10,
    max_images: common.MaxImages = 10,
    csv: Annotated[Path | None, typer.Option("--csv", help="Write a table here: one row for each point.")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw the curves here (PNG).")] = None,
    seed: common.Seed = 0,
    force: common.Force = False,
    as_json: common.AsJson = False,
) -> None:
    """Measure how latency grows with phrases, batch size, source size and threads, one axis at a time.

    The phrases repeat the bundle's own: time depends on how many there are, not on their words.

    Example: `medprompt bench sweep polyp.bundle --images frames/ --device ort-cpu --csv sweep.csv --plot sweep.png`
    """
    from medprompt.benchmarks.latency.sweep import run_sweep
    from medprompt.benchmarks.latency.sweep_report import POINT_TABLE
    from medprompt.core.overlay import PICTURE
    from medprompt.images.read import find_images, load_image

    common.reserve({"csv": (csv, POINT_TABLE), "plot": (plot, PICTURE)}, [bundle], images, force=force)
    requested = {"phrases": phrases, "batch": batch, "sides": sides, "thread_counts": thread_counts}
    axes = {
        AXES.get(name, name): found
        for name, values in requested.items()
        if (found := common.counts(values or [POINTS[name]], name))
    }
    if not axes:
        raise InputError("There is nothing to sweep.", expected="points on one axis or more", got="none on each")
    pictures = [load_image(path) for path in find_images(images)[:max_images]]
    with Steps("sweep") as steps:
        sweep = run_sweep(
            bundle,
            pictures,
            axes,
            devices=common.split_list(device) or ["auto"],
            threads=threads,
            rounds=rounds,
            seed=seed,
            progress=steps,
        )
    if csv:
        sweep.write_csv(csv)
    if plot:
        sweep.write_plot(plot)
    common.print_measured(sweep, as_json)
