"""The card of a trained checkpoint: what it was told, what it was trained on, how, and what it reaches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from medprompt.data import DetectionSet
from medprompt.export.finetune.recipe import Recipe
from medprompt.prompts.file import Prompts


def checkpoint_card(
    architecture: str,
    prompts: Prompts,
    recipe: Recipe,
    training: Sequence[DetectionSet],
    measured: Mapping[str, float],
) -> str:
    """Return a Markdown card.

    Args:
        architecture: transformers' class name.
        prompts: Classes and the phrases drawn in training.
        recipe: The run.
        training: The labelled sets trained on.
        measured: Figures on the validation sets, see ``evaluate_family``.
    """
    return "\n".join(
        [
            f"# {architecture}, made by `medprompt finetune`",
            "",
            "Research use only, not for diagnosis.",
            "",
            *_measured(measured),
            *_training(recipe, training),
            *_phrases(prompts),
            "## Recipe",
            "",
            "`recipe.yaml` and `prompts.yaml` in this folder are the whole of it.",
            "",
        ]
    )


def _measured(measured: Mapping[str, float]) -> list[str]:
    if not measured:
        return ["Not measured: the recipe names no validation set.", ""]
    rows = [f"| {name} | {value:.4f} |" for name, value in measured.items()]
    return [
        "## Measured on the validation sets",
        "",
        "COCO average precision, up to 300 detections an image, no threshold, no suppression of duplicates, each class",
        "by its first phrase, averaged weights of the last step (not chosen by these figures).",
        "",
        "| figure | value |",
        "|---|---|",
        *rows,
        "",
    ]


def _training(recipe: Recipe, training: Sequence[DetectionSet]) -> list[str]:
    rows = [
        f"- {entry.train}: {len(found.images)} images, {sum(len(image.class_ids) for image in found.images)} boxes"
        + (f"; says nothing about {', '.join(entry.unjudged)}" if entry.unjudged else "")
        + (f"; {', '.join(entry.hold_out)} held out" if entry.hold_out else "")
        for entry, found in zip(recipe.data, training, strict=True)
    ]
    run = (
        f"{recipe.steps} steps of {recipe.batch} images, seed {recipe.seed}, learning rate {recipe.learning_rate:g}, "
        f"averaged weights (decay {recipe.ema:g})."
    )
    return ["## Training", "", *rows, "", run, ""]


def _phrases(prompts: Prompts) -> list[str]:
    rows = [f"- **{entry.label}**: " + "; ".join(phrase.text for phrase in entry.phrases) for entry in prompts.classes]
    return ["## Phrases drawn in training", "", *rows, ""]
