"""From masks to boxes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from medprompt.core import errors
from medprompt.core.errors import DataError, EngineError
from medprompt.data.masks import binary_mask, boxes_from_masks, pieces_of_mask

MAP = np.array([[0, 0, 7, 7], [3, 0, 7, 0], [3, 0, 0, 7], [0, 0, 0, 0]])


@pytest.mark.parametrize(
    ("label_map", "least", "boxes", "small"),
    [
        (MAP, 1, [[0, 1, 1, 3], [2, 0, 4, 3]], 0),  # in the order of the numbers; 7 is in two pieces
        (MAP.astype(np.float64), 1, [[0, 1, 1, 3], [2, 0, 4, 3]], 0),
        (MAP, 3, [[2, 0, 4, 3]], 1),
        (MAP, 5, [], 2),
        (MAP * 1_000_000_000, 1, [[0, 1, 1, 3], [2, 0, 4, 3]], 0),
        (np.zeros((3, 2)), 1, [], 0),
        (np.zeros((0, 0)), 1, [], 0),
        (np.full((3, 2), 9), 1, [[0, 0, 2, 3]], 0),
        (np.array([[5]]), 1, [[0, 0, 1, 1]], 0),
    ],
)
def test_boxes_of_a_label_map(label_map: np.ndarray, least: int, boxes: list[list[float]], small: int) -> None:
    found, left_out = boxes_from_masks(label_map, least)
    assert (found.tolist(), left_out) == (boxes, small)
    assert (found.dtype, found.shape) == (np.float64, (len(boxes), 4))


@pytest.mark.parametrize("label_map", [np.zeros((2, 2, 3)), np.array([[0.5]]), np.zeros(3)])
def test_what_is_no_label_map(label_map: np.ndarray) -> None:
    with pytest.raises(DataError, match="integer label map"):
        boxes_from_masks(label_map)


@pytest.mark.parametrize(
    ("mask", "pieces"),
    [
        (np.zeros((4, 4), dtype=bool), 0),
        (np.ones((4, 4), dtype=bool), 1),
        (np.eye(4, dtype=bool), 1),  # corners connect
        (np.array([[1, 0, 1], [0, 0, 0], [1, 0, 1]], dtype=bool), 4),
    ],
)
def test_pieces(mask: np.ndarray, pieces: int) -> None:
    assert pieces_of_mask(mask).max() == pieces
    assert len(boxes_from_masks(pieces_of_mask(mask))[0]) == pieces


@given(arrays(np.bool_, st.tuples(st.integers(1, 8), st.integers(1, 8))))
def test_boxes_hold_every_pixel_and_touch_one_on_every_side(mask: np.ndarray) -> None:
    boxes = boxes_from_masks(pieces_of_mask(mask))[0].astype(int)
    covered = np.zeros_like(mask)
    for left, top, right, bottom in boxes:
        covered[top:bottom, left:right] = True
        part = mask[top:bottom, left:right]
        assert part[0].any() and part[-1].any() and part[:, 0].any() and part[:, -1].any()
    assert covered[mask].all()


@pytest.mark.parametrize(
    ("levels", "ink"),
    [
        ([0, 255], [False, True]),
        ([0, 1], [False, True]),
        ([0, 0], [False, False]),
        ([127, 128], [False, True]),
        ([2, 200], [False, True]),
    ],
)
def test_grey_levels_of_a_mask(tmp_path: Path, levels: list[int], ink: list[bool]) -> None:
    Image.fromarray(np.array([levels], dtype=np.uint8)).save(tmp_path / "mask.png")
    assert binary_mask(tmp_path / "mask.png").tolist() == [ink]


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA"])
def test_modes_of_a_mask(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (3, 2), "white").save(tmp_path / "mask.png")
    assert binary_mask(tmp_path / "mask.png").all()


def test_a_mask_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "mask.png").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(DataError, match="mask cannot be read"):
        binary_mask(tmp_path / "mask.png")


def test_an_absent_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "find_spec", lambda name: None)
    with pytest.raises(EngineError, match=r"pip install .scipy"):
        boxes_from_masks(MAP)
