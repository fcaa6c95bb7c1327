"""``medprompt prompts tune``: the phrases' embeddings learn from a few labelled images, the model stays what it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medprompt.commands import common
from medprompt.core.errors import InputError
from medprompt.core.terminal import Steps, print_table

if TYPE_CHECKING:
    from medprompt.export.families.base import Family
    from medprompt.prompts.bank import PromptBank


def tune(
    checkpoint: common.Checkpoint,
    prompts: common.EitherPrompts,
    data: Annotated[str, typer.Option(help=f"Labelled images to tune on: {common.DATA_FORMS}.")],
    out: common.OutBank,
    test_data: Annotated[
        str | None, typer.Option("--test-data", help="Other labelled images, to measure the result on at the end.")
    ] = None,
    labels: Annotated[
        list[str] | None,
        typer.Option(help="Class to tune; repeat for several. All classes by default.", show_default=False),
    ] = None,
    shots: Annotated[str, typer.Option(help="How many images of each class to tune on, or 'all'.")] = "all",
    seed: common.ShotsSeed = 0,
    steps: Annotated[
        int, typer.Option(min=1, help="Maximum number of steps. Held-back images decide when to stop.")
    ] = 200,
    learning_rate: Annotated[float, typer.Option(min=0, help="Learning rate for embeddings of length 1.")] = 0.01,
    anchor: Annotated[
        float, typer.Option(min=0, help="Weight of the pull towards the text encoder's own embeddings.")
    ] = 1.0,
    min_gain: Annotated[
        float, typer.Option(min=0, help="Minimum gain in AP. The start is kept where tuning gains less.")
    ] = 0.01,
    images: common.ImageFolder = None,
    allow: common.Allow = None,
    image_size: common.ImageSize = None,
    cache: common.Cache = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads. All cores by default.")] = None,
    force: common.Force = False,
    as_json: common.AsJson = False,
) -> None:
    """Tune the phrases' embeddings on labelled images; the model's weights do not change.

    The result is a prompt bank that works in a bundle that is already exported.

    Example: `medprompt prompts tune CKPT --prompts P.yaml --data train.json --shots 5 --out tuned.safetensors`
    """
    common.need("torch", "Tuning prompts", "export")
    from medprompt.export.checkpoint import family_from_checkpoint
    from medprompt.export.prompt_tuning.tune import TuneOptions
    from medprompt.export.prompt_tuning.tune_report import COLUMNS, tune_prompts
    from medprompt.prompts.bank import BANK, save_bank

    common.reserve({"out": (out, BANK)}, [checkpoint, prompts], common.data_paths(data, test_data), force=force)
    count = _shots(shots)
    sets = common.labelled_sets([source for source in (data, test_data) if source], images, allow)
    family = family_from_checkpoint(checkpoint, common.size_hw(image_size))
    start = _start(family, prompts, labels)
    options = TuneOptions(steps=steps, learning_rate=learning_rate, anchor=anchor, min_gain=min_gain, seed=seed)
    with Steps("tune") as progress:
        made = tune_prompts(
            family,
            start,
            *sets,
            shots=count,
            options=options,
            cache=cache,
            threads=threads,
            date=common.today(),
            progress=progress,
        )
    bank = made.tuned.bank
    save_bank(bank, out)
    if as_json:
        common.print_json({"out": str(out), "encoder": bank.encoder, "sha256": bank.content_hash(), **made.as_json()})
        return
    print_table("Start and tuned bank", COLUMNS, made.rows(), made.summary())
    print(f"tuned on {len(made.tuned_on)} images: {_listed(made.tuned_on)}")
    print(f"held back {len(made.held_back)} images: {_listed(made.held_back)}")
    print(f"{out}: {len(bank.prompts.texts)} phrases, bank sha256 {bank.content_hash()[:16]}")


def _shots(text: str) -> int | None:
    if text == "all":
        return None
    if not text.isdecimal() or not int(text):
        raise InputError("This is not a number of images.", where="shots", expected="1 or more, or all", got=text)
    return int(text)


def _start(family: Family, prompts: Path, labels: list[str] | None) -> PromptBank:
    from medprompt.export.embed import bank_from_prompts
    from medprompt.prompts.bank import PromptBank
    from medprompt.prompts.diff import read_either

    read = read_either(prompts)
    bank = read if isinstance(read, PromptBank) else bank_from_prompts(family, read)
    return bank.subset(labels) if labels else bank


def _listed(names: tuple[str, ...], limit: int = 12) -> str:
    more = f", … and {len(names) - limit} more (--json lists all)" if len(names) > limit else ""
    return (", ".join(names[:limit]) or "none") + more
