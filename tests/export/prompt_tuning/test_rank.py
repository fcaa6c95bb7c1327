"""Ranking: the best new phrases by the model's response or by AP, the old ones untouched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from medprompt.core.errors import DataError
from medprompt.data import DetectionSet
from medprompt.export.evaluation.features import FeatureSet
from medprompt.export.families.base import Family
from medprompt.export.prompt_tuning.rank import rank_new_phrases, unlabelled_set
from medprompt.export.prompt_tuning.score import AnswerScorer
from medprompt.prompts.schema import Prompts
from tests.export.prompt_tuning.sets import drawn_set

BEFORE = Prompts.model_validate(
    {"classes": [{"label": "disc", "phrases": ["red cell"]}, {"label": "spot", "phrases": ["polyp"]}]}
)
AFTER = Prompts.model_validate(
    {
        "classes": [
            {"label": "disc", "phrases": ["red cell", "blue cell", "pale red cell", "big cell"]},
            {"label": "spot", "phrases": ["polyp", "red polyp"]},
        ]
    }
)


@pytest.fixture
def labelled(tmp_path: Path) -> DetectionSet:
    return drawn_set(tmp_path)


def alone(text: str, label: str = "disc") -> Prompts:
    return Prompts.model_validate({"classes": [{"label": label, "phrases": [text]}]})


def test_the_response_is_the_mean_of_the_best_scores(family: Family, labelled: DetectionSet) -> None:
    images = unlabelled_set([entry.path for entry in labelled.images], "images")
    kept, rows = rank_new_phrases(family, BEFORE, AFTER, images, 1, labelled=False)
    scorer = AnswerScorer(FeatureSet(family, images))
    for row in rows:
        best = [found.scores.max() for found in scorer.detections(alone(row.text))]
        assert row.figure == pytest.approx(float(np.mean(best)), abs=1e-5)
    for entry, old in zip(kept.classes, BEFORE.classes, strict=True):
        mine = [row for row in rows if row.label == entry.label]
        assert [row.figure for row in mine] == sorted((row.figure for row in mine), reverse=True)
        best_new = next(row.text for row in mine if row.new)
        assert {phrase.text for phrase in entry.phrases} == {old.phrases[0].text, best_new}
        assert [row.text for row in mine if row.kept and row.new] == [best_new]


def test_with_labels_the_ap_of_the_phrase_alone_ranks(owl: Family, labelled: DetectionSet) -> None:
    kept, rows = rank_new_phrases(owl, BEFORE, AFTER, labelled, 2, labelled=True)
    scorer = AnswerScorer(FeatureSet(owl, labelled))
    assert len(rows) == len(AFTER.texts)
    for row in rows:
        assert row.figure == scorer.accuracy(alone(row.text, row.label)).ap_by_label[row.label]
    assert [len(entry.phrases) for entry in kept.classes] == [3, 2]


@pytest.mark.parametrize(("most", "new"), [(1, 2), (2, 3), (20, 4)])
def test_at_most_so_many_new_phrases_a_class_are_kept(owl: Family, labelled: DetectionSet, most: int, new: int) -> None:
    kept, _ = rank_new_phrases(owl, BEFORE, AFTER, labelled, most, labelled=False)
    assert len(kept.texts) == len(BEFORE.texts) + new
    assert set(BEFORE.texts) <= set(kept.texts)


def test_a_class_without_boxes_cannot_be_ranked_by_ap(owl: Family, labelled: DetectionSet) -> None:
    classes = (*AFTER.classes, *alone("round disc", "third").classes)
    with pytest.raises(DataError, match="no box of") as caught:
        rank_new_phrases(owl, BEFORE, AFTER.model_copy(update={"classes": classes}), labelled, 1, labelled=True)
    assert caught.value.got == "none of: third"


def test_ranking_needs_no_gradient(owl: Family, labelled: DetectionSet) -> None:
    rank_new_phrases(owl, BEFORE, AFTER, labelled, 1, labelled=False)
    assert torch.is_grad_enabled()
