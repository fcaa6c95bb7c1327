"""``medprompt prompts search``: the prompts that a model detects best with, and what they are worth on other images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from medprompt.commands import common
from medprompt.core.terminal import Steps, print_table

if TYPE_CHECKING:
    from medprompt.export.prompt_tuning.search import Compared, SearchReport


LexiconPath = Annotated[
    Path | None,
    typer.Option("--lexicon", help="Your own lexicon (YAML), instead of the one that comes with medprompt."),
]


def search(
    checkpoint: common.Checkpoint,
    prompts: common.PromptsPath,
    data: Annotated[str, typer.Option(help=f"Labelled images to search on: {common.DATA_FORMS}.")],
    test_data: Annotated[
        str, typer.Option("--test-data", help="Other labelled images, to measure the result on at the end.")
    ],
    out: common.OutPrompts,
    method: Annotated[
        Literal["greedy", "beam"],
        typer.Option(help="Develop the best prompt set only (greedy), or several of the best (beam)."),
    ] = "greedy",
    beam: Annotated[int, typer.Option(min=1, help="How many prompt sets a beam search develops.")] = 4,
    max_phrases: Annotated[int, typer.Option(min=1, help="Maximum number of phrases in a class.")] = 3,
    budget: Annotated[int, typer.Option(min=1, help="Maximum number of prompt sets to score.")] = 300,
    shots: Annotated[
        int | None, typer.Option(min=1, help="Search on this many images of each class only. All by default.")
    ] = None,
    seed: common.ShotsSeed = 0,
    images: common.ImageFolder = None,
    allow: common.Allow = None,
    cache: common.Cache = None,
    lexicon: LexiconPath = None,
    force: common.Force = False,
    as_json: common.AsJson = False,
) -> None:
    """Search for the phrases with the best AP on labelled images.

    The result is measured on other images too, for what was fitted to the searched images alone does not last.

    Example: `medprompt prompts search CKPT --prompts P.yaml --data train.json --test-data val.json --out Q.yaml`
    """
    common.need("torch", "Searching prompts", "export")
    from medprompt.export.checkpoint import family_from_checkpoint
    from medprompt.export.prompt_tuning.search import search_prompts
    from medprompt.export.shots import few_shot
    from medprompt.generation.lexicon import lexicon_from_yaml
    from medprompt.generation.search import SearchRules
    from medprompt.prompts.file import PROMPTS_FILE, prompts_from_yaml, save_prompts

    read = [checkpoint, prompts, lexicon]
    common.reserve({"out": (out, PROMPTS_FILE)}, read, common.data_paths(data, test_data), force=force)
    width = beam if method == "beam" else 1
    rules = SearchRules(width, max_phrases, budget, common.today())
    start, words = prompts_from_yaml(prompts), lexicon_from_yaml(lexicon)
    searched, reported = common.labelled_sets([data, test_data], images, allow)
    if shots:
        searched = few_shot(searched, shots, seed)
    family = family_from_checkpoint(checkpoint)
    with Steps("search") as steps:
        found = search_prompts(family, start, searched, reported, words, rules, cache=cache, progress=steps)
    save_prompts(found.prompts, out)
    common.print_warnings(_notes(found))
    if as_json:
        common.print_json({"out": str(out), **found.as_json()})
        return
    _print_report(found)
    print(f"{out}: {len(found.prompts.texts)} phrases; medprompt prompts diff {prompts} {out} lists what changed")


def _notes(found: SearchReport) -> Iterator[str]:
    for label in found.ascent.fixed:
        yield f"the phrases of {label} contain no attribute word: only its names and subsets of its phrases were tried"
    if found.ascent.interrupted:
        yield "interrupted: this is the best so far"


def _print_report(found: SearchReport) -> None:
    ascent = found.ascent
    pace = f"{ascent.candidates} candidates in {ascent.seconds:.1f} s, {ascent.per_minute:.0f} a minute"
    optimism = f"AP {found.data.gain:+.4f} where it was searched, {found.report.gain:+.4f} elsewhere"
    rows = [*_rows("searched", found.data), *_rows("reported", found.report)]
    print_table("Search", ["set", "class", "AP start", "AP found", "AP50 start", "AP50 found"], rows, pace)
    phrases = [(entry.label, "; ".join(phrase.text for phrase in entry.phrases)) for entry in found.prompts.classes]
    print_table("Phrases", ["class", "phrases"], phrases, optimism, align="left")


def _rows(kind: str, compared: Compared) -> list[tuple[str, ...]]:
    start, found = compared.start, compared.found
    figures: list[tuple[Any, ...]] = [("all", start.ap, found.ap, start.ap50, found.ap50)]
    by_label = (start.ap_by_label, found.ap_by_label, start.ap50_by_label, found.ap50_by_label)
    figures += [(label, *(values[label] for values in by_label)) for label in start.ap_by_label]
    data = f"{kind}: {compared.name}, {compared.images} images"
    return [(data, label, *(_shown(value) for value in values)) for label, *values in figures]


def _shown(value: float) -> str:
    return "-" if value != value else f"{value:.4f}"
