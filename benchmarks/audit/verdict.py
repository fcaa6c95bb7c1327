"""The rule: does a class's answer follow its words?

What is left of an answer under other words is the lesser of two shares: of AP50, and of the mean score at the labelled
boxes. A detector that reads loses its answer where something else is asked, by score even where one kind of object
alone is to be seen, and keeps it where the same is said otherwise. The borders are thirds: most of it, or little of it.

- ignores: asked for its other classes (where there is none: for things that are not there), on average two thirds or
  more are left.
- reads: asked for any other class, for things that are not there, or for nothing, a third or less is left; asked in
  synonyms, two thirds or more.
- partly: anything between. A model that knows its phrases by heart is here: it tells them apart, and loses its answer
  under synonyms.

A verdict stands where it is that of nine in ten draws of the images; else there is none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np

from medprompt.benchmarks.audit.answers import Answer, ClassAnswers
from medprompt.metrics.bootstrap import Estimate, Resampled
from medprompt.metrics.curves import Weights, every_image_once
from medprompt.metrics.matching import Floats
from medprompt.prompts.wording import FOREIGN, Kind, Question

LITTLE, MOST = 1 / 3, 2 / 3
LEAST_IMAGES = 10
"""Images with the class that a verdict takes: of fewer, draws of them hardly differ from one another."""

LEAST_AP = 0.05
"""AP50 of the class's own phrases, at the lower end of its interval: a class that is not found has nothing to lose."""

AGREEMENT = 0.9
"""Share of the draws whose verdict is the set's own."""


class Reading(StrEnum):
    """Whether a class's words matter."""

    reads = "reads"
    partly = "partly"
    ignores = "ignores"
    unclear = "no verdict"


@dataclass(frozen=True)
class ClassVerdict:
    """What came of a class.

    Attributes:
        why: In words.
        agreement: Share of the draws with this verdict; NaN where none was made.
        images, boxes: With the class, and of the class.
        own: ``ap50``, ``score`` and ``false_reports`` of its own phrases.
        changes: The same figures under each question, less those of its own phrases, and ``left``: the share of the
            answer that is left.
        left: Share of the answer that is left by kind of question.
    """

    label: str
    reading: Reading
    why: str
    agreement: float
    images: int
    boxes: int
    own: Mapping[str, Estimate]
    changes: Mapping[Question, Mapping[str, Estimate]]
    left: Mapping[Kind, Estimate] = field(default_factory=dict)


FIGURES = ("ap50", "score", "false_reports")


def judge(answers: ClassAnswers, draws: Sequence[Weights]) -> ClassVerdict:
    """Measure a class on its images as they are and on draws of them, and apply the rule."""
    own = _figures(answers.own, draws)
    other = {question: _figures(answer, draws) for question, answer in answers.other.items()}
    left = {question: _left(own, figures) for question, figures in other.items()}
    images = int((answers.own.boxes > 0).sum())
    estimates = own.estimates()
    reading, why, agreement = _ruled(left, images, estimates)
    changes = {q: {**figures.less(own), "left": _estimate(left[q])} for q, figures in other.items()}
    by_kind = {kind: _estimate(np.mean(rows, axis=0)) for kind, rows in _by_kind(left).items()}
    boxes = int(answers.own.boxes.sum())
    return ClassVerdict(answers.label, reading, why, agreement, images, boxes, estimates, changes, by_kind)


def _figures(answer: Answer, draws: Sequence[Weights]) -> Resampled:
    def measured(weights: Weights) -> list[float]:
        return [answer.ap50(weights), answer.score(weights), answer.false_reports(weights)]

    once = every_image_once(len(answer.boxes))
    return Resampled(
        FIGURES, np.array(measured(once)), np.array([measured(weights) for weights in draws]).reshape(-1, 3)
    )


def _left(own: Resampled, other: Resampled) -> Floats:
    """What is left of an answer, float64 ``[1 + R]``: of the set as it is, then of each draw; NaN where it had none."""
    before, after = (np.vstack([one.values, one.draws])[:, :2] for one in (own, other))
    shares = np.divide(after, before, out=np.full(before.shape, np.nan), where=before > 0)
    left: Floats = shares.min(axis=1).clip(0, 1)
    return left


def _estimate(values: Floats) -> Estimate:
    return Resampled(("left",), values[:1], values[1:, None]).estimates()["left"]


