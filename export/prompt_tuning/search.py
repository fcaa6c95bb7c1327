"""Prompt search: the prompts of best AP on one labelled set, reported on another, so that the optimism shows."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from medprompt.core.errors import DataError, PromptError
from medprompt.core.progress import Progress, Silent
from medprompt.data import DetectionSet, check_apart
from medprompt.export.embed import bank_from_prompts
from medprompt.export.evaluation.evaluator import PromptEvaluator
from medprompt.export.evaluation.features import FeatureSet
from medprompt.export.families.base import Family
from medprompt.export.prompt_tuning.score import scorer_for
from medprompt.generation.lexicon import Lexicon
from medprompt.generation.search import SearchResult, SearchRules, coordinate_ascent
from medprompt.metrics.coco import Accuracy
from medprompt.prompts.schema import Prompts


@dataclass(frozen=True)
class Compared:
    """The figures of the start and the found prompts on one set, and how many images it has."""

    name: str
    images: int
    start: Accuracy
    found: Accuracy

    @property
    def gain(self) -> float:
        """How much AP grew."""
        return self.found.ap - self.start.ap


@dataclass(frozen=True)
class SearchReport:
    """What a search found.

    Attributes:
        prompts: The found prompts; the start where nothing was better.
        ascent: Candidates, time and rounds.
        data, report: Figures on the set that was searched, and on the other set.
    """

    prompts: Prompts
    ascent: SearchResult
    data: Compared
    report: Compared

    @property
    def optimism(self) -> float:
        """AP gained on the searched set beyond that on the other set: what was fitted to the images, not the words."""
        return self.data.gain - self.report.gain

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values; a figure that there is nothing to measure for is null."""
        ascent = self.ascent
        return {
            "candidates": ascent.candidates,
            "seconds": round(ascent.seconds, 3),
            "candidates_per_minute": round(ascent.per_minute, 1),
            "rounds": ascent.rounds,
            "interrupted": ascent.interrupted,
            "without_attributes": list(ascent.fixed),
            "data": _rounded(asdict(self.data)),
            "report": _rounded(asdict(self.report)),
            "optimism": _rounded(self.optimism),
            "phrases": {entry.label: [phrase.text for phrase in entry.phrases] for entry in self.prompts.classes},
        }


def search_prompts(
    family: Family,
    prompts: Prompts,
    data: DetectionSet,
    report: DetectionSet,
    lexicon: Lexicon,
    rules: SearchRules,
    *,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> SearchReport:
    """Search prompts by AP on ``data``, and measure start and end on both sets.

    ``data`` must have boxes of every class, and ``report`` must share no image with it. ``cache`` is a folder for image
    features; None keeps them in memory only.

    Raises:
        DataError: A category without a class, a class without boxes, or an image that both sets have.
        PromptError: A phrase that the model would cut.
    """
    progress = progress or Silent()
    family.check_phrases(prompts.texts)
    labels = [entry.label for entry in prompts.classes]
    data, report = data.relabelled(labels), report.relabelled(labels)
    check_boxes(data)
    check_apart(data, report)
    features = FeatureSet(family, data, cache)
    features.prepare(progress)
    scorer = scorer_for(features, prompts)
    ascent = coordinate_ascent(prompts, scorer, lexicon, rules, usable=partial(fits, family), progress=progress)
    progress.step("start and found on both sets")
    on_data = _compared(features, prompts, ascent.prompts)
    found = prompts
    if ascent.prompts != prompts:  # what was measured on the old phrases no longer holds
        found = ascent.prompts.model_copy(update={"calibration": None})
    if not on_data.found.ap >= on_data.start.ap:  # rounding between the two ways to compute a tie
        found, on_data = prompts, Compared(on_data.name, on_data.images, on_data.start, on_data.start)
    return SearchReport(found, ascent, on_data, _compared(FeatureSet(family, report, cache), prompts, found))


def _compared(features: FeatureSet, start: Prompts, found: Prompts) -> Compared:
    """Measure as everything else is measured, whatever shortcut the search took."""
    evaluator = PromptEvaluator(features)
    first, second = (evaluator.accuracy(bank_from_prompts(features.family, prompts)) for prompts in (start, found))
    return Compared(features.labelled.name, len(features), first, second)


def fits(family: Family, text: str) -> bool:
    """Whether the model reads a phrase whole."""
    try:
        family.check_phrases([text])
    except PromptError:
        return False
    return True


def check_boxes(data: DetectionSet) -> None:
    """Refuse classes that the set has no box of: any phrase of theirs would score alike.

    Raises:
        DataError: Naming these classes.
    """
    present = {int(class_id) for image in data.images for class_id in image.class_ids}
    absent = [label for index, label in enumerate(data.labels) if index not in present]
    if absent:
        raise DataError(
            "The prompts have classes that the data set has no box of, so their phrases cannot be evaluated.",
            where=data.name,
            expected=f"boxes of each of: {', '.join(data.labels)}",
            got=f"none of: {', '.join(absent)}",
            fix="take these classes out of the prompts file, or use a set that has them",
        )


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 6)
    return value
