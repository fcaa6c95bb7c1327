from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from medprompt import Detection, Detections
from medprompt.core.masks import Masks

PIXELS = np.arange(2 * 10 * 20).reshape(2, 10, 20) % 7 == 0


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
        ({"masks": Masks.of(PIXELS[:1])}, "masks: expected 2"),
        ({"masks": Masks.of(PIXELS[:, :9])}, "masks: expected 2 of"),
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


def test_it_reads_as_a_sequence_of_detections():
    found = make(2)
    first, second = found
    assert first == Detection("polyp", pytest.approx(0.9), (0.0, 0.0, 4.0, 4.0), "pink bump", 0)
    assert (found[0], found[-1], found[np.int64(1)]) == (first, second, second)
    assert [one.score for one in found] == pytest.approx([0.9, 0.1])
    assert list(make(0)) == []
    for outside in (2, -3):
        with pytest.raises(IndexError):
            found[outside]


@pytest.mark.parametrize(
    ("index", "scores"),
    [
        (slice(1, None), [0.5, 0.1]),
        (slice(0, 0), []),
        (np.array([True, False, True]), [0.9, 0.1]),
        ([True, False, True], [0.9, 0.1]),
        (np.zeros(3, bool), []),
        (np.array([2, 0]), [0.1, 0.9]),
        ([2, 0], [0.1, 0.9]),
        ([], []),
    ],
)
def test_a_part_is_detections(index, scores):
    part = make(3)[index]
    assert isinstance(part, Detections)
    assert part.scores.tolist() == pytest.approx(scores)
    assert part.boxes_xyxy.shape == (len(scores), 4)


@pytest.mark.parametrize(
    ("changes", "equal"),
    [
        ({}, True),
        ({"image_rgb": np.zeros((10, 20, 3), np.uint8)}, True),
        ({"scores": np.array([0.9, 0.2], np.float32)}, False),
        ({"boxes_xyxy": np.zeros((2, 4), np.float32)}, False),
        ({"phrases": ("flat spot",)}, False),
        ({"labels": ("polyp", "ulcer")}, False),
        ({"size_hw": (20, 10)}, False),
    ],
)
def test_equality_is_one_answer(changes, equal):
    assert (make(2) == make(2, **changes)) is equal
    assert (make(2) != make(2, **changes)) is not equal


def test_it_is_equal_to_nothing_else_and_has_no_hash():
    assert make(0) != [] and make(2) != make(1)
    with pytest.raises(TypeError, match="unhashable"):
        hash(make(1))


def test_empty_knows_what_was_looked_for():
    empty = Detections.empty(["polyp"], ["pink bump"], (10, 20))
    assert empty == make(0)
    assert (empty.boxes_xyxy.dtype, empty.class_ids.dtype) == (np.float32, np.int64)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "<0 detections in 20 x 10 pixels>"),
        (1, "<1 detections in 20 x 10 pixels: polyp 0.900 [0.0, 0.0, 4.0, 4.0]>"),
    ],
)
def test_repr(count, text):
    assert repr(make(count)) == text
    assert repr(make(7)).endswith("; and 2 more>")


def test_plot_draws_into_its_own_image_or_a_given_one():
    black = np.zeros((10, 20, 3), np.uint8)
    own = replace(make(1), image_rgb=black).plot()
    assert np.asarray(own).any()
    assert np.array_equal(np.asarray(make(1).plot(black)), np.asarray(own))
    assert np.array_equal(np.asarray(make(1).plot(Image.fromarray(black))), np.asarray(own))
    assert not np.asarray(make(0).plot(black)).any()
    assert replace(make(2), image_rgb=black)[:1].image_rgb is black


@pytest.mark.parametrize(
    ("image", "said"), [(None, "pass plot"), (np.zeros((20, 10, 3), np.uint8), r"expected shape \(10, 20, 3\)")]
)
def test_plot_without_the_image_says_so(image, said):
    with pytest.raises(ValueError, match=said):
        make(1).plot(image)


def test_masks_stay_with_their_detections():
    found = make(2, masks=Masks.of(PIXELS))
    assert np.array_equal(found[1].mask, PIXELS[1])
    assert found[::-1].masks == Masks.of(PIXELS[::-1])
    assert found[found.scores > 0.5].masks == Masks.of(PIXELS[:1])
    assert [row["segmentation"] for row in found.rows()] == [found.masks.rle(0), found.masks.rle(1)]
    assert found == make(2, masks=Masks.of(PIXELS))
    assert found != make(2)
    assert found != replace(found, masks=found.masks[::-1])
    assert found[0] != make(2)[0]
    assert hash(found[0]) == hash(make(2)[0])


def test_without_masks_nothing_speaks_of_them():
    assert make(1)[0].mask is None
    assert make(1)[:1].masks is None
    assert list(next(make(1).rows())) == ["label", "score", "box_xyxy", "phrase"]
