"""``medprompt bench sweep``: how latency grows with phrases, batch, threads and image size."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medprompt.commands.common import AsJson, BundlePath, Rounds, Seed, TimedThreads, print_json
from medprompt.core.errors import InputError


def bench_sweep(
    bundle: BundlePath,
    images: Annotated[list[Path], typer.Option("--images", help="An image or a folder of them; repeats.")],
    phrases: Annotated[str, typer.Option(help="Phrases of the bank; none leaves the axis out.")] = "1,10,30,100,500",
    batch: Annotated[str, typer.Option(help="Images a call; none leaves the axis out.")] = "1,2,4,8",
    sides: Annotated[
        str, typer.Option(help="Longer side of the source in pixels, or none.")
    ] = "256,512,1024,2048,4096",
    thread_counts: Annotated[str, typer.Option(help="CPU threads, or none.")] = "none",
    device: Annotated[list[str] | None, typer.Option("--device", help="An engine; repeats. auto.")] = None,
    threads: TimedThreads = 1,
    rounds: Rounds = 10,
    most_images: Annotated[int, typer.Option(min=1, help="Images taken, in order of their names.")] = 10,
    csv: Annotated[Path | None, typer.Option("--csv", help="Write one row a point here.")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw the curves here (PNG).")] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Measure how latency grows, one axis at a time: phrases, images a batch, source size, threads.

    Banks of any length are made of the bundle's own phrases: time depends on how many there are, not on their words.

    Example: `medprompt bench sweep polyp.bundle --images frames/ --device ort-cpu --csv sweep.csv --plot sweep.png`
    """
    from medprompt.benchmarks.latency.sweep import run_sweep
    from medprompt.core.terminal import Steps, print_table
    from medprompt.images.read import find_images, load_image

    asked = {"phrases": phrases, "batch": batch, "side": sides, "threads": thread_counts}
    axes = {axis: values for axis, text in asked.items() if (values := points(text, axis))}
    if not axes:
        raise InputError("There is nothing to sweep.", expected="points on one axis or more", got="none on each")
    pictures = [load_image(path) for path in find_images(images)[:most_images]]
    with Steps("sweep") as steps:
        sweep = run_sweep(
            bundle,
            pictures,
            axes,
            devices=device or ["auto"],
            threads=threads,
            rounds=rounds,
            seed=seed,
            progress=steps,
        )
    if csv:
        sweep.write_csv(csv)
    if plot:
        sweep.write_plot(plot)
    if as_json:
        print_json(sweep.as_json())
        return
    for table in sweep.tables():
        print_table(table.title, table.columns, table.rows, table.caption)


def points(text: str, axis: str) -> list[int]:
    """Whole numbers from 1 between commas, in rising order, each once; nothing for ``none``.

    Raises:
        InputError: Something else.
    """
    if text.strip().lower() == "none":
        return []
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise InputError(
            "These are no points.", where=axis, expected="whole numbers such as 1,10,100, or none", got=text
        )
    return sorted({int(part) for part in parts})
