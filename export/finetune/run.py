"""A run's folder: what began it, what it trains on, and the averaged weights of its last save."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from safetensors.torch import load_model
from torch.optim.swa_utils import AveragedModel

from medprompt.core.errors import DataError, InputError
from medprompt.core.files import write_text
from medprompt.core.output_kinds import Kind, folder_kind
from medprompt.core.outputs import Output, reserve_outputs
from medprompt.data.read import path_of_source
from medprompt.export.checkpoint import family_from_checkpoint
from medprompt.export.checkpoint_files import checkpoint_sha256
from medprompt.export.families.base import Family
from medprompt.export.finetune.best import damaged_note, read_history, stop_step
from medprompt.export.finetune.callbacks import EMA_FILE
from medprompt.export.finetune.modes import choose_weights, merge_adapters
from medprompt.export.finetune.recipe import Recipe
from medprompt.export.finetune.sets import RunData, data_sha256, outlines_sha256
from medprompt.prompts.schema import Prompts

RECIPE_FILE = "recipe.json"
START_FILE = "start.json"
"""In a run's folder: SHA-256 of the checkpoint, the phrases and the labelled images that it began with."""

IMAGES_FILE = "images.tsv"
"""In a run's folder: set and file of each image that is trained on."""

LENGTH = {"steps", "decay_steps"}
NOT_COMPARED = {*LENGTH, "stop_after", "preset", "epochs", "patience", "evaluate_every", "save_every", "threads"}
"""Settings that do not change what a step does. Some of them may change only where the end stays as it would be."""


def _foreign_to_runs(folder: Path) -> str:
    """A run deletes old saves in its folder, so it must have been begun by one."""
    return "" if (folder / RECIPE_FILE).is_file() or not any(folder.iterdir()) else str(folder)


@contextmanager
def reserved_run(
    checkpoint: Path, recipe: Recipe, out: Path, work: Path, data_root: Path, force: bool
) -> Iterator[None]:
    """Keep a run's checkpoint and folder for this process; see ``reserve_outputs``.

    A checkpoint that is there is replaced with ``force``, or where its run is there too and goes on.
    """
    goes_on = (work / RECIPE_FILE).is_file()
    outputs = {
        "out": Output(out, folder_kind("a checkpoint"), force=goes_on),
        "work": Output(work, Kind("the folder of a run", _foreign_to_runs, folder=True), force=True),
    }
    sources = [source for entry in recipe.data for source in (entry.train, entry.val) if source]
    data = [path_of_source(str(data_root / source)) for source in sources]
    with reserve_outputs(outputs, [checkpoint], data, force=force):
        yield


def last_save(work: Path) -> int:
    """Step of the last whole save of a run; 0 where there is none."""
    return max((int(path.parent.name.rpartition("-")[2]) for path in work.glob(f"checkpoint-*/{EMA_FILE}")), default=0)


def bind_run(
    recipe: Recipe, checkpoint: Path, prompts: Prompts, data: RunData, work: Path, *, masks: bool = False
) -> bool:
    """Refuse to go on with a run whose end would not be that of an undisturbed one; else note what it began with.

    From its first save on a run is bound to its checkpoint, phrases, labelled images and their order. Thresholds and
    weights of the prompts file are not trained with, so they may change.

    Args:
        recipe: In steps.
        checkpoint: The folder that the run starts from.
        prompts: What is trained with.
        data: The sets that are trained on and measured.
        work: The run's folder.
        masks: Whether the objects' outlines are trained with.

    Returns:
        Whether a save that is there is known to have begun so: a run of 0.1 noted recipe and image names only.

    Raises:
        DataError: Another recipe, checkpoint, prompts file or data; its length or its patience changed too late; or a
            note is damaged.
    """
    images = [f"{found.name}\t{image.path.name}" for found in data.training for image in found.images]
    begun = _begun(checkpoint, prompts, data)
    if masks:
        begun["outlines"] = ", ".join(map(outlines_sha256, data.training))
    check_recipe(recipe, work)
    saved = last_save(work) > 0
    known = (work / START_FILE).is_file()
    if saved and (work / IMAGES_FILE).is_file():
        _check_images((work / IMAGES_FILE).read_text(encoding="utf-8").splitlines(), images, work)
    if saved and known:
        _check_start(begun, work)
    write_text(work / RECIPE_FILE, recipe.model_dump_json(exclude={"preset"}))
    write_text(work / IMAGES_FILE, "\n".join(images) + "\n")
    write_text(work / START_FILE, json.dumps(begun, indent=2) + "\n")
    return known or not saved


def _begun(checkpoint: Path, prompts: Prompts, data: RunData) -> dict[str, str]:
    """SHA-256 of what decides a run beside its recipe."""
    phrases = [(entry.label, [phrase.text for phrase in entry.phrases]) for entry in prompts.classes]
    return {
        "checkpoint": checkpoint_sha256(checkpoint),
        "phrases": hashlib.sha256(json.dumps(phrases).encode()).hexdigest(),
        "training data": ", ".join(map(data_sha256, data.training)),
        "validation data": ", ".join(map(data_sha256, data.validation)),
    }


