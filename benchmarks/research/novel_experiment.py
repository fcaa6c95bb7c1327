"""The experiment on an untrained class: names, recipe and prompt variants, read from ``novel.yaml``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import yaml
from pydantic import AliasChoices, Field, ValidationError, model_validator

from medprompt.core.errors import DataError, InputError
from medprompt.core.models import FrozenModel
from medprompt.data import read_detection_set
from medprompt.export.finetune.recipe import DataEntry, Recipe
from medprompt.export.finetune.small_models.nanos import Kind
from medprompt.prompts.file import pack_prompts
from medprompt.prompts.schema import PromptClass, Prompts

EXPERIMENT = Path(__file__).with_name("novel.yaml")


class PromptVariant(FrozenModel):
    """A way to ask for the held-out class.

    Attributes:
        name: For the table.
        kind: Where it comes from; ``control`` for what should not work.
        phrases: The prompts; the best of them counts.
        pack: Instead: the phrases of a shipped pack.
    """

    name: str
    kind: Literal["name", "manual", "mlm", "vqa", "hybrid", "pack", "control"]
    phrases: tuple[str, ...] = ()
    pack: str | None = None

    @model_validator(mode="after")
    def _one_source(self) -> PromptVariant:
        if bool(self.phrases) == bool(self.pack):
            raise ValueError("give either phrases or a pack")
        return self

    def prompts(self, label: str) -> Prompts:
        """The variant as a prompts file of one class.

        Raises:
            PromptError: There is no such pack.
        """
        texts = self.phrases
        if self.pack:
            classes = pack_prompts(self.pack).classes
            texts = tuple(p.text for entry in classes if entry.label == label for p in entry.phrases)
        return Prompts(classes=(PromptClass.model_validate({"label": label, "phrases": list(texts)}),))


class Experiment(FrozenModel):
    """The content of ``novel.yaml``.

    Attributes:
        family: Which small model is trained, see ``medprompt.export.finetune.small_models.nanos``.
        names: What each class is called.
        recipe: How it is trained.
        variants: Prompts of each held-out class.
    """

    family: Kind = "omdet-turbo"
    names: dict[str, tuple[str, ...]] = Field(min_length=2)
    recipe: Recipe
    variants: dict[str, tuple[PromptVariant, ...]] = Field(validation_alias=AliasChoices("variants", "wordings"))

    def training_prompts(self, held_out: str) -> Prompts:
        """The names of all classes but one.

        Raises:
            InputError: The experiment has no prompts for the class.
        """
        if held_out not in self.variants or held_out not in self.names:
            raise InputError(
                "This class cannot be held out.",
                expected=", ".join(sorted(self.variants.keys() & self.names.keys())),
                got=held_out,
                fix="choose one of these, or add its names and variants to a copy of novel.yaml (--experiment)",
            )
        classes = [{"label": k, "phrases": list(v)} for k, v in self.names.items() if k != held_out]
        return Prompts.model_validate({"classes": classes})

    def recipe_without(self, held_out: str, data_root: Path, seed: int, steps: int | None = None) -> Recipe:
        """The recipe of a run: sets in which nothing else is labelled are left out whole.

        Raises:
            DataError: No set has the class, or none is left to train on.
        """
        labels = [read_detection_set(entry.below(data_root).train).labels for entry in self.recipe.data]
        data = [
            _without(entry, held_out, has)
            for entry, has in zip(self.recipe.data, labels, strict=True)
            if set(has) != {held_out}
        ]
        if not data or not any(held_out in has for has in labels):
            raise DataError(
                "The class cannot be held out of this data.",
                got=held_out,
                expected="one of several classes",
                fix="name another --hold-out",
            )
        length = steps or self.recipe.steps
        changes = {"data": tuple(data), "seed": seed, "steps": length}
        return self.recipe.model_copy(update={**changes, "decay_steps": min(self.recipe.decay_steps, length // 2)})


def _without(entry: DataEntry, label: str, labels: Sequence[str]) -> DataEntry:
    """The entry with the class held out where it is labelled, and no word of it where it is not."""
    hold_out = (label,) if label in labels else ()
    ignore_classes = tuple(other for other in entry.ignore_classes if other != label)
    return entry.model_copy(update={"hold_out": hold_out, "ignore_classes": ignore_classes})


def experiment_from_yaml(path: Path = EXPERIMENT) -> Experiment:
    """Read names, recipe and prompt variants.

    Raises:
        InputError: The file is missing, is not YAML, or breaks a rule.
    """
    try:
        return Experiment.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError) as error:
        raise InputError(
            "The experiment cannot be read.",
            where=str(path),
            got=str(error),
            fix="start from benchmarks/research/novel.yaml",
        ) from error
