"""The training run: transformers' ``Trainer`` around a family's core, with averaged weights and AP on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_model, save_model
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainingArguments

from medprompt.data import DetectionSet, read_detection_set
from medprompt.errors import DataError, InputError
from medprompt.export.checkpoint import family_from_checkpoint
from medprompt.export.families.base import Family
from medprompt.export.finetune.callbacks import EMA_FILE, LOG_FILE, AveragedWeights, Measure, Report, logged
from medprompt.export.finetune.card import checkpoint_card
from medprompt.export.finetune.evaluate import evaluate_family
from medprompt.export.finetune.looks import longest_look_phrase
from medprompt.export.finetune.losses import LossWeights
from medprompt.export.finetune.model import TrainableDetector
from medprompt.export.finetune.recipe import DataEntry, Recipe
from medprompt.export.finetune.samples import Augmentation, Collator, TrainingSamples
from medprompt.export.shots import few_shot
from medprompt.files import folder_written_aside, written_aside
from medprompt.prompts.file import Prompts

MODEL_FILE = "model.safetensors"
MOST_EMPHASIS = 6.0
"""No object counts more than this, however rare its class."""

IMAGES_FILE = "images.tsv"
"""In a run's folder: set and file of each image that is trained on."""


class DetectionTrainer(Trainer):
    """Samples in their own order (they are a function of their number), and a slower text side."""

    def __init__(self, *args: Any, recipe: Recipe, text_prefixes: tuple[str, ...], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.recipe = recipe
        self.text_prefixes = tuple(f"detector.{prefix}" for prefix in text_prefixes)

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(train_dataset if train_dataset is not None else self.train_dataset)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save as safetensors. The trainer's own way refuses tied weights (Grounding DINO's heads) here."""
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_model(self.model, str(folder / MODEL_FILE))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_model(self.model, Path(resume_from_checkpoint) / MODEL_FILE)

    def create_optimizer(self, model: Any = None) -> Any:
        """AdamW; no decay on norms, biases and embeddings, the text side at its own rate."""
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                key = (name.startswith(self.text_prefixes), parameter.ndim < 2 or "embedding" in name)
                groups.setdefault(key, []).append(parameter)
        text_rate = self.recipe.text_learning_rate
        self.optimizer = torch.optim.AdamW(
            [
                {
                    "params": parameters,
                    "lr": self.recipe.learning_rate if text_rate is None or not text else text_rate,
                    "weight_decay": 0.0 if exempt else self.recipe.weight_decay,
                }
                for (text, exempt), parameters in groups.items()
            ],
            lr=self.recipe.learning_rate,
            betas=(0.9, 0.99),
        )
        return self.optimizer


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
    """
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    family = family_from_checkpoint(checkpoint, random_weights=random_weights)
    if recipe.image_size:
        family.resize_images(recipe.image_size)
    family.check_phrases(prompts.texts)
    if recipe.look_phrases:
        family.check_phrases([longest_look_phrase(lambda text: family.phrase_length(text)[0])])
    labels = [entry.label for entry in prompts.classes]
    entries = [entry.below(data_root) for entry in recipe.data]
    sets = [_training_set(entry, labels, recipe) for entry in entries]
    validation = [read_detection_set(entry.val) for entry in entries if entry.val]
    judged = [_judged(entry, labels) for entry in recipe.data]
    work = work or out.with_name(out.name + ".run")

    weights = LossWeights(
        class_loss=recipe.class_loss,
        l1_loss=recipe.l1_loss,
        giou_loss=recipe.giou_loss,
        balance=_balance(sets, recipe, len(labels)),
    )
    model = TrainableDetector(family, weights, recipe)
    averaged = AveragedWeights(model, recipe.ema)
    measured: dict[str, Any] = {}

    def measure() -> dict[str, Any]:
        with _weights_of(averaged, family):
            measured.update(evaluate_family(family, measured_with or prompts, validation))
        return measured

    augmentation = Augmentation((recipe.scale_min, recipe.scale_max), recipe.flips, recipe.colour, recipe.shapes)
    repeats = [entry.repeat for entry in entries]
    samples = TrainingSamples(
        sets, judged, repeats, family.preprocess(), augmentation, recipe.steps * recipe.batch, recipe.seed
    )
    trainer = DetectionTrainer(
        model=model,
        args=training_arguments(recipe, work),
        data_collator=Collator(prompts, recipe.seed, recipe.look_phrases),
        train_dataset=samples,
        callbacks=[averaged, Measure(measure, recipe.evaluate_every, logged(report, work / LOG_FILE))],
        recipe=recipe,
        text_prefixes=family.text_prefixes,
    )
    _continue_same_run(recipe, work)
    _note_images(sets, work)
    trainer.train(resume_from_checkpoint=any(work.glob("checkpoint-*")) or None)
    with _weights_of(averaged, family):
        card = checkpoint_card(family.architecture, prompts, recipe, sets, measured)
        _save(family, prompts, recipe, measured, card, out)
    return FinetuneResult(out, measured)


