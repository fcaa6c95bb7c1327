"""``medprompt bench compare``: two bundles, engines or prompt banks on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from medprompt.commands import common
from medprompt.core.errors import InputError
from medprompt.core.terminal import Steps

Thing = TypeVar("Thing")
BothDevices = Annotated[
    list[str] | None,
    typer.Option(
        "--device",
        help="The device to run on. Given twice, the first side runs on the first and the second side on the second.",
        show_default=False,
    ),
]
Banks = Annotated[
    list[Path] | None,
    typer.Option(
        "--prompts",
        help="A prompt bank for the second side. Given twice, the first side has the first bank and the second side "
        "the second.",
        show_default=False,
    ),
]


def bench_compare(
    first: common.BundlePath,
    second: Annotated[
        Path | None, typer.Argument(help="Another bundle. Without it, two devices or banks of one bundle are compared.")
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data", help=f"Labelled images: {common.DATA_FORMS}. Repeat for several sets.", show_default=False
        ),
    ] = None,
    images: Annotated[
        list[Path] | None,
        typer.Option(
            "--images", help="Images without labels, or folders of them. Repeat for several.", show_default=False
        ),
    ] = None,
    labelled_images: Annotated[
        Path | None,
        typer.Option("--labelled-images", help="Folder of the images of --data, where not beside their labels."),
    ] = None,
    allow: common.Allow = None,
    device: BothDevices = None,
    prompts: Banks = None,
    threads: common.TimedThreads = 1,
    rounds: common.Rounds = 20,
    resamples: common.Resamples = 1000,
    seed: common.Seed = 0,
    as_json: common.AsJson = False,
) -> None:
    """Compare two bundles on the same images, or two devices or prompt banks of one bundle.

    Decisions, accuracy (with `--data`) and latency are compared.

    Example: `medprompt bench compare old.bundle new.bundle --data val.json`

    Two devices: `medprompt bench compare polyp.bundle --device ort-cpu --device openvino --images frames/`

    Another bank: `medprompt bench compare polyp.bundle --prompts tuned.safetensors --data val.json`
    """
    from medprompt.benchmarks.compare import Side, compare_sides
    from medprompt.images.read import find_images
    from medprompt.prompts.bank import load_bank

    devices, banks = common.split_list(device) or ["auto"], [load_bank(path) for path in prompts or []]
    if len(devices) > 2 or len(banks) > 2:
        raise InputError("Only two sides can be compared.", where="device, prompts", expected="at most two of each")
    if second is None and len(set(devices)) < 2 and not banks:
        raise InputError(
            "There is nothing to compare with.", fix="name a second bundle, two devices, or pass prompts=BANK"
        )
    names = [str(path) for path in prompts or []]
    sides = [
        Side(bundle, devices[index if len(devices) > 1 else 0], _of(banks, index), _name(bundle, devices, names, index))
        for index, bundle in enumerate((first, second or first))
    ]
    labelled = common.labelled_sets(data or [], labelled_images, allow)
    with Steps("compare") as steps:
        found = compare_sides(
            *sides,
            labelled=labelled,
            images=find_images(images) if images else [],
            threads=threads,
            rounds=rounds,
            resamples=resamples,
            seed=seed,
            progress=steps,
        )
    common.print_measured(found, as_json)


def _of(things: Sequence[Thing], index: int) -> Thing | None:
    """The side's own: of two each has one, a single one is the second's."""
    return things[index] if len(things) == 2 else (things[0] if things and index == 1 else None)


def _name(bundle: Path, devices: list[str], banks: list[str], index: int) -> str:
    """What tells the side from the other."""
    bank = _of(banks, index)
    parts = [bundle.name, *([f"with {Path(bank).name}"] if bank else [])]
    return " ".join([*parts, f"on {devices[index if len(devices) > 1 else 0]}"])
