"""The training run: a family's core in the step loop, with averaged weights and AP on the way."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from medprompt.export.checkpoint import family_from_checkpoint
from medprompt.export.families.base import Family
from medprompt.export.finetune.callbacks import LOG_FILE, AveragedWeights, Measure, Report, logged
from medprompt.export.finetune.card import checkpoint_card
from medprompt.export.finetune.evaluate import evaluate_family
from medprompt.export.finetune.looks import longest_look_phrase
from medprompt.export.finetune.loop import DetectionTrainer, training_arguments
from medprompt.export.finetune.losses import LossWeights
from medprompt.export.finetune.model import TrainableDetector
from medprompt.export.finetune.modes import choose_weights
from medprompt.export.finetune.recipe import Recipe
from medprompt.export.finetune.run import continue_same_run, note_images
from medprompt.export.finetune.samples import Augmentation, Collator, TrainingSamples
from medprompt.export.finetune.save import save_checkpoint, weights_of
from medprompt.export.finetune.sets import RunData, data_from_recipe
from medprompt.prompts.file import Prompts


@dataclass(frozen=True)
class FinetuneResult:
    """Where the checkpoint lies, and the last measurement."""

    checkpoint: Path
    measured: dict[str, Any]


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

    Raises:
        DataError: A data set that cannot be used, a category without a class, or a held-out class with phrases.
        PromptError: A phrase, or one that ``look_phrases`` may compose, is longer than the text encoder reads.
        CheckpointError: See ``family_from_checkpoint``.
        EngineError: The recipe's mode is ``lora`` and peft is not installed.
    """
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    family = _family(checkpoint, prompts, recipe, random_weights)
    data = data_from_recipe(recipe, [entry.label for entry in prompts.classes], data_root)
    work = work or out.with_name(out.name + ".run")

    weights = LossWeights(class_loss=recipe.class_loss, l1_loss=recipe.l1_loss, giou_loss=recipe.giou_loss)
    model = TrainableDetector(family, weights, recipe)
    averaged = AveragedWeights(model, recipe.ema)
    measured: dict[str, Any] = {}

    def measure() -> dict[str, Any]:
        with weights_of(averaged, family):
            measured.update(evaluate_family(family, measured_with or prompts, data.validation))
        return measured

    trainer = DetectionTrainer(
        model=model,
        args=training_arguments(recipe, work),
        data_collator=Collator(prompts, recipe.seed, recipe.look_phrases),
        train_dataset=_samples(data, family, recipe),
        callbacks=[averaged, Measure(measure, recipe.evaluate_every, logged(report, work / LOG_FILE))],
        recipe=recipe,
        text_prefixes=family.text_prefixes,
    )
    continue_same_run(recipe, work)
    note_images(data.training, work)
    trainer.train(resume_from_checkpoint=any(work.glob("checkpoint-*")) or None)
    with weights_of(averaged, family):
        card = checkpoint_card(family.architecture, prompts, recipe, data.training, measured)
        save_checkpoint(family, prompts, recipe, measured, card, out)
    return FinetuneResult(out, measured)


def _family(checkpoint: Path, prompts: Prompts, recipe: Recipe, random_weights: bool) -> Family:
    """The model to train, its phrases checked, and all that the recipe's mode does not train frozen."""
    family = family_from_checkpoint(checkpoint, random_weights=random_weights)
    if recipe.image_size:
        family.resize_images(recipe.image_size)
    family.check_phrases(prompts.texts)
    if recipe.look_phrases:
        family.check_phrases([longest_look_phrase(lambda text: family.phrase_length(text)[0])])
    choose_weights(family, recipe)
    return family


def _samples(data: RunData, family: Family, recipe: Recipe) -> TrainingSamples:
    return TrainingSamples(
        data.training,
        data.judged,
        [entry.repeat for entry in recipe.data],
        family.preprocess(),
        Augmentation((recipe.scale_min, recipe.scale_max), recipe.flips, recipe.colour, recipe.shapes),
        recipe.steps * recipe.batch,
        recipe.seed,
    )
