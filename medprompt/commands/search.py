"""``medprompt prompts search``: the wording that a model answers best, and what it is worth on other images."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medprompt.commands.common import (
    DATA_FORMS,
    AsJson,
    Checkpoint,
    Force,
    PromptsPath,
    need,
    print_json,
    print_warnings,
    refuse_existing,
    today,
)
from medprompt.commands.prompts import LexiconPath

if TYPE_CHECKING:
    from medprompt.export.prompt_tuning.search import Compared, SearchReport


class SearchMethod(StrEnum):
    """How many of the best wordings are developed further."""

    greedy = "greedy"
    beam = "beam"


def prompts_search(
    checkpoint: Checkpoint,
    prompts: PromptsPath,
    data: Annotated[str, typer.Option(help=f"Labelled set to search on: {DATA_FORMS}.")],
    report: Annotated[str, typer.Option(help="Labelled set of other images to report on.")],
    out: Annotated[Path, typer.Option("--out", help="Prompts file to write (YAML).")],
    method: Annotated[
        SearchMethod, typer.Option(help="Develop the best wording, or the --beam best.")
    ] = SearchMethod.greedy,
    beam: Annotated[int, typer.Option(min=1, help="Width of the beam.")] = 4,
    max_phrases: Annotated[int, typer.Option(min=1, help="Most phrases a class.")] = 3,
    budget: Annotated[int, typer.Option(min=1, help="Most wordings to score.")] = 300,
    shots: Annotated[
        int | None, typer.Option(min=1, help="Search on a part of --data with this many images a class.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides which.")] = 0,
    cache: Annotated[Path | None, typer.Option(help="Folder that keeps image features between runs.")] = None,
    lexicon: LexiconPath = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Search the phrases with the best AP on --data; --report shows what of it holds on other images.

    Example: `medprompt prompts search CKPT --prompts P.yaml --data bccd:train --report bccd:val --out Q.yaml`
    """
    need("torch", "Searching prompts", "export")
    need("faster_coco_eval", "Searching prompts", "bench")
    from medprompt.core.terminal import Steps
    from medprompt.data import read_detection_set
    from medprompt.export.checkpoint import family_from_checkpoint
    from medprompt.export.prompt_tuning.search import search_prompts
    from medprompt.export.shots import few_shot
    from medprompt.generation.lexicon import lexicon_from_yaml
    from medprompt.generation.search import SearchRules
    from medprompt.prompts.file import prompts_from_yaml, save_prompts

    refuse_existing(force, out)
    width = beam if method is SearchMethod.beam else 1
    rules = SearchRules(width, max_phrases, budget, today())
    start, words = prompts_from_yaml(prompts), lexicon_from_yaml(lexicon)
    searched, reported = read_detection_set(data), read_detection_set(report)
    if shots:
        searched = few_shot(searched, shots, seed)
    family = family_from_checkpoint(checkpoint)
    with Steps("search") as steps:
        found = search_prompts(family, start, searched, reported, words, rules, cache=cache, progress=steps)
    save_prompts(found.prompts, out)
    _print_notes(found)
    if as_json:
        print_json({"out": str(out), **found.as_json()})
        return
    _print_report(found)
    print(f"{out}: {len(found.prompts.texts)} phrases; medprompt prompts diff {prompts} {out} lists what changed")


def _print_notes(found: SearchReport) -> None:
    notes = [
        f"no attribute word in the phrases of {label}: only its names and subsets of its phrases were tried"
        for label in found.ascent.fixed
    ]
    if found.ascent.interrupted:
        notes.append("interrupted: this is the best so far")
    print_warnings(notes)


def _print_report(found: SearchReport) -> None:
    from medprompt.core.terminal import print_table

    ascent = found.ascent
    pace = f"{ascent.candidates} candidates in {ascent.seconds:.1f} s, {ascent.per_minute:.0f} a minute"
    optimism = f"AP {found.data.gain:+.4f} where it was searched, {found.report.gain:+.4f} elsewhere"
    rows = [*_rows("searched", found.data), *_rows("reported", found.report)]
    print_table("Search", ["set", "class", "AP start", "AP found", "AP50 start", "AP50 found"], rows, pace)
    phrases = [(entry.label, "; ".join(phrase.text for phrase in entry.phrases)) for entry in found.prompts.classes]
    print_table("Phrases", ["class", "phrases"], phrases, optimism, align="left")


def _rows(kind: str, compared: Compared) -> list[tuple[str, ...]]:
    start, found = compared.start, compared.found
    figures = [("all", start.ap, found.ap, start.ap50, found.ap50)]
    figures += [
        (
            label,
            start.ap_by_label[label],
            found.ap_by_label[label],
            start.ap50_by_label[label],
            found.ap50_by_label[label],
        )
        for label in start.ap_by_label
    ]
    place = f"{kind}: {compared.name}, {compared.images} images"
    return [(place, label, *(_shown(value) for value in values)) for label, *values in figures]


def _shown(value: float) -> str:
    return "-" if value != value else f"{value:.4f}"