def _by_kind(left: Mapping[Question, Floats]) -> dict[Kind, list[Floats]]:
    kinds = dict.fromkeys(question.kind for question in left)
    return {kind: [rows for question, rows in left.items() if question.kind == kind] for kind in kinds}


def _ruled(left: Mapping[Question, Floats], images: int, own: Mapping[str, Estimate]) -> tuple[Reading, str, float]:
    """The verdict, why, and in how many of the draws it is the same."""
    if images < LEAST_IMAGES:
        return Reading.unclear, f"too few images: {images} have the class, {LEAST_IMAGES} are needed", np.nan
    if not (own["ap50"].low >= LEAST_AP and own["score"].low > 0):
        found = f"AP50 {own['ap50']}, of which {LEAST_AP:g} are needed; score {own['score']}"
        return Reading.unclear, f"its own phrases find too little: {found}", np.nan
    kinds = _by_kind(left)
    others = kinds.get("exchanged", [])
    foreign = [np.mean(kinds[kind], axis=0) for kind in FOREIGN if kind in kinds]
    if not others and not foreign:
        return Reading.unclear, "nothing else could be asked in its place", np.nan
    same = kinds.get("synonyms")
    verdicts = _verdicts(others, foreign, same)
    reading = verdicts[0]
    agreement = float(np.mean([one == reading for one in verdicts[1:]])) if len(verdicts) > 1 else np.nan
    if reading is Reading.unclear:
        return (
            reading,
            "it tells its words from others; synonyms, which tell whether it reads them, were not asked",
            agreement,
        )
    if agreement < AGREEMENT:
        counts = ", ".join(
            f"{one} in {verdicts[1:].count(one) / len(verdicts[1:]):.0%}" for one in sorted(set(verdicts))
        )
        return Reading.unclear, f"too close, or too few images: {counts} of the draws", agreement
    return reading, _reasons(left, others, foreign, same), agreement


def _verdicts(others: list[Floats], foreign: list[Floats], same: list[Floats] | None) -> list[Reading]:
    """One for the set as it is, then one for each draw."""
    asked = np.mean(others or foreign, axis=0)
    worst = np.max([*others, *([np.mean(foreign, axis=0)] if foreign else [])], axis=0)
    kept = np.mean(same, axis=0) if same else np.full(len(asked), np.nan)
    return [_verdict(*figures, bool(foreign)) for figures in zip(asked, worst, kept, strict=True)]


def _verdict(asked: float, worst: float, same: float, foreign: bool) -> Reading:
    """``asked``: left on average where other things are asked; ``worst``: at most; ``same``: under synonyms."""
    if asked >= MOST:
        return Reading.ignores
    if worst > LITTLE or same < MOST:
        return Reading.partly
    return Reading.reads if same >= MOST and foreign else Reading.unclear


def _reasons(
    left: Mapping[Question, Floats], others: list[Floats], foreign: list[Floats], same: list[Floats] | None
) -> str:
    said = []
    if others:
        said.append(f"{np.mean(others, axis=0)[0]:.0%} of its answer is left where another class is asked for")
        worst = max((q for q in left if q.kind == "exchanged"), key=lambda question: left[question][0])
        said.append(f"at most {left[worst][0]:.0%}, for {worst.name}")
    if foreign:
        said.append(f"{np.mean(foreign, axis=0)[0]:.0%} where nothing is there to be found")
    if same:
        said.append(f"{np.mean(same, axis=0)[0]:.0%} under synonyms")
    return ", ".join(said)


def overall(verdicts: Sequence[ClassVerdict]) -> Reading:
    """The bundle's: that of all its classes where they agree, else partly; none where no class has one."""
    given = {one.reading for one in verdicts} - {Reading.unclear}
    if not given:
        return Reading.unclear
    return given.pop() if len(given) == 1 else Reading.partly


def class_as_json(verdict: ClassVerdict) -> dict[str, Any]:
    """As JSON values."""
    return {
        "label": verdict.label,
        "verdict": str(verdict.reading),
        "why": verdict.why,
        "agreement": None if np.isnan(verdict.agreement) else verdict.agreement,
        "images": verdict.images,
        "boxes": verdict.boxes,
        "own": {name: estimate.as_json() for name, estimate in verdict.own.items()},
        "left": {kind: estimate.as_json() for kind, estimate in verdict.left.items()},
        "changes": [
            {
                "kind": question.kind,
                "name": question.name,
                "phrases": list(question.texts),
                **{name: estimate.as_json() for name, estimate in figures.items()},
            }
            for question, figures in verdict.changes.items()
        ],
    }
