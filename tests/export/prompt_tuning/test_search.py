"""Search on tiny models of every family: the quick way equals the slow way, and bad input is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medprompt.core.errors import DataError, PromptError
from medprompt.data import DetectionSet, LabelledImage, check_apart
from medprompt.export.evaluation.features import FeatureSet
from medprompt.export.families.base import Family
from medprompt.export.parity.images import drawn_image
from medprompt.export.prompt_tuning import score
from medprompt.export.prompt_tuning.score import AnswerScorer, KeptScorer, scorer_for
from medprompt.export.prompt_tuning.search import search_prompts
from medprompt.generation.lexicon import lexicon_from_yaml
from medprompt.generation.search import SearchRules
from medprompt.prompts.diff import diff_prompts
from medprompt.prompts.schema import Prompts
from tests.export.exported import loaded
from tests.export.prompt_tuning.sets import drawn_set

PROMPTS = Prompts.model_validate(
    {"classes": [{"label": "disc", "phrases": ["red cell", "round disc"]}, {"label": "spot", "phrases": ["polyp"]}]}
)
RULES = SearchRules(budget=12)


@pytest.fixture
def data(tmp_path: Path) -> DetectionSet:
    return drawn_set(tmp_path)


@pytest.fixture
def report(tmp_path: Path) -> DetectionSet:
    from PIL import Image

    path = tmp_path / "other.png"
    Image.fromarray(drawn_image((40, 60), 9)).save(path)
    boxes = np.array([[5, 5, 30, 30]], dtype=np.float32)
    return DetectionSet("other", ("Spot", "disc"), (LabelledImage(path, (40, 60), boxes, np.array([0])),))


def test_a_search_is_never_worse_than_its_start_and_repeats(
    family: Family, data: DetectionSet, report: DetectionSet
) -> None:
    runs = [search_prompts(family, PROMPTS, data, report, lexicon_from_yaml(), RULES) for _ in range(2)]
    for found in runs:
        assert found.ascent.candidates == RULES.budget
        assert found.data.found.ap >= found.data.start.ap
        assert found.data.found.ap == pytest.approx(found.ascent.best, abs=1e-6)
        assert found.optimism == pytest.approx(found.data.gain - found.report.gain)
        assert found.as_json()["report"]["found"]["ap_by_label"]["disc"] is None  # no disc there
    assert runs[0].prompts == runs[1].prompts
    changed = [change for change in diff_prompts(PROMPTS, runs[0].prompts) if change.kind == "added"]
    old = set(PROMPTS.texts)
    new = [phrase for entry in runs[0].prompts.classes for phrase in entry.phrases if phrase.text not in old]
    assert len(changed) == len(new)
    assert all(phrase.source == "search" and phrase.origin and phrase.origin.parent for phrase in new)


def test_a_wording_as_good_as_the_one_that_made_the_labels_is_found(
    owl: Family, data: DetectionSet, report: DetectionSet
) -> None:
    """Labels are what the model answers to "blue cell" in one image: a search from "red cell" comes upon it."""
    made = Prompts.model_validate({"classes": [{"label": "disc", "phrases": ["blue cell"]}]})
    image = data.images[0]
    answers = AnswerScorer(FeatureSet(owl, replace(data, images=(image,)))).detections(made)[0]
    labelled = replace(image, boxes_xyxy=answers.boxes_xyxy[:5], class_ids=np.zeros(5, dtype=np.int64))
    start = Prompts.model_validate({"classes": [{"label": "disc", "phrases": ["red cell", "polyp"]}]})
    sets = DetectionSet("answers", ("disc",), (labelled,)), replace(report, labels=("disc",))
    found = search_prompts(owl, start, *sets, lexicon_from_yaml(), SearchRules(budget=100))
    assert found.data.start.ap < 0.95
    assert found.data.found.ap == pytest.approx(1)
    assert found.ascent.candidates <= 100


def wordings() -> list[Prompts]:
    """One phrase, several, weights, both poolings, three classes."""
    disc, spot = PROMPTS.classes
    weighted = disc.phrases[0].model_copy(update={"weight": 0.5})
    third = {"label": "third", "phrases": ["red polyp", "disc"]}
    return [
        PROMPTS,
        PROMPTS.model_copy(update={"pooling": "mean"}),
        PROMPTS.model_copy(update={"ensemble": "embedding"}),
        PROMPTS.model_copy(update={"classes": (disc.model_copy(update={"phrases": (weighted, *spot.phrases)}),)}),
        Prompts.model_validate({"classes": [*PROMPTS.model_dump()["classes"], third]}),
    ]


@pytest.mark.parametrize("model_type", ["owlvit", "owlv2"])
@pytest.mark.parametrize("kept_bytes", [0, 1 << 20])
def test_kept_logits_answer_as_the_model_does(
    tiny_checkpoint: Callable[[str], Path],
    data: DetectionSet,
    monkeypatch: pytest.MonkeyPatch,
    model_type: str,
    kept_bytes: int,
) -> None:
    monkeypatch.setattr(score, "KEPT_BYTES", kept_bytes)
    monkeypatch.setattr(score, "IMAGES_TOGETHER", 1)
    monkeypatch.setattr(score, "ENCODED_TOGETHER", 2)
    features = FeatureSet(loaded(tiny_checkpoint(model_type)), data)
    quick, slow = scorer_for(features), AnswerScorer(features)
    assert isinstance(quick, KeptScorer)
    for prompts in wordings() * 2:
        quick.prepare(["red cell", *prompts.texts])
        for mine, theirs in zip(quick.detections(prompts), slow.detections(prompts), strict=True):
            np.testing.assert_array_equal(mine.class_ids, theirs.class_ids)
            np.testing.assert_array_equal(mine.phrase_ids, theirs.phrase_ids)
            np.testing.assert_array_equal(mine.boxes_xyxy, theirs.boxes_xyxy)
            # One product over all phrases, or over some of them: the last bit may differ.
            np.testing.assert_allclose(mine.scores, theirs.scores, rtol=0, atol=1e-6)
            assert (mine.labels, mine.phrases, mine.size_hw) == (theirs.labels, theirs.phrases, theirs.size_hw)
        assert quick.accuracy(prompts) == slow.accuracy(prompts)


def test_families_whose_phrases_meet_are_asked_anew(family: Family, data: DetectionSet) -> None:
    scorer = scorer_for(FeatureSet(family, data))
    core = scorer.features.core
    assert isinstance(scorer, KeptScorer) is not (core.phrases_meet or core.boxes_follow_phrases)
    assert 0 <= scorer.score(PROMPTS) <= 1
    one_embedding = PROMPTS.model_copy(update={"ensemble": "embedding"})
    assert not isinstance(scorer_for(scorer.features, one_embedding), KeptScorer)


def test_phrases_longer_than_the_text_context_are_not_tried(
    owl: Family, data: DetectionSet, report: DetectionSet
) -> None:
    _, most = owl.phrase_length("")
    long = " ".join(["red"] * most)
    disc, spot = PROMPTS.model_dump(exclude_none=True)["classes"]
    prompts = Prompts.model_validate({"classes": [{**disc, "names": {"mlm": long}}, spot]})
    found = search_prompts(owl, prompts, data, report, lexicon_from_yaml(), RULES)
    assert long not in found.prompts.texts
    too_long = Prompts.model_validate({"classes": [{**disc, "phrases": [long]}, spot]})
    with pytest.raises(PromptError, match="longer than the text encoder"):
        search_prompts(owl, too_long, data, report, lexicon_from_yaml(), RULES)


def test_sets_that_cannot_be_searched_are_refused(owl: Family, data: DetectionSet, report: DetectionSet) -> None:
    lexicon = lexicon_from_yaml()
    with pytest.raises(DataError, match="no class of the prompts covers") as caught:
        only = PROMPTS.model_copy(update={"classes": PROMPTS.classes[:1]})
        search_prompts(owl, only, data, report, lexicon, RULES)
    assert caught.value.got == "no class for: spot"
    with pytest.raises(DataError, match="no box of") as caught:
        search_prompts(owl, PROMPTS, report, data, lexicon, RULES)
    assert caught.value.got == "none of: disc"
    for other in (data, replace(report, images=(*report.images, data.images[1]))):
        with pytest.raises(DataError, match="share images"):
            search_prompts(owl, PROMPTS, data, other, lexicon, RULES)


def test_a_copied_image_is_shared(data: DetectionSet, tmp_path: Path) -> None:
    copy = tmp_path / "copy.png"
    copy.write_bytes(data.images[0].path.read_bytes())
    with pytest.raises(DataError, match="share images") as caught:
        check_apart(data, replace(data, images=(replace(data.images[0], path=copy),)))
    assert caught.value.got == f"1 in both, such as {data.images[0].path} = {copy}"
