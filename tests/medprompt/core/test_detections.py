import numpy as np
import pytest

from medprompt import Detections


def make(count=2, **changes):
    fields = {
        "boxes_xyxy": np.tile(np.array([[0, 0, 4, 4]], np.float32), (count, 1)),
        "scores": np.linspace(0.9, 0.1, count, dtype=np.float32),
        "class_ids": np.zeros(count, np.int64),
        "phrase_ids": np.zeros(count, np.int64),
        "labels": ("polyp",),
        "phrases": ("pink bump",),
        "size_hw": (10, 20),
    }
    return Detections(**(fields | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"boxes_xyxy": np.zeros((3, 4), np.float32)}, "boxes_xyxy"),
        ({"class_ids": np.zeros(3, np.int64)}, "class_ids"),
        ({"scores": np.array([np.nan, 0], np.float32)}, "finite"),
        ({"boxes_xyxy": np.full((2, 4), np.inf, np.float32)}, "finite"),
        ({"class_ids": np.array([0, 1])}, "class_ids"),
        ({"phrase_ids": np.array([-1, 0])}, "phrase_ids"),
    ],
)
def test_wrong_arrays_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)


def test_empty_is_fine_and_selects():
    empty = make(0)
    assert len(empty) == 0
    assert list(empty.rows()) == []
    assert len(empty[np.zeros(0, bool)]) == 0


def test_selection_keeps_rows_together():
    found = make(3)[np.array([False, True, True])]
    assert found.scores.tolist() == pytest.approx([0.5, 0.1])
    assert next(found.rows()) == {
        "label": "polyp",
        "score": 0.5,
        "box_xyxy": [0, 0, 4, 4],
        "phrase": "pink bump",
    }
