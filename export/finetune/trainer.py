"""The training run: a family's core in the step loop, with averaged weights and AP on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback

from medprompt.core.progress import Progress, Silent
from medprompt.export.checkpoint import family_from_checkpoint
from medprompt.export.checkpoint_files import about_checkpoint, licence_files
from medprompt.export.embed import phrase_warnings
from medprompt.export.evaluation.evaluator import evaluate_family
from medprompt.export.evaluation.losses import LossWeights
from medprompt.export.families.base import Core, Family
from medprompt.export.finetune.attribute_phrases import longest_attribute_phrase
from medprompt.export.finetune.best import BestWeights
from medprompt.export.finetune.callbacks import AveragedWeights, Measure
from medprompt.export.finetune.card import Chosen, checkpoint_card
from medprompt.export.finetune.log import CURVE_FILE, LOG_FILE, Report, RunLog
from medprompt.export.finetune.loop import DetectionTrainer, training_arguments
from medprompt.export.finetune.model import TrainableDetector
from medprompt.export.finetune.modes import choose_weights
from medprompt.export.finetune.recipe import Recipe
from medprompt.export.finetune.run import bind_run, last_save, reserved_run
from medprompt.export.finetune.samples import Augmentation, Collator, TrainingSamples
from medprompt.export.finetune.save import save_checkpoint, weights_of
from medprompt.export.finetune.sets import RunData, Skipped, about_run, check_outlines, class_emphasis, data_from_recipe
from medprompt.export.weights import channel_warnings
from medprompt.prompts.schema import Prompts

LOSS_PARTS = ("class_loss", "l1_loss", "giou_loss")
SET_PREDICTION = (*LOSS_PARTS, "one_to_many_weight", "one_to_many_steps")
"""What a recipe says of the loss of set prediction."""


@dataclass(frozen=True)
class FinetuneResult:
    """Outcome of a run: its checkpoint, and the figures of that on the validation sets.

    ``chosen`` says how the weights were chosen by these figures; None where they are the last step's.
    """

    checkpoint: Path
    measured: dict[str, Any]
    chosen: Chosen | None = None
    skipped: tuple[Skipped, ...] = ()


def finetune(
    checkpoint: Path,
    prompts: Prompts,
    recipe: Recipe,
    out: Path,
    *,
    data_root: Path = Path(),
    random_weights: bool = False,
    work: Path | None = None,
    measured_with: Prompts | None = None,
    report: Report = lambda row: None,
    strict: bool = False,
    force: bool = False,
    allow: Sequence[str] = (),
    warn: Callable[[str], None] = lambda text: None,
    tell: Callable[[str], None] = lambda text: None,
    progress: Progress | None = None,
) -> FinetuneResult:
    """Train a family on labelled data; a run that was killed goes on from its last save.

    Args:
        checkpoint: Hugging Face folder to start from.
        prompts: Classes and the phrases that may be drawn for them.
        recipe: Everything that decides the run.
        out: Folder for the trained checkpoint (model, processor, recipe), written whole or not at all.
        data_root: Folder that the recipe's data paths start from.
        random_weights: Start from the folder's config alone.
        work: Folder for the run's saves; ``OUT.run`` by default.
        measured_with: Phrases that average precision is measured with; by default the first of each trained class.
        report: Called with every log row: ``step``, ``steps``, and ``loss`` or the measured AP.
        strict: Refuse data with an image that cannot be read, instead of leaving the image out.
        force: Replace a checkpoint that medprompt wrote; where its run goes on that needs no leave.
        allow: Findings of labels that shall not end this, see ``medprompt.data.read_detection_set``.
        warn: Notified, before training begins, of images that are left out, of faults of labels, of words that the
            tokenizer does not know, and of what else should be known.
        tell: Notified of what is trained and measured on.
        progress: Told about each step.

    Raises:
        InputError: ``out`` would replace something, or another process is at it; see ``reserve_outputs``.
        DataError: See ``data_from_recipe`` and ``bind_run``.
        PromptError: A phrase, or one that ``attribute_phrases`` may compose, is longer than the text encoder reads.
        CheckpointError: See ``family_from_checkpoint``.
        EngineError: The recipe's mode is ``lora`` and peft is not installed.
    """
    work, progress = work or out.with_name(out.name + ".run"), progress or Silent()
    with reserved_run(checkpoint, recipe, out, work, data_root, force):
        if recipe.threads:
            torch.set_num_threads(recipe.threads)
        torch.manual_seed(recipe.seed)
        progress.step("load checkpoint")
        family = _family(checkpoint, prompts, recipe, random_weights)
        labels = [entry.label for entry in prompts.classes]
        data = data_from_recipe(recipe, labels, data_root, strict=strict, allow=allow, progress=progress)
        masks = family.mask_hw if not recipe.boxes_only else None
        _say_what_is_learned_from(data, masks is not None, warn, tell)
        for text in (*phrase_warnings(family, prompts.texts), *_unread(family, recipe)):
            warn(text)
        run = recipe.in_steps(_pictures(data, recipe))
        if not bind_run(run, checkpoint, prompts, data, work, masks=masks is not None):
            warn("the run in this folder did not note its checkpoint, prompts and labels: they are taken to be these")
        if run.decay_steps > run.steps / 2:
            warn(f"the learning rate falls over the last {run.decay_steps} of {run.steps} steps (decay_steps)")

        model = _model(family, run, data)
        for name in model.revive_channels():
            warn(f"channels of {name} were constant, by a variance that overflowed: they are measured anew")
        for text in channel_warnings(family.model):
            warn(text)
        averaged = AveragedWeights(model, run.ema)
        measured: dict[str, Any] = {}

        def measure() -> dict[str, Any]:
            with weights_of(averaged, family):
                measured.update(evaluate_family(family, measured_with or prompts, data.validation))
            return measured

        save = last_save(work)
        best = BestWeights(work, run.patience, save) if run.patience else None
        log = RunLog(report, work / LOG_FILE, work / CURVE_FILE)
        trainer = DetectionTrainer(
            model=averaged.source,
            args=training_arguments(run, work),
            data_collator=Collator(prompts, run.seed, run.attribute_phrases, run.drop_classes),
            train_dataset=_samples(data, family, run, masks),
            callbacks=[averaged, Measure(measure, run.evaluate_every, log, averaged, progress, best, run.stop_after)],
            recipe=run,
            text_prefixes=family.text_prefixes,
        )
        trainer.remove_callback(PrinterCallback)  # it prints each row again, with epochs that are none
        stopped = run.stop_after is not None and save >= run.stop_after
        if not stopped and (best is None or not best.exhausted):
            trainer.train(resume_from_checkpoint=str(work / f"checkpoint-{save}") if save else None)
        elif stopped:
            averaged.load(work, save)
        chosen = _chosen(best, averaged, measured)
        if not measured and data.validation:  # a run that had ended before
            progress.step("measure")
            measure()
        progress.step("save checkpoint")
        with weights_of(averaged, family):
            card = checkpoint_card(family.architecture, prompts, recipe, data, measured, chosen)
            about = about_run(about_checkpoint(checkpoint), recipe, data, measured)
            save_checkpoint(family, prompts, recipe, measured, card, about, out, licence_files(checkpoint))
    return FinetuneResult(out, measured, chosen, data.skipped)


def _say_what_is_learned_from(
    data: RunData, masks: bool, warn: Callable[[str], None], tell: Callable[[str], None]
) -> None:
    """The sets, and what is wrong with their labels, files and, where masks are trained, outlines."""
    for line in (line for found in (*data.training, *data.validation) for line in found.warnings):
        warn(line)
    for entry in data.skipped:
        warn(f"left out of {entry.found}: {entry.path.name}: {entry.reason}")
    for line in data.described():
        tell(line)
    for line in check_outlines(data) if masks else ():
        warn(line)


def _unread(family: Family, recipe: Recipe) -> Iterator[str]:
    """A warning where the recipe sets what the family does not read, or leaves its masks untrained."""
    if recipe.boxes_only:
        masks = "its masks are not trained, and change with what is trained beneath them"
        yield f"boxes_only: {masks if family.mask_hw else f'{family.architecture} makes no masks: it does nothing'}"
    changed = [name for name in SET_PREDICTION if getattr(recipe, name) != Recipe.model_fields[name].default]
    if changed and family.core_class.own_loss is not Core.own_loss:
        yield f"{family.architecture} has a loss of its own, which does not read {', '.join(changed)}: they do nothing"


def _chosen(best: BestWeights | None, averaged: AveragedWeights, measured: dict[str, Any]) -> Chosen | None:
    """Put the best weights in the average's place, and their figures in place of the last."""
    if best is None:
        return None
    best.load_into(averaged.averaged)
    measured.clear()
    measured.update(best.measured)
    return Chosen(best.step, len(best.history), max(best.history))