def _training_set(entry: DataEntry, labels: Sequence[str], recipe: Recipe) -> DetectionSet:
    """The set without its held-out categories, indexed by the prompts' labels; of few shots where that is asked."""
    known = {label.casefold() for label in labels}
    told = [label for label in entry.hold_out if label.casefold() in known]
    if told:
        raise DataError(
            "A class is held out, and the prompts file has phrases for it.",
            where="hold_out",
            got=", ".join(told),
            fix="take its phrases out of the prompts file, or the class out of hold_out",
        )
    found = read_detection_set(entry.train).holding_out(entry.hold_out).relabelled(labels)
    return few_shot(found, recipe.shots, recipe.seed) if recipe.shots else found


def _balance(sets: Sequence[DetectionSet], recipe: Recipe, classes: int) -> tuple[float, ...]:
    """(mean / count)^class_balance of each class's objects in an epoch; nothing where that is 0. See ``Recipe``."""
    if not recipe.class_balance:
        return ()
    counts = np.zeros(classes)
    for found, entry in zip(sets, recipe.data, strict=True):
        counts += entry.repeat * sum(np.bincount(image.class_ids, minlength=classes) for image in found.images)
    factors = (counts.mean() / np.maximum(counts, 1)) ** recipe.class_balance
    return tuple(float(factor) for factor in factors.clip(1.0, MOST_EMPHASIS))


def _judged(entry: DataEntry, labels: Sequence[str]) -> NDArray[np.bool_]:
    unknown = [label for label in entry.unjudged if label not in labels]
    if unknown:
        raise DataError(
            "The recipe names classes that the prompts file does not have.",
            where="unjudged",
            expected=", ".join(labels),
            got=", ".join(unknown),
            fix="name classes of the prompts file under unjudged, or add these to it",
        )
    return np.array([label not in entry.unjudged for label in labels])


def _continue_same_run(recipe: Recipe, work: Path) -> None:
    """Refuse to go on with a run that another recipe began; its length and its end alone may change."""
    note = work / "recipe.json"
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


def _note_images(sets: Sequence[DetectionSet], work: Path) -> None:
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
    size = _recipe_in(work / "recipe.json").image_size
    if size:
        family.resize_images(size)
    averaged = AveragedModel(family.model, use_buffers=False)
    load_model(averaged, work / f"checkpoint-{saves[-1]}" / EMA_FILE)
    family.model.load_state_dict(averaged.module.state_dict())
    return family, saves[-1]


def training_arguments(recipe: Recipe, work: Path) -> TrainingArguments:
    """The trainer's settings for a recipe, with its saves in ``work``."""
    return TrainingArguments(
        output_dir=str(work),
        max_steps=recipe.steps,
        per_device_train_batch_size=recipe.batch,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="warmup_stable_decay",
        lr_scheduler_kwargs={
            "num_decay_steps": recipe.decay_steps,
            "decay_type": "cosine",
            "min_lr_ratio": 0.01,
        },
        warmup_steps=recipe.warmup_steps,
        max_grad_norm=recipe.max_grad_norm,
        save_steps=recipe.save_every,
        save_total_limit=2,
        logging_steps=50,
        seed=recipe.seed,
        bf16=recipe.precision == "bf16",
        use_cpu=not torch.cuda.is_available(),
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
    )


class _weights_of:
    """Lend the averaged weights to the family inside a ``with`` block, in evaluation mode."""

    def __init__(self, averaged: AveragedWeights, family: Family) -> None:
        self.averaged = averaged.averaged.module
        self.model = family.model

    def __enter__(self) -> None:
        self.own = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self.training = self.model.training
        self.model.load_state_dict(self.averaged.state_dict())
        self.model.eval()

    def __exit__(self, *exc: object) -> None:
        self.model.load_state_dict(self.own)
        self.model.train(self.training)


def _save(family: Family, prompts: Prompts, recipe: Recipe, measured: Mapping[str, Any], card: str, out: Path) -> None:
    import copy
    import json

    import yaml

    model = copy.deepcopy(family.model)
    if recipe.half:
        model = model.half()
    with folder_written_aside(out, force=True) as folder:
        model.save_pretrained(folder)
        family.processor.save_pretrained(folder)
        (folder / "README.md").write_text(card, encoding="utf-8")
        (folder / "measured.json").write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))
        (folder / "prompts.yaml").write_text(
            yaml.safe_dump(prompts.model_dump(mode="json", exclude_defaults=True), sort_keys=False)
        )
