"""What ``medprompt prompts augment --rank`` does with the new phrases."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medprompt.commands import common
from medprompt.core.errors import PromptError
from medprompt.core.terminal import Steps, print_table

if TYPE_CHECKING:
    from medprompt.prompts.schema import Prompts


def check_ranking(rank: Path | None, images: Path | None, data: str | None) -> None:
    """Refuse a checkpoint without images, images without a checkpoint, or images of both kinds."""
    sources = [name for name, value in {"images": images, "data": data}.items() if value is not None]
    if len(sources) != (rank is not None):
        raise PromptError(
            "Ranking needs a checkpoint and one set of images.",
            where="rank, images, data",
            expected="rank=CHECKPOINT with either images=FOLDER or data=SET, or none of the three",
            got=", ".join((["rank"] if rank else []) + sources),
            fix="add what is missing, or leave all three out",
        )


def best_ranked(
    checkpoint: Path,
    before: Prompts,
    made: Prompts,
    max_new: int,
    *,
    images: Path | None,
    data: str | None,
    cache: Path | None,
) -> Prompts:
    """Rank the phrases of ``made`` that ``before`` has not, print them all, and keep the best ``max_new`` a class."""
    common.need("torch", "Ranking phrases", "export")
    from medprompt.export.checkpoint import family_from_checkpoint
    from medprompt.export.prompt_tuning.rank import rank_new_phrases, unlabelled_set
    from medprompt.images.read import find_images

    found = unlabelled_set(find_images([images]), str(images)) if images else common.labelled_sets([str(data)])[0]
    family = family_from_checkpoint(checkpoint)
    with Steps("rank") as steps:
        kept, rows = rank_new_phrases(
            family, before, made, found, max_new, labelled=data is not None, cache=cache, progress=steps
        )
    figure = "response" if data is None else "AP alone"
    shown = [
        (row.label, row.text, f"{row.figure:.4f}", ("kept" if row.kept else "left out") if row.new else "was there")
        for row in rows
    ]
    print_table(f"Phrases on {found.name}", ["class", "phrase", figure, ""], shown)
    return kept
