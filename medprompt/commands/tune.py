"""``medprompt prompts tune``: the phrases' embeddings learn from a few labelled images, the model stays what it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medprompt.commands.common import DATA_FORMS, AsJson, Checkpoint, Force, need, print_json, refuse_existing, today
from medprompt.core.errors import InputError

if TYPE_CHECKING:
    from medprompt.export.families.base import Family
    from medprompt.prompts.bank import PromptBank


def tune(
    checkpoint: Checkpoint,
    prompts: Annotated[Path, typer.Option(help="Start: prompts file (YAML), or a bank of this checkpoint.")],
    data: Annotated[str, typer.Option(help=f"Labelled images to learn from: {DATA_FORMS}.")],
    out: Annotated[Path, typer.Option(help="Bank to write (safetensors).")],
    report: Annotated[str | None, typer.Option(help="Other labelled images, measured once at the end.")] = None,
    labels: Annotated[str | None, typer.Option(help="Tune these classes alone, by commas.")] = None,
    shots: Annotated[str, typer.Option(help="Images a class, or all.")] = "all",
    seed: Annotated[int, typer.Option(min=0, help="Decides which images, and their order.")] = 0,
    steps: Annotated[int, typer.Option(min=1, help="Most steps; held-back images decide when to stop.")] = 200,
    learning_rate: Annotated[float, typer.Option(min=0, help="Of directions of length 1.")] = 0.01,
    anchor: Annotated[float, typer.Option(min=0, help="Pull towards the text encoder's own embedding.")] = 1.0,
    min_gain: Annotated[float, typer.Option(min=0, help="Least gain in AP for which the start is given up.")] = 0.01,
    image_size: Annotated[str | None, typer.Option(help="HEIGHTxWIDTH, as the bundle was exported.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder that keeps image features between runs.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; all cores by default.")] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Tune the phrases' embeddings on labelled images, all weights frozen: a bank that drops into a finished bundle.

    Example: `medprompt prompts tune CKPT --prompts P.yaml --data bccd:train --shots 5 --out tuned.safetensors`
    """
    need("torch", "Tuning prompts", "export")
    need("faster_coco_eval", "Tuning prompts", "bench")
    from medprompt.core.terminal import Steps, print_table
    from medprompt.data import read_detection_set
    from medprompt.export.prompt_tuning.tune import TuneOptions
    from medprompt.export.prompt_tuning.tune_report import COLUMNS, tune_prompts
    from medprompt.prompts.bank import save_bank

    refuse_existing(force, out)
    count = _shots(shots)
    sets = [read_detection_set(source) for source in (data, report) if source]
    family = _family(checkpoint, image_size)
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
            date=today(),
            progress=progress,
        )
    bank = made.tuned.bank
    save_bank(bank, out)
    if as_json:
        print_json({"out": str(out), "encoder": bank.encoder, "sha256": bank.content_hash(), **made.as_json()})
        return
    print_table("Start and tuned bank", COLUMNS, made.rows(), made.summary())
    print(f"tuned on {len(made.tuned_on)} images: {_listed(made.tuned_on)}")
    print(f"held back {len(made.held_back)} images: {_listed(made.held_back)}")
    print(f"{out}: {len(bank.prompts.texts)} phrases, bank sha256 {bank.content_hash()[:16]}")


def _shots(text: str) -> int | None:
    if text == "all":
        return None
    if not text.isdecimal() or not int(text):
        raise InputError("--shots is not a number of images.", expected="1 or more, or all", got=text)
    return int(text)


def _family(checkpoint: Path, image_size: str | None) -> Family:
    from medprompt.commands.compile import size_hw
    from medprompt.export.checkpoint import family_from_checkpoint

    return family_from_checkpoint(checkpoint, None if image_size is None else size_hw(image_size, "--image-size"))


def _start(family: Family, prompts: Path, labels: str | None) -> PromptBank:
    from medprompt.export.embed import bank_from_prompts
    from medprompt.prompts.bank import PromptBank
    from medprompt.prompts.diff import read_either

    read = read_either(prompts)
    bank = read if isinstance(read, PromptBank) else bank_from_prompts(family, read)
    return bank.subset([label.strip() for label in labels.split(",")]) if labels else bank


def _listed(names: tuple[str, ...], most: int = 12) -> str:
    more = f", … and {len(names) - most} more (--json lists all)" if len(names) > most else ""
    return (", ".join(names[:most]) or "none") + more
