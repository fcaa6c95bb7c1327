"""The rule by itself: borders, too few images, draws that disagree, and what is left of an answer."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from medprompt.benchmarks.audit.answers import Answer, ClassAnswers
from medprompt.benchmarks.audit.verdict import ClassVerdict, judge, overall
from medprompt.metrics.bootstrap import draw_images
from medprompt.metrics.matching import Ranked
from medprompt.prompts.wording import Kind, Question

DRAWS = list(draw_images(40, 60))


def answer(score: float, hits: float = 1.0, images: int = 40) -> Answer:
    """One box an image; a share of the images has a hit at this score, the others have nothing."""
    found = np.arange(images) < round(hits * images)
    rows = np.flatnonzero(found)
    ranked = Ranked(rows, np.full(len(rows), score), np.ones(len(rows), dtype=bool), np.arange(images))
    ones = np.ones(images, dtype=np.int64)
    return Answer(ranked, score * found, ones, ones == 0, found.astype(np.int64))


def judged(other: Mapping[str, Answer], own: Answer | None = None) -> ClassVerdict:
    """``kind:name`` of each question, and its answer."""
    questions: dict[Question, Answer] = {}
    for text, one in other.items():
        kind, _, name = text.partition(":")
        questions[Question(_kind(kind), name, (name,))] = one
    own = own or answer(0.9)
    return judge(ClassAnswers("RBC", own, questions), [draw for draw in DRAWS if len(draw) == len(own.boxes)])


def _kind(text: str) -> Kind:
    return next(kind for kind in ("exchanged", "absent", "filler", "empty", "synonyms", "negated") if kind == text)


GONE, SAME, HALF = answer(0.01), answer(0.9), answer(0.45)


@pytest.mark.parametrize(
    ("other", "verdict"),
    [
        ({"exchanged:WBC": GONE, "filler:a": GONE, "synonyms:1": SAME}, "reads"),
        ({"exchanged:WBC": GONE, "filler:a": GONE, "synonyms:1": SAME, "negated:no": SAME}, "reads"),
        ({"filler:a": GONE, "synonyms:1": SAME}, "reads"),  # of one class
        ({"exchanged:WBC": SAME, "filler:a": GONE, "synonyms:1": SAME}, "ignores"),
        ({"exchanged:WBC": SAME, "exchanged:PLT": GONE, "filler:a": GONE, "synonyms:1": SAME}, "partly"),
        ({"exchanged:WBC": HALF, "filler:a": GONE, "synonyms:1": SAME}, "partly"),
        ({"exchanged:WBC": GONE, "filler:a": SAME, "synonyms:1": SAME}, "partly"),
        ({"exchanged:WBC": GONE, "filler:a": GONE, "synonyms:1": GONE}, "partly"),
        ({"absent:tram": SAME, "filler:a": SAME, "empty:": GONE}, "ignores"),  # 67 % on average
        ({"absent:tram": SAME, "absent:bus": GONE, "filler:a": SAME}, "ignores"),  # 75 %: a kind counts once
        ({"exchanged:WBC": GONE, "synonyms:1": SAME}, "no verdict"),  # nothing foreign was asked
        ({"exchanged:WBC": GONE, "filler:a": GONE}, "no verdict"),  # nor synonyms
        ({"exchanged:WBC": SAME}, "ignores"),  # a bundle alone tells this
        ({"negated:no": SAME}, "no verdict"),
    ],
)
def test_the_rule(other: dict[str, Answer], verdict: str) -> None:
    found = judged(other)
    assert str(found.reading) == verdict, found.why
    assert found.why


def test_the_lesser_share_is_left() -> None:
    found = judged({"exchanged:quiet": HALF, "exchanged:few": answer(0.9, 0.25)})
    left = {question.name: figures["left"].value for question, figures in found.changes.items()}
    assert left["quiet"] == pytest.approx(0.5)  # every box is found, at half the score
    assert left["few"] == pytest.approx(0.25, abs=0.01)  # a quarter of the boxes, at the full score
    assert found.left["exchanged"].value == pytest.approx(np.mean(list(left.values())))


def test_few_images_and_a_lost_class_have_no_verdict() -> None:
    few = judge(ClassAnswers("RBC", answer(0.9, images=9), {}), list(draw_images(9, 20)))
    assert few.why == "too few images: 9 have the class, 10 are needed"
    lost = judged({"exchanged:WBC": SAME}, own=answer(0.9, 0.0))
    assert lost.why.startswith("its own phrases find too little")
    mute = judged({"exchanged:WBC": SAME}, own=answer(0.0))
    assert mute.why.startswith("its own phrases find too little")


def test_draws_that_disagree_give_no_verdict() -> None:
    found = judged({"exchanged:WBC": answer(0.9, 0.675), "filler:a": GONE, "synonyms:1": SAME})
    assert str(found.reading) == "no verdict"
    assert found.why.startswith("too close, or too few images: ")
    assert 0.4 < found.agreement < 0.9


def test_a_bundle_is_what_all_its_classes_are() -> None:
    reads = judged({"filler:a": GONE, "synonyms:1": SAME})
    ignores = judged({"filler:a": SAME})
    unclear = judged({"negated:no": SAME})
    assert str(overall([reads, reads])) == "reads"
    assert str(overall([ignores, unclear])) == "ignores"
    assert str(overall([ignores, reads])) == "partly"
    assert str(overall([unclear])) == str(overall([])) == "no verdict"
