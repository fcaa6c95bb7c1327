"""Boxes of segmentations, against pycocotools."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as cocoapi

from medprompt.core.errors import DataError
from medprompt.core.runs import runs_of_text
from medprompt.data import read_detection_set
from medprompt.data.outlines import box_from_runs, box_from_segmentation
from tests.medprompt.data.made import coco, picture


def runs_of(mask: np.ndarray) -> list[int]:
    flat = np.concatenate([[False], mask.reshape(-1, order="F").astype(bool)])
    changes = np.flatnonzero(np.diff(flat)) if mask.size else np.zeros(0, dtype=int)
    return np.diff(np.concatenate([[0], changes, [mask.size]])).tolist()


@given(arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 1)))
def test_run_lengths_as_numbers_and_as_text(mask: np.ndarray) -> None:
    packed = cocoapi.encode(np.asfortranarray(mask))
    left, top, width, height = cocoapi.toBbox(packed).tolist()
    wanted = [left, top, left + width, top + height] if mask.any() else [0, 0, 0, 0]
    text = packed["counts"].decode()
    assert runs_of_text(text) == runs_of(mask)
    assert box_from_segmentation({"size": list(mask.shape), "counts": text}, mask.shape) == wanted
    assert box_from_segmentation({"size": list(mask.shape), "counts": runs_of(mask)}, mask.shape) == wanted


def test_long_runs_as_text() -> None:
    mask = np.zeros((700, 900), dtype=np.uint8)
    mask[100:650, 3:890] = 1
    text = cocoapi.encode(np.asfortranarray(mask))["counts"].decode()
    assert box_from_runs(runs_of_text(text), (700, 900)) == [3, 100, 890, 650]


@pytest.mark.parametrize(
    ("segmentation", "box"),
    [
        ([[1, 2, 8, 2, 4, 9]], [1, 2, 8, 9]),
        ([[1, 2, 8, 2, 4, 9], [15, 0, 19, 0.5, 16, 3]], [1, 0, 19, 9]),
        ({"size": [10, 20], "counts": [0, 200]}, [0, 0, 20, 10]),
        ({"size": [10, 20], "counts": [200]}, None),  # nothing: no area, left out
    ],
)
def test_a_box_that_is_not_given(tmp_path: Path, segmentation: Any, box: list[float] | None) -> None:
    found = read_detection_set(one_annotation(tmp_path, {"segmentation": segmentation}), allow=["no_box"])
    assert found.images[0].boxes_xyxy.tolist() == ([box] if box else [])
    assert len(found.dropped) == (0 if box else 1)


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"bbox": [1, 2, 3]},
        {"bbox": "1234"[:3]},
        {"segmentation": []},
        {"segmentation": [[1, 2, 3, 4]]},
        {"segmentation": [[1, 2, 3, 4, 5, 6, 7]]},
        {"segmentation": {"size": [20, 10], "counts": [200]}},
        {"segmentation": {"size": [10, 20], "counts": [199]}},
        {"segmentation": {"size": [10, 20], "counts": [-1, 201]}},
        {"segmentation": {"size": [10, 20], "counts": []}},
        {"segmentation": {"size": [10, 20], "counts": "`"}},
        {"segmentation": {"size": [10, 20], "counts": "é"}},
    ],
)
def test_annotations_that_cannot_be_read_are_named(tmp_path: Path, entry: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="annotation 41") as caught:
        read_detection_set(one_annotation(tmp_path, entry))
    assert "bbox" in caught.value.expected


@pytest.mark.parametrize("height", ["1e999", "null", '"x"', "[]", "0"])
def test_sizes_that_are_no_numbers_are_asked_of_the_image(tmp_path: Path, height: str) -> None:
    path = Path(one_annotation(tmp_path, {"bbox": [1, 2, 3, 4]}))
    path.write_text(path.read_text().replace('"height": 10', f'"height": {height}'))
    assert read_detection_set(str(path)).images[0].size_hw == (10, 20)


def one_annotation(folder: Path, entry: dict[str, Any]) -> str:
    picture(folder / "a.png")
    annotations = [{"id": 41, "image_id": 0, "category_id": 0, **entry}]
    return coco(folder / "set.json", {"a.png": ((10, 20), [])}, ["RBC"], annotations=annotations)
