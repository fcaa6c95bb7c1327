"""Attribute words at labelled objects: what is compared with what."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medprompt.benchmarks.research.novel_words import Answers, _scores, roc_area, word_separation
from medprompt.data import DetectionSet, LabelledImage
from medprompt.export.checkpoint import family_from_checkpoint
from tests.export.finetune.few_words import use_few_words


@pytest.mark.parametrize(
    ("positive", "negative", "area"),
    [
        ([2.0, 3.0], [0.0, 1.0], 1.0),
        ([0.0], [1.0, 2.0], 0.0),
        ([1.0], [1.0], 0.5),
        ([1.0, 3.0], [2.0, 0.0], 0.75),
        ([], [1.0], math.nan),
        ([1.0], [], math.nan),
    ],
)
def test_roc_area(positive: list[float], negative: list[float], area: float) -> None:
    assert roc_area(np.array(positive), np.array(negative)) == pytest.approx(area, nan_ok=True)


def test_scores_are_taken_by_verdict_and_by_class() -> None:
    answers = Answers(
        fits=np.array([[1, -1], [1, 0], [-1, 1]], np.int8),
        scores=np.array([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]]),
        held_out=np.array([False, True, False]),
    )
    assert _scores([answers], 0, 1, held_out=False).tolist() == [0.1]
    assert _scores([answers], 0, 1, held_out=True).tolist() == [0.3]
    assert _scores([answers, answers], 1, 1, held_out=False).tolist() == [0.6, 0.6]
    assert _scores([], 0, 1, held_out=False).shape == (0,)


def test_a_tiny_model_is_asked_at_every_object(
    tiny_checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A purple and a small gray cell are trained, a small purple dot is not; the second image is empty."""
    use_few_words(monkeypatch)
    pixels = np.full((64, 64, 3), 200, np.uint8)
    boxes = [[4, 4, 36, 36], [44, 44, 52, 52], [44, 4, 52, 12]]
    for (left, top, right, bottom), colour in zip(boxes, [(140, 100, 200), (90, 90, 90), (140, 100, 200)], strict=True):
        pixels[top:bottom, left:right] = colour
    Image.fromarray(pixels).save(tmp_path / "a.png")
    full = LabelledImage(tmp_path / "a.png", (64, 64), np.array(boxes, np.float32), np.array([0, 0, 1]))
    empty = LabelledImage(tmp_path / "a.png", (64, 64), np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    labelled = DetectionSet("drawn", ("cell", "dot"), (full, empty))
    family = family_from_checkpoint(tiny_checkpoint("owlvit"))
    found = {entry.word: entry for entry in word_separation(family, [labelled], "dot")}
    assert (found["small"].trained_true, found["small"].held_out_true) == (1, 1)
    assert (found["purple"].trained_true, found["purple"].held_out_true) == (1, 1)
    assert found["purple"].learned in (0.0, 0.5, 1.0)
    assert found["small"].carried in (0.0, 0.5, 1.0)
    assert math.isnan(found["red"].carried)  # no dot is red
    assert math.isnan(found["round"].learned)  # everything is round: nothing to compare with
