"""AP of a family in PyTorch, through the canonical graph, before there is any bundle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medprompt.data import DetectionSet
from medprompt.export.embed import bank_from_prompts
from medprompt.export.evaluation.evaluator import PromptEvaluator
from medprompt.export.evaluation.features import FeatureSet
from medprompt.export.families.base import Family
from medprompt.prompts.schema import PromptClass, Prompts


def evaluate_family(family: Family, prompts: Prompts, sets: Sequence[DetectionSet]) -> dict[str, Any]:
    """Measure AP on labelled sets, each with the first phrase of its own classes.

    Returns:
        ``{"ap/NAME": …, "ap50/NAME": …, "ap50/NAME/LABEL": …}``, rounded to 4 digits.
    """
    row: dict[str, Any] = {}
    for labelled in sets:
        chosen = _first_phrases(prompts, labelled.labels)
        bank = bank_from_prompts(family, chosen)
        accuracy = PromptEvaluator(FeatureSet(family, labelled)).accuracy(bank)
        name = labelled.name.replace("\\", "/").rsplit("/", 2)[-1 if ":" in labelled.name else -2].split(":")[0]
        row |= {f"ap/{name}": round(accuracy.ap, 4), f"ap50/{name}": round(accuracy.ap50, 4)}
        row |= {f"ap50/{name}/{label}": round(value, 4) for label, value in accuracy.ap50_by_label.items()}
    return row


def _first_phrases(prompts: Prompts, labels: Sequence[str]) -> Prompts:
    wanted = {label.casefold() for label in labels}
    classes = tuple(
        PromptClass(label=entry.label, phrases=entry.phrases[:1])
        for entry in prompts.classes
        if entry.label.casefold() in wanted
    )
    return Prompts(classes=classes)
