"""Tiles cover the image, and what lies in several of them is found once."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medprompt.core.detections import Detections
from medprompt.core.errors import InputError
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