def _check_start(begun: Mapping[str, str], work: Path) -> None:
    note = work / START_FILE
    try:
        old = {str(what): str(digest) for what, digest in json.loads(note.read_text(encoding="utf-8")).items()}
    except (ValueError, AttributeError) as error:
        raise damaged_note("start", note, error) from error
    other = [what for what in begun if old.get(what) != begun[what]]
    if other:
        raise _other_run(
            f"The run in this folder began with another {' and other '.join(other)}.",
            work,
            expected="; ".join(f"{what} {old.get(what, '')[:12]}" for what in other) + " (SHA-256)",
            got="; ".join(f"{what} {begun[what][:12]}" for what in other),
        )


def check_recipe(recipe: Recipe, work: Path) -> None:
    """Refuse a recipe (in steps) with which the run in a folder, if any, would not end as an undisturbed one.

    Raises:
        DataError: Another one began the run, its length or patience changed too late, or its note is damaged.
    """
    note = work / RECIPE_FILE
    if not note.is_file():
        return
    old = _recipe_in(note)
    if old.model_dump_json(exclude=NOT_COMPARED) != recipe.model_dump_json(exclude=NOT_COMPARED):
        raise _other_run("Another recipe began the run in this folder.", work)
    if save := last_save(work):
        _check_length(old, recipe, work, save)
        _check_patience(old, recipe, work, save)


def _check_length(old: Recipe, new: Recipe, work: Path, save: int) -> None:
    """Refuse another length once the rate of the shorter run would have begun to fall.

    Notes that were written before lengths stood in them tell nothing: such a run goes on.
    """
    known = old.model_fields_set >= LENGTH
    if known and any(getattr(old, name) != getattr(new, name) for name in LENGTH):
        fall = min(recipe.steps - recipe.decay_steps for recipe in (old, new))
        if save > fall:
            raise _other_run(
                "The length of a run can change only until its learning rate falls.",
                work,
                expected=f"a last save at step {fall} at most, where the fall of the shorter run begins",
                got=f"step {save}; the run began with steps {old.steps}, decay_steps {old.decay_steps}",
            )


def _check_patience(old: Recipe, new: Recipe, work: Path, save: int) -> None:
    """Refuse patience where earlier measurements were not kept, were other ones, or would have stopped the run."""
    if new.patience is None:
        return
    if old.patience is None:
        raise _other_run(
            "Patience can be set only before the first save: the best weights so far were not kept.",
            work,
            got=f"a save at step {save} without patience",
        )
    if old.evaluate_every != new.evaluate_every:
        raise _other_run(
            "With patience, a run is measured as often as when it began.",
            work,
            expected=f"evaluate_every {old.evaluate_every}",
            got=f"evaluate_every {new.evaluate_every}",
        )
    history = {step: row for step, row in read_history(work).items() if step <= save}
    stop = stop_step(history, new.patience)
    if stop is not None and stop < max(history):
        raise _other_run(
            "With so little patience the run would have stopped already, and its weights of then are gone.",
            work,
            expected=f"patience above {new.patience}",
            got=f"a stop at step {stop}, and measurements up to step {max(history)}",
        )


def _other_run(problem: str, work: Path, *, expected: str = "", got: str = "") -> DataError:
    return DataError(
        problem,
        where=str(work),
        expected=expected,
        got=got,
        fix="go on as it began, choose another out=, or delete the folder to start anew",
    )


def _check_images(old: Sequence[str], new: Sequence[str], work: Path) -> None:
    """Refuse other files, or another order: each sample would be another picture. Folders may have moved."""
    before, now = ([line.rpartition("\t")[2] for line in lines] for lines in (old, new))
    if before != now:
        gone, come = sorted(set(before) - set(now)), sorted(set(now) - set(before))
        raise _other_run(
            "The images are not those that the run began with.",
            work,
            expected=f"{len(before)} images" + (f", {gone[0]} among them" if gone else " in the order of then"),
            got=f"{len(now)} images" + (f", {come[0]} among them" if come else ""),
        )


def _recipe_in(note: Path) -> Recipe:
    """The recipe that began a run. Settings that came up since are as they were then: at their defaults."""
    try:
        return Recipe.model_validate_json(note.read_text(encoding="utf-8"))
    except ValueError as error:
        raise damaged_note("recipe", note, error) from error


def family_from_run(checkpoint: Path, work: Path) -> tuple[Family, int]:
    """The averaged weights of a run's last save, and its step, to measure a run that has not ended.

    Raises:
        InputError: Nothing is saved there yet.
    """
    save = last_save(work)
    if not save:
        raise InputError("The run has saved nothing yet.", where=str(work), fix="wait for its first save, or start it")
    family = family_from_checkpoint(checkpoint)
    recipe = _recipe_in(work / RECIPE_FILE)
    if recipe.image_size:
        family.resize_images(recipe.image_size)
    choose_weights(family, recipe)
    averaged = AveragedModel(family.model, use_buffers=False)
    load_model(averaged, work / f"checkpoint-{save}" / EMA_FILE)
    family.model.load_state_dict(averaged.module.state_dict())
    merge_adapters(family.model)
    return family, save
