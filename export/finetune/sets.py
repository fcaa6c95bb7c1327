"""The labelled sets of a run, read and checked before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medprompt.data import DetectionSet, read_detection_set
from medprompt.errors import DataError
from medprompt.export.finetune.recipe import DataEntry, Recipe
from medprompt.export.shots import few_shot


@dataclass(frozen=True)
class RunData:
    """What a run learns from and is measured on.

    Attributes:
        training: A set for each entry of the recipe, indexed by the prompts' labels.
        judged: bool ``[C]`` for each: the classes it can judge.
        validation: The val sets, in the recipe's order.
    """

    training: tuple[DetectionSet, ...]
    judged: tuple[NDArray[np.bool_], ...]
    validation: tuple[DetectionSet, ...]


def data_from_recipe(recipe: Recipe, labels: Sequence[str], root: Path) -> RunData:
    """Read the sets of a recipe.

    Args:
        recipe: ``data``, ``shots`` and ``seed``.
        labels: Of the prompts file.
        root: Folder that the recipe's paths start from.

    Raises:
        DataError: A set that cannot be used, a category without a class, or a held-out class with phrases.
    """
    entries = [entry.below(root) for entry in recipe.data]
    training = tuple(_training_set(entry, labels, recipe) for entry in entries)
    validation = tuple(read_detection_set(entry.val) for entry in entries if entry.val)
    return RunData(training, tuple(_judged(entry, labels) for entry in entries), validation)


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