def _model(family: Family, recipe: Recipe, data: RunData) -> TrainableDetector:
    parts = {name: getattr(recipe, name) for name in LOSS_PARTS}
    weights = LossWeights(**parts, balance=class_emphasis(data, recipe))
    return TrainableDetector(family, weights, recipe)


def _family(checkpoint: Path, prompts: Prompts, recipe: Recipe, random_weights: bool) -> Family:
    """The model to train, its phrases checked, and all that the recipe's mode does not train frozen."""
    family = family_from_checkpoint(checkpoint, random_weights=random_weights)
    if recipe.image_size:
        family.resize_images(recipe.image_size)
    family.check_phrases(prompts.texts)
    if recipe.attribute_phrases:
        family.check_phrases([longest_attribute_phrase(lambda text: family.phrase_length(text)[0])])
    choose_weights(family, recipe)
    return family


def _pictures(data: RunData, recipe: Recipe) -> int:
    """Pictures of an epoch."""
    return sum(len(found.images) * entry.repeat for found, entry in zip(data.training, recipe.data, strict=True))


def _samples(data: RunData, family: Family, recipe: Recipe, mask_hw: tuple[int, int] | None) -> TrainingSamples:
    repeats = [entry.repeat for entry in recipe.data]
    varied = Augmentation((recipe.scale_min, recipe.scale_max), recipe.flips, recipe.colour, recipe.shapes)
    count = recipe.steps * recipe.batch
    seed, size = recipe.seed, family.preprocess()
    return TrainingSamples(data.training, data.annotated, repeats, size, varied, count, seed, mask_hw)
