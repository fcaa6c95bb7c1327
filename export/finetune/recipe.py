"""A training recipe: every knob of a run in one validated record, kept beside the checkpoint it made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, model_validator

from medprompt.core.errors import DataError
from medprompt.core.models import FrozenModel, validate
from medprompt.core.yaml import load_yaml
from medprompt.export.finetune.presets import LENGTHS, PresetName, with_preset

RENAMED = {
    "unjudged": "ignore_classes",
    "helper_share": "one_to_many_weight",
    "helper_steps": "one_to_many_steps",
    "look_phrases": "attribute_phrases",
}
"""Keys of recipes that 0.1 wrote, and what they are called now. Files say either, of each key one."""


def _renamed(given: Any) -> Any:
    if not isinstance(given, Mapping):
        return given
    return {key if RENAMED.get(key) in given else RENAMED.get(key, key): value for key, value in given.items()}


class DataEntry(FrozenModel):
    """One labelled set of a run.

    Attributes:
        train, val: See ``medprompt.data.read_detection_set``; ``val`` is measured, never trained on.
        images: Folder of the images of both, where they are not where their format has them.
        ignore_classes: Labels this set says nothing about. Every other class of the prompts file that the set has no
            category for counts as absent from its images.
        repeat: How often each training image is drawn in an epoch, to balance sets.
        hold_out: Categories of the set that are not trained: their boxes are no labels, and what the model answers
            where they lie counts neither for nor against it, since an unlabelled object would teach that no phrase
            fits it.
        licence, source: Its terms, and where it is from; they go with the checkpoint into its bundles.
    """

    train: str
    val: str | None = None
    images: str | None = None
    ignore_classes: tuple[str, ...] = ()
    repeat: int = Field(default=1, gt=0)
    hold_out: tuple[str, ...] = ()
    licence: str = ""
    source: str = ""

    _names = model_validator(mode="before")(_renamed)

    def below(self, root: Path) -> DataEntry:
        """The same entry with its paths below ``root``."""
        val = None if self.val is None else str(root / self.val)
        images = None if self.images is None else str(root / self.images)
        return self.model_copy(update={"train": str(root / self.train), "val": val, "images": images})


class Recipe(FrozenModel):
    """Everything that decides a run.

    Attributes:
        data: The labelled sets.
        preset: Defaults that what is said here stands above; see ``presets``.
        image_size: Side of the square images to train at, where it is not the checkpoint's own.
        mode: What is trained. ``full``: everything. ``head``: decoder and heads. ``prompt``: the text side, so that
            phrases come to mean other things and the image side stays as it is. ``lora``: adapters of low rank on the
            projections of every attention, merged into the weights that are saved; see ``modes``.
        lora_rank, lora_alpha: Rank of an adapter, and the factor (over the rank) that it counts with.
        steps, epochs: Length of the run, one or the other: steps, or times that every image is seen (``repeat``
            counts). With epochs, the warm-up takes a tenth of the run at most and the fall half of it.
        stop_after: End the run at this step as if it were killed there, and save what there is: for a stage whose rate
            need not fall to its end. The whole run where None.
        batch: Pictures a step.
        learning_rate, text_learning_rate, weight_decay, max_grad_norm: AdamW.
        warmup_steps, decay_steps: The rate rises linearly, stays, and falls (cosine) over the last steps. Until the
            fall begins a run does not depend on ``steps``, so a resumed run may be shortened or lengthened.
        ema: Decay of the averaged weights, which are what is measured and saved.
        one_to_many_weight, one_to_many_steps: Share of a positive that an object's additional queries count for in the
            classification, falling linearly to 0 at this step: many boxes an object at first, one at the end.
        class_loss, l1_loss, giou_loss: Weights of the parts of the loss; see ``LossWeights``. Small objects want more
            weight on ``giou_loss``: their L1 distance, in shares of the image, is small however wrong they are.
        scale_min, scale_max, flips, colour: Augmentation. The zoom range is what stands for multi-scale training: the
            model's image size is fixed in a run.
        attribute_phrases: Phrases a step that are composed of what labelled objects look like, see that module.
        drop_classes: Probability that a step leaves a class out: its phrase is not asked, its objects are background.
            A detector that always sees all classes asked at once may lose some when asked for fewer.
        shapes: Maximum of shapes drawn into a picture as objects of no class; of use with ``attribute_phrases``.
        patience: Stop after so many measurements without a better mean AP on the val sets, and save the best averaged
            weights instead of the last. None: to the end.
        evaluate_every, save_every: Steps.
        class_balance: How much more objects of rare classes count in the classification, 0 … 1: (mean number of a
            class's objects / number of this one's) to this power, at least 1 and at most ``sets.MAX_EMPHASIS``.
        boxes_only: Of a model that makes masks: train boxes alone, from labels without outlines. Its masks are not
            trained, and change with what is trained beneath them.
        shots: Few-shot training: of each set, images in an order of the seed, kept while a class in them has been seen
            on fewer than this many; see ``medprompt.export.shots.few_shot``. All where None.
        precision: ``bf16``: matrix products in bfloat16 (autocast), weights and loss in float32.
        seed: Decides pictures, phrases and initial weights.
        threads: Threads of PyTorch.
        half: Save the checkpoint in float16.
    """

    data: tuple[DataEntry, ...] = Field(min_length=1)
    preset: PresetName | None = None
    image_size: int | None = Field(default=None, gt=0)
    mode: Literal["full", "head", "prompt", "lora"] = "full"
    lora_rank: int = Field(default=8, gt=0)
    lora_alpha: float = Field(default=16.0, gt=0)
    steps: int = Field(default=2000, gt=0)
    epochs: int | None = Field(default=None, gt=0)
    stop_after: int | None = Field(default=None, gt=0)
    batch: int = Field(default=8, gt=0)
    learning_rate: float = Field(default=1e-4, gt=0)
    text_learning_rate: float | None = Field(default=None, ge=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    warmup_steps: int = Field(default=100, ge=0)
    decay_steps: int = Field(default=500, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    ema: float = Field(default=0.998, ge=0, lt=1)
    one_to_many_weight: float = Field(default=0.0, ge=0, le=1)
    one_to_many_steps: int = Field(default=1000, gt=0)
    class_loss: float = Field(default=4.0, gt=0)
    l1_loss: float = Field(default=2.5, ge=0)
    giou_loss: float = Field(default=1.0, ge=0)
    class_balance: float = Field(default=0.0, ge=0, le=1)
    scale_min: float = Field(default=0.8, gt=0)
    scale_max: float = Field(default=1.25, gt=0)
    flips: bool = True
    colour: float = Field(default=0.15, ge=0, lt=1)
    attribute_phrases: int = Field(default=0, ge=0)
    drop_classes: float = Field(default=0.0, ge=0, lt=1)
    shapes: int = Field(default=0, ge=0)
    patience: int | None = Field(default=None, gt=0)
    evaluate_every: int = Field(default=500, gt=0)
    save_every: int = Field(default=250, gt=0)
    boxes_only: bool = False
    shots: int | None = Field(default=None, gt=0)
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = Field(default=0, ge=0)
    threads: int | None = Field(default=None, gt=0)
    half: bool = False

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, given: Any) -> Any:
        """Lay the preset under what is given, and refuse two lengths."""
        if not isinstance(given, dict):
            return given
        filled = with_preset(_renamed(given))
        if all(filled.get(name) is not None for name in LENGTHS):
            raise ValueError("steps and epochs both say how long the run is; give one of them")
        return filled

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        if self.scale_min > self.scale_max:
            raise ValueError(f"scale_min {self.scale_min:g} is above scale_max {self.scale_max:g}")
        if self.patience and not any(entry.val for entry in self.data):
            raise ValueError("patience needs a val set to measure on; name one, or set patience: null")
        return self

    def in_steps(self, images: int) -> Recipe:
        """The same recipe with its length in steps, by the pictures of an epoch."""
        if self.epochs is None:
            return self
        steps = math.ceil(self.epochs * images / self.batch)
        changes = {
            "steps": steps,
            "epochs": None,
            "warmup_steps": min(self.warmup_steps, steps // 10),
            "decay_steps": min(self.decay_steps, steps // 2),
        }
        return self.model_copy(update=changes)

    def as_yaml(self) -> str:
        """The recipe as a file that reads back equal."""
        fields = self.model_dump(mode="json", exclude={"epochs" if self.epochs is None else "steps"})
        return yaml.safe_dump(fields, sort_keys=False)


def recipe_from_yaml(path: Path, changes: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe; ``changes`` stand above the file's own settings, as a command line gives them.

    Raises:
        DataError: The file is missing, is not YAML, or breaks a rule.
    """
    fix = "see `medprompt docs recipe`"
    given = load_yaml(path, DataError("The recipe cannot be read.", fix=fix))
    raw = {**_renamed(given), **_renamed(changes or {})} if isinstance(given, dict) else given
    return validate(Recipe, raw, DataError("The recipe is not valid.", where=str(path), fix=fix))
