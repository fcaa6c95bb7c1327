import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medprompt.core.boxes import xyxy_from_cxcywh
from medprompt.export.finetune.attribute_phrases import MEASURES, measure_attributes
from medprompt.export.finetune.shapes import APART, SIDE, draw_shapes

SMEAR = np.full((64, 96, 3), (210, 190, 195), np.uint8)
NOTHING = np.zeros((0, 4), np.float32)
CELLS = np.array([[0.3, 0.4, 0.3, 0.4], [0.8, 0.7, 0.2, 0.3]], np.float32)


def drawn(seed, taken=NOTHING, most=8, held_out=NOTHING, image=SMEAR):
    return draw_shapes(image, taken, held_out, most, np.random.default_rng(seed))


@given(st.integers(0, 2**32), st.sampled_from([NOTHING, CELLS]), st.booleans(), st.integers(0, 12))
def test_shapes_lie_in_the_picture_and_apart_from_what_is_there(seed, taken, hidden, most):
    image, boxes = drawn(seed, NOTHING, most, taken) if hidden else drawn(seed, taken, most)
    assert image.shape == SMEAR.shape and image.dtype == np.uint8 and boxes.dtype == np.float32
    assert len(boxes) <= most
    corners = xyxy_from_cxcywh(np.concatenate([taken, boxes]))
    assert (corners >= -1e-6).all() and (corners <= 1 + 1e-6).all()
    for n in range(len(taken), len(corners)):
        sides = np.minimum(corners[:n, 2:], corners[n, 2:]) - np.maximum(corners[:n, :2], corners[n, :2])
        areas = (corners[:, 2:] - corners[:, :2]).prod(axis=1)
        assert (sides.clip(min=0).prod(axis=1) <= APART * np.minimum(areas[:n], areas[n]) + 1e-6).all()


@given(st.integers(0, 2**32))
def test_pixels_outside_the_boxes_stay(seed):
    image, boxes = drawn(seed)
    inside = np.zeros(SMEAR.shape[:2], dtype=bool)
    for left, top, right, bottom in xyxy_from_cxcywh(boxes) * np.array([96, 64, 96, 64]):
        # The soft edge reaches beyond the ellipse by one pixel and a half of the mean side at most.
        inside[max(0, int(top) - 2) : int(bottom) + 4, max(0, int(left) - 2) : int(right) + 4] = True
    assert (image[~inside] == SMEAR[~inside]).all()


def test_the_same_numbers_draw_the_same_and_leave_the_source_alone():
    before = SMEAR.copy()
    (first, at), (second, again) = drawn(5), drawn(5)
    assert (first == second).all() and (at == again).all() and (SMEAR == before).all()
    assert (first != drawn(6)[0]).any()


def test_no_shapes_is_the_picture_as_it_was():
    image, boxes = drawn(0, most=0)
    assert (image == SMEAR).all() and boxes.shape == (0, 4)


def test_every_second_filling_is_an_object_of_the_picture_but_none_that_overlaps_what_is_held_out():
    image = np.full((64, 96, 3), 128, np.uint8)
    image[:, :48] = (255, 0, 0)  # more colourful than any plain filling, in whatever hue
    cell, inside = np.array([[0.25, 0.5, 0.5, 1]], np.float32), np.array([[0.4, 0.5, 0.1, 0.1]], np.float32)
    for held_out, least, most in ((NOTHING, 0.35, 0.65), (inside, 0.0, 0.0)):
        shares = []
        for seed in range(60):
            picture, boxes = drawn(seed, cell, held_out=held_out, image=image)
            shares += list(measure_attributes(picture, boxes, 1.0)[:, MEASURES.index("saturation")] > 0.75)
        assert least <= np.mean(shares) <= most


def test_a_full_picture_takes_no_more():
    full = np.array([[0.5, 0.5, 1, 1]], np.float32)
    assert len(drawn(0, full)[1]) == 0 and len(drawn(0, held_out=full)[1]) == 0


def test_sizes_and_elongations_reach_over_all_words_of_looks():
    boxes = np.concatenate([drawn(seed)[1] for seed in range(300)])
    size, elongation = measure_attributes(SMEAR, boxes, 1.0)[:, :2].T
    assert size.min() == pytest.approx(SIDE[0], rel=0.05) and size.max() > 0.9 * SIDE[1]
    assert (np.bincount(np.digitize(size, [0.09, 0.15, 0.26])) > 0.05 * len(size)).all()
    assert (elongation < 1.3).mean() > 0.2 and (elongation > 1.7).mean() > 0.1
