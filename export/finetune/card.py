"""The card of a trained checkpoint: its prompts, what it was trained on, how, and what it reaches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medprompt.core.markdown import markdown_table
from medprompt.data import DetectionSet
from medprompt.export.finetune.modes import DESCRIPTIONS
from medprompt.export.finetune.recipe import Recipe
from medprompt.export.finetune.sets import RunData, data_sha256
from medprompt.prompts.schema import Prompts


@dataclass(frozen=True)
class Chosen:
    """Weights of a step that were chosen by their figures, out of so many measurements, the last at step ``last``."""

    step: int
    measurements: int
    last: int


def checkpoint_card(
    architecture: str,
    prompts: Prompts,
    recipe: Recipe,
    data: RunData,
    measured: Mapping[str, float],
    chosen: Chosen | None,
) -> str:
    """Return a Markdown card; ``measured``: see ``evaluate_family``, ``chosen``: None for the last step's weights."""
    return "\n".join(
        [
            f"# {architecture}, made by `medprompt finetune`",
            "",
            "Research use only, not for diagnosis.",
            "",
            *_measured(measured, recipe, data, chosen),
            *_training(recipe, data, chosen),
            *_phrases(prompts),
            "## Recipe",
            "",
            "`recipe.yaml` and `prompts.yaml` in this folder are the whole of it.",
            "",
        ]
    )


def _measured(measured: Mapping[str, float], recipe: Recipe, data: RunData, chosen: Chosen | None) -> list[str]:
    if not measured:
        return ["Not measured: the recipe names no validation set.", ""]
    return [
        "## Measured on the validation sets",
        "",
        "COCO average precision, up to 300 detections an image, no threshold, no suppression of duplicates, each class",
        *_weights(chosen),
        "",
        *markdown_table(("figure", "value"), [(name, f"{value:.4f}") for name, value in measured.items()]),
        "",
        *_set_lines(data.validation, [str(entry.val) for entry in recipe.data if entry.val], data),
        "",
    ]


def _weights(chosen: Chosen | None) -> list[str]:
    if chosen is None:
        return ["by its first phrase, averaged weights of the last step (not chosen by these figures)."]
    return [
        f"by its first phrase, averaged weights of step {chosen.step}, chosen by these figures: the best mean AP of",
        f"{chosen.measurements} measurements up to step {chosen.last}. So they flatter; measure on other images.",
    ]


def _training(recipe: Recipe, data: RunData, chosen: Chosen | None) -> list[str]:
    remarks = [
        (f"; says nothing about {', '.join(entry.ignore_classes)}" if entry.ignore_classes else "")
        + (f"; {', '.join(entry.hold_out)} held out" if entry.hold_out else "")
        for entry in recipe.data
    ]
    sets = _set_lines(data.training, [entry.train for entry in recipe.data], data, remarks)
    length = f"{recipe.steps} steps" if recipe.epochs is None else f"{recipe.epochs} epochs"
    run = (
        f"{'At most ' if chosen else ''}{length} of {recipe.batch} images, seed {recipe.seed}, learning rate "
        f"{recipe.learning_rate:g}, averaged weights (decay {recipe.ema:g})."
    )
    mode = f"Mode `{recipe.mode}`: {DESCRIPTIONS[recipe.mode]}."
    shots = f" Few-shot: {recipe.shots} images of each class." if recipe.shots else ""
    return ["## Training", "", *sets, "", run, "", mode + shots, ""]


def _set_lines(
    sets: Sequence[DetectionSet], names: Sequence[str], data: RunData, remarks: Sequence[str] | None = None
) -> list[str]:
    """Two lines a set: its size with a remark, and its SHA-256."""
    lines = []
    for found, name, remark in zip(sets, names, remarks or [""] * len(sets), strict=True):
        boxes = sum(len(image.class_ids) for image in found.images)
        left_out = sum(entry.found == found.name for entry in data.skipped)
        skipped = f"; {left_out} unreadable left out" if left_out else ""
        lines.append(f"- {name}: {len(found.images)} images, {boxes} boxes{remark}{skipped};")
        lines.append(f"  data sha256 `{data_sha256(found)}`")
    return lines


def _phrases(prompts: Prompts) -> list[str]:
    rows = [f"- **{entry.label}**: " + "; ".join(phrase.text for phrase in entry.phrases) for entry in prompts.classes]
    return ["## Phrases drawn in training", "", *rows, ""]
