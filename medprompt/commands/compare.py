"""``medprompt bench compare``: two bundles, engines or prompt banks on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from medprompt.commands.common import (
    DATA_FORMS,
    AsJson,
    BundlePath,
    Resamples,
    Rounds,
    Seed,
    TimedThreads,
    need,
    print_json,
)
from medprompt.core.errors import InputError

Thing = TypeVar("Thing")
Devices = Annotated[list[str] | None, typer.Option("--device", help="Engine; twice: the first's, then the second's.")]
Banks = Annotated[
    list[Path] | None,
    typer.Option("--prompts", help="Bank; twice: the first's, then the second's; once: the second's."),
]


def bench_compare(
    first: BundlePath,
    second: Annotated[Path | None, typer.Argument(help="Another bundle; the same one where left out.")] = None,
    data: Annotated[list[str] | None, typer.Option("--data", help=f"{DATA_FORMS}; repeats.")] = None,
    images: Annotated[list[Path] | None, typer.Option("--images", help="Images without labels; repeats.")] = None,
    device: Devices = None,
    prompts: Banks = None,
    threads: TimedThreads = 1,
    rounds: Rounds = 20,
    resamples: Resamples = 1000,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Compare two bundles, or two engines or prompt banks of one, on the same images: decisions, accuracy, time.

    Example: `medprompt bench compare old.bundle new.bundle --data val.json`

    Two engines: `medprompt bench compare polyp.bundle --device ort-cpu --device openvino --images frames/`

    Another bank: `medprompt bench compare polyp.bundle --prompts tuned.safetensors --data val.json`
    """
    from medprompt.benchmarks.compare import Side, compare_sides
    from medprompt.core.terminal import Steps, print_table
    from medprompt.data import read_detection_set
    from medprompt.images.read import find_images
    from medprompt.prompts.bank import load_bank

    devices, banks = list(device or ["auto"]), [load_bank(path) for path in prompts or []]
    if len(devices) > 2 or len(banks) > 2:
        raise InputError("Two are compared.", where="--device, --prompts", expected="two at most of each")
    if second is None and len(set(devices)) < 2 and not banks:
        raise InputError(
            "There is nothing to compare with.", fix="name a second bundle, two --device, or --prompts BANK"
        )
    if data:
        need("faster_coco_eval", "Measuring accuracy", "bench")
    names = [str(path) for path in prompts or []]
    sides = [
        Side(bundle, devices[place if len(devices) > 1 else 0], _of(banks, place), _name(bundle, devices, names, place))
        for place, bundle in enumerate((first, second or first))
    ]
    with Steps("compare") as steps:
        found = compare_sides(
            *sides,
            labelled=[read_detection_set(source) for source in data or []],
            images=find_images(images) if images else [],
            threads=threads,
            rounds=rounds,
            resamples=resamples,
            seed=seed,
            progress=steps,
        )
    if as_json:
        print_json(found.as_json())
        return
    for table in found.tables():
        print_table(table.title, table.columns, table.rows, table.caption)


def _of(things: Sequence[Thing], place: int) -> Thing | None:
    """The side's own: of two each has one, a single one is the second's."""
    return things[place] if len(things) == 2 else (things[0] if things and place == 1 else None)


def _name(bundle: Path, devices: list[str], banks: list[str], place: int) -> str:
    """What tells the side from the other."""
    bank = _of(banks, place)
    parts = [bundle.name, *([f"with {Path(bank).name}"] if bank else [])]
    return " ".join([*parts, f"on {devices[place if len(devices) > 1 else 0]}"])
