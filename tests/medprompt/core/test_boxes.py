import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medprompt.core.boxes import area, iou_matrix, nms, xyxy_from_cxcywh

EMPTY = np.zeros((0, 4))
corners = arrays(np.float64, st.tuples(st.integers(0, 8), st.just(4)), elements=st.floats(0, 100, width=32))


def boxes_of(raw: np.ndarray) -> np.ndarray:
    return np.concatenate([np.minimum(raw[:, :2], raw[:, 2:]), np.maximum(raw[:, :2], raw[:, 2:])], axis=1)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([[0, 0, 2, 2]], [[0, 0, 2, 2]], [[1.0]]),
        ([[0, 0, 2, 2]], [[1, 0, 3, 2]], [[1 / 3]]),
        ([[0, 0, 2, 2]], [[2, 0, 4, 2]], [[0.0]]),  # they touch
        ([[0, 0, 0, 0]], [[0, 0, 0, 0]], [[0.0]]),  # no area on either side
        ([[2, 2, 0, 0]], [[0, 0, 2, 2]], [[0.0]]),  # turned inside out
    ],
)
def test_iou(a, b, expected):
    assert iou_matrix(np.array(a, float), np.array(b, float)) == pytest.approx(np.array(expected))


def test_empty_sides_give_empty_matrices():
    box = np.array([[0.0, 0, 1, 1]])
    assert iou_matrix(EMPTY, box).shape == (0, 1)
    assert iou_matrix(box, EMPTY).shape == (1, 0)
    assert area(EMPTY).shape == (0,)
    assert xyxy_from_cxcywh(EMPTY).shape == (0, 4)
    assert nms(EMPTY, np.zeros(0), 0.5).tolist() == []


@given(corners, corners)
def test_iou_is_symmetric_and_within_0_and_1(a, b):
    overlaps = iou_matrix(boxes_of(a), boxes_of(b))
    assert ((overlaps >= 0) & (overlaps <= 1 + 1e-9)).all()
    assert overlaps == pytest.approx(iou_matrix(boxes_of(b), boxes_of(a)).T)


@pytest.mark.parametrize(
    ("class_ids", "kept"),
    [(None, [1, 2]), ([0, 0, 0], [1, 2]), ([0, 1, 1], [1, 0, 2])],
)
def test_nms_keeps_the_best_of_each_heap(class_ids, kept):
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60]], float)
    ids = None if class_ids is None else np.array(class_ids)
    assert nms(boxes, np.array([0.8, 0.9, 0.3]), 0.5, ids).tolist() == kept


@given(corners, st.floats(0.05, 0.95))
def test_nms_keeps_no_overlapping_pair_and_always_the_best(raw, limit):
    boxes = boxes_of(raw)
    scores = np.linspace(1, 0, len(boxes))
    kept = nms(boxes, scores, limit)
    overlaps = iou_matrix(boxes[kept], boxes[kept])
    np.fill_diagonal(overlaps, 0)
    assert (overlaps <= limit).all()
    assert len(boxes) == 0 or kept[0] == 0
