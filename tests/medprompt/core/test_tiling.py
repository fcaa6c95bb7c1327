"""Tiles cover the image, and what lies in several of them is found once."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medprompt.core.detections import Detections
from medprompt.core.errors import InputError
from medprompt.core.masks import Masks
from medprompt.core.tiling import Tiling, merge_tile_detections

LABELS, PHRASES = ("RBC", "WBC"), ("a", "b")


def found(boxes, scores=None, classes=None, size_hw=(10, 10)):
    count = len(boxes)
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores if scores is not None else [0.5] * count, np.float32),
        np.array(classes if classes is not None else [0] * count, np.int64),
        np.zeros(count, np.int64),
        LABELS,
        PHRASES,
        size_hw,
    )


@settings(deadline=None)
@given(st.integers(1, 900), st.integers(1, 900), st.integers(40, 300), st.floats(0, 0.9))
def test_tiles_cover_the_image_and_overlap_enough(height, width, side, overlap):
    tiling = Tiling(side, overlap)
    tiles = tiling.tiles((height, width))
    seen = np.zeros((height, width), bool)
    for left, top, right, bottom in tiles:
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
        assert right - left == min(side, width) and bottom - top == min(side, height)
        seen[top:bottom, left:right] = True
    assert seen.all()
    columns = sorted({(left, right) for left, _, right, _ in tiles})
    for (_, right), (left, _) in itertools.pairwise(columns):
        assert right - left >= int(side * overlap) - 1  # starts are whole pixels


@pytest.mark.parametrize(("side", "overlap"), [(0, 0.2), (-1, 0.2), (10, -0.1), (10, 0.95)])
def test_what_cannot_be_cut(side, overlap):
    with pytest.raises(InputError):
        Tiling(side, overlap)


@settings(deadline=None)
@given(st.data())
def test_each_object_is_found_once_whatever_tiles_it_lies_in(data):
    """Objects no longer than the overlap, apart from each other: a perfect detector in every tile gives each once."""
    tiling = Tiling(100, 0.3)
    size_hw = (data.draw(st.integers(100, 400)), data.draw(st.integers(100, 400)))
    cells = [(row, column) for row in range(size_hw[0] // 40) for column in range(size_hw[1] // 40)]
    places = data.draw(st.lists(st.sampled_from(cells), unique=True, max_size=12))
    objects = np.array([(40 * x + 5, 40 * y + 5, 40 * x + 34, 40 * y + 34) for y, x in places], float).reshape(-1, 4)
    tiles = tiling.tiles(size_hw)
    answers = []
    for left, top, right, bottom in tiles:
        seen = np.clip(objects, [left, top, left, top], [right, bottom, right, bottom])
        inside = (seen[:, 2] - seen[:, 0] > 6) & (seen[:, 3] - seen[:, 1] > 6)
        answers.append(found(seen[inside] - [left, top, left, top], size_hw=(bottom - top, right - left)))
    whole = merge_tile_detections(answers, tiles, size_hw)
    assert sorted(map(tuple, whole.boxes_xyxy.tolist())) == sorted(map(tuple, objects.tolist()))
    assert whole.size_hw == size_hw


TILES = [(0, 0, 100, 100), (70, 0, 170, 100)]

CASES = {
    "nothing": ([found([]), found([])], []),
    "one in each, apart": ([found([[5, 5, 20, 20]]), found([[60, 5, 80, 20]])], [(5, 20), (130, 150)]),
    "whole wins over cut, whatever the scores": (
        [found([[80, 5, 100, 20]], [0.9]), found([[10, 5, 40, 20]], [0.3])],
        [(80, 110)],
    ),
    "the better of two whole ones": ([found([[75, 5, 95, 20]], [0.4]), found([[5, 5, 25, 21]], [0.6])], [(75, 95)]),
    "another class stays": (
        [found([[75, 5, 95, 20]], classes=[0]), found([[5, 5, 25, 20]], classes=[1])],
        [(75, 95), (75, 95)],
    ),
    "two of one tile stay, however they lie": (
        [found([[5, 5, 30, 30], [6, 6, 30, 30]]), found([])],
        [(5, 30), (6, 30)],
    ),
    "longer than the overlap: both parts stay": (
        [found([[20, 5, 100, 20]]), found([[0, 5, 90, 20]])],
        [(20, 100), (70, 160)],
    ),
    "the image's own edge cuts nothing": (
        [found([[0, 0, 20, 20]], [0.4]), found([[80, 0, 100, 20]])],
        [(0, 20), (150, 170)],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_merging(case):
    answers, expected = CASES[case]
    whole = merge_tile_detections(answers, TILES, (100, 170))
    assert sorted((left, right) for left, _, right, _ in whole.boxes_xyxy.tolist()) == sorted(expected)
    assert (np.diff(whole.scores) <= 0).all()
    assert whole.labels == LABELS and whole.phrases == PHRASES


def seen_in(tiles, objects, classes):
    """What a perfect detector answers in each tile of masks, bool ``[N, H, W]``: every object that it sees, once."""
    for left, top, right, bottom in tiles:
        parts = objects[:, top:bottom, left:right]
        seen = parts.any(axis=(1, 2))
        masks = Masks.of(parts[seen])
        answer = found(masks.boxes_xyxy, classes=classes[seen], size_hw=(bottom - top, right - left))
        yield replace(answer, masks=masks)


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_masks_of_objects_of_any_length_are_whole_and_there_once(data):
    tiling = Tiling(60, 0.3)
    height, width = data.draw(st.integers(30, 150)), data.draw(st.integers(30, 200))
    rows, columns = np.mgrid[:height, :width]
    objects, taken = [], np.zeros((height, width), bool)
    for _ in range(data.draw(st.integers(0, 4))):
        y, x, high, wide = (data.draw(st.integers(3, side)) for side in (height, width, 70, 90))
        shape = ((rows - y) / high) ** 2 + ((columns - x) / wide) ** 2 < 1
        if not (shape & taken).any():
            objects.append(shape)
            taken |= shape
    pixels = np.array(objects, bool).reshape(-1, height, width)
    classes = np.array([data.draw(st.integers(0, 1)) for _ in objects], np.int64)
    tiles = tiling.tiles((height, width))
    whole = merge_tile_detections(list(seen_in(tiles, pixels, classes)), tiles, (height, width))
    assert sorted(map(bytes, whole.masks)) == sorted(map(bytes, pixels))
    np.testing.assert_array_equal(whole.boxes_xyxy, whole.masks.boxes_xyxy)


@pytest.mark.parametrize(
    ("first", "second", "count"),
    [
        pytest.param((10, 40), (10, 40), 1, id="the same pixels"),
        pytest.param((10, 40), (24, 60), 1, id="most of one"),
        pytest.param((10, 40), (26, 60), 2, id="less than half of either"),
        pytest.param((10, 40), (10, 10), 1, id="an empty mask goes by its box"),
        pytest.param((10, 10), (10, 10), 1, id="two empty masks"),
    ],
)
def test_detections_are_of_one_object_where_their_pixels_agree(first, second, count):
    """The boxes are the same in all cases; the masks are some of their rows."""
    answers = []
    for box, (top, bottom) in (([75, 5, 95, 65], first), ([5, 5, 25, 65], second)):
        mask = np.zeros((100, 100), bool)
        mask[top:bottom, box[0] : box[2]] = True
        answers.append(replace(found([box], size_hw=(100, 100)), masks=Masks.of(mask[None])))
    assert len(merge_tile_detections(answers, TILES, (100, 170))) == count


def test_a_whole_mask_stays_as_it_is_beside_a_part_of_better_score():
    whole_one, part = np.zeros((100, 100), bool), np.zeros((100, 100), bool)
    whole_one[10:20, 72:95] = True
    part[10:22, 0:25] = True  # cut by the second tile's edge, and higher
    answers = [
        replace(found([box], [score], size_hw=(100, 100)), masks=Masks.of(mask[None]))
        for box, score, mask in (([72, 10, 95, 20], 0.4, whole_one), ([0, 10, 25, 22], 0.9, part))
    ]
    merged = merge_tile_detections(answers, TILES, (100, 170))
    assert merged.scores.tolist() == pytest.approx([0.4])
    assert merged.masks == Masks.of(whole_one[None]).placed(0, 0, (100, 170))
