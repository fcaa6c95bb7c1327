"""``medprompt bench prompts``: does a bundle read its prompts?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medprompt.commands import common
from medprompt.core.errors import NoVerdictError
from medprompt.core.terminal import Steps

if TYPE_CHECKING:
    from medprompt.benchmarks.audit.report import PromptAudit


def bench_prompts(
    bundle: common.BundlePath,
    data: common.Data,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="The checkpoint of the bundle, which encodes other words. Without it, only phrases of banks are asked."
        ),
    ] = None,
    words: Annotated[
        Path | None, typer.Option(help="Synonyms, translations and absent things of your own (YAML).")
    ] = None,
    absent: Annotated[
        list[Path] | None,
        typer.Option(help="A prompt bank whose classes are in no image. Repeat for several.", show_default=False),
    ] = None,
    images: common.ImageFolder = None,
    allow: common.Allow = None,
    resamples: common.Resamples = 400,
    seed: common.Seed = 0,
    strict: common.Strict = False,
    device: common.Device = "auto",
    threads: common.Threads = None,
    as_json: common.AsJson = False,
) -> None:
    """Measure whether a bundle reads its prompts: what is left of its answers under other words.

    Each class is asked for by the phrases of another, by synonyms, by what is not there, negated, shuffled, in another
    language, and without a word. The verdict of each class: reads, partly or ignores its prompts.

    The exit code is 4 where a class has no verdict, and 1 where an image could not be read.

    Example: `medprompt bench prompts polyp.bundle --data val.json --checkpoint CKPT`
    """
    from medprompt.benchmarks.audit.report import audit_prompts
    from medprompt.prompts.bank import load_bank
    from medprompt.prompts.wording import read_wording

    if checkpoint:
        common.need("torch", "Encoding other words", "export")
    known = read_wording(words)
    banks = [load_bank(path) for path in absent or ()]
    sets = common.labelled_sets(data, images, allow)
    with Steps("prompts") as steps:
        audit = audit_prompts(
            bundle,
            sets,
            checkpoint=checkpoint,
            words=known,
            absent=banks,
            device=device,
            threads=threads,
            resamples=resamples,
            seed=seed,
            strict=strict,
            progress=steps,
        )
    common.print_warnings([*audit.notes, *(f"not read: {line}" for line in audit.unread)])
    common.print_measured(audit, as_json)
    _judge(audit, bundle)


def _judge(audit: PromptAudit, bundle: Path) -> None:
    common.refuse_unread(audit.unread, "verdicts", "data set")
    if audit.unclear:
        raise NoVerdictError(
            "Not every class has a verdict.",
            where=str(bundle),
            got="; ".join(audit.unclear),
            fix="label more images; pass checkpoint=, and words= with synonyms; see `medprompt docs prompts-audit`",
        )
