"""A run's folder: which recipe began it, what it trains on, and the averaged weights of its last save."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import load_model
from torch.optim.swa_utils import AveragedModel

from medprompt.data import DetectionSet
from medprompt.errors import DataError, InputError
from medprompt.export.checkpoint import family_from_checkpoint
from medprompt.export.families.base import Family
from medprompt.export.finetune.callbacks import EMA_FILE
from medprompt.export.finetune.modes import choose_weights, merge_adapters
from medprompt.export.finetune.recipe import Recipe
from medprompt.files import written_aside

RECIPE_FILE = "recipe.json"
IMAGES_FILE = "images.tsv"
"""In a run's folder: set and file of each image that is trained on."""


def continue_same_run(recipe: Recipe, work: Path) -> None:
    """Refuse to go on with a run that another recipe began; its length and its end alone may change.

    Raises:
        DataError: Another recipe began the run, or its note is damaged.
    """
    note = work / RECIPE_FILE
    of_no_matter = {"steps", "decay_steps", "evaluate_every", "save_every", "threads"}
    fresh = recipe.model_dump_json(exclude=of_no_matter)
    if note.is_file() and _recipe_in(note).model_dump_json(exclude=of_no_matter) != fresh:
        raise DataError(
            "Another recipe began the run in this folder.",
            where=str(work),
            fix="choose another --out, or delete the folder to start anew",
        )
    with written_aside(note) as aside:
        aside.write_text(fresh, encoding="utf-8")


def note_images(sets: Sequence[DetectionSet], work: Path) -> None:
    """Write down which images are trained on, a line each: few-shot runs are told apart by them."""
    with written_aside(work / IMAGES_FILE) as aside:
        lines = [f"{found.name}\t{image.path.name}" for found in sets for image in found.images]
        aside.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _recipe_in(note: Path) -> Recipe:
    """The recipe that began a run. Settings that came up since are as they were then: at their defaults."""
    try:
        return Recipe.model_validate_json(note.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(
            "The run's note of its recipe is damaged.",
            where=str(note),
            got=str(error),
            fix="delete the run's folder to start anew",
        ) from error


def family_from_run(checkpoint: Path, work: Path) -> tuple[Family, int]:
    """The averaged weights of a run's last save, to measure a run that has not ended.

    Args:
        checkpoint: What the run started from.
        work: The run's folder.

    Returns:
        The family, and the step of the save.

    Raises:
        InputError: Nothing is saved there yet.
    """
    saves = sorted(int(path.parent.name.rpartition("-")[2]) for path in work.glob(f"checkpoint-*/{EMA_FILE}"))
    if not saves:
        raise InputError("The run has saved nothing yet.", where=str(work), fix="wait for its first save, or start it")
    family = family_from_checkpoint(checkpoint)
    recipe = _recipe_in(work / RECIPE_FILE)
    if recipe.image_size:
        family.resize_images(recipe.image_size)
    choose_weights(family, recipe)
    averaged = AveragedModel(family.model, use_buffers=False)
    load_model(averaged, work / f"checkpoint-{saves[-1]}" / EMA_FILE)
    family.model.load_state_dict(averaged.module.state_dict())
    merge_adapters(family.model)
    return family, saves[-1]
