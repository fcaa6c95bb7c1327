"""Masks of labelled objects: polygons and run lengths of COCO files and YOLO polygons, as pycocotools has them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as cocoapi

from medprompt.core.errors import DataError
from medprompt.core.masks import Masks
from medprompt.data import DetectionSet, read_detection_set
from medprompt.data.outlines import Outline, spans_of_polygon
from tests.medprompt.data.made import coco, picture

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools

WHOLE, TENTHS = st.integers(-9, 45).map(float), st.integers(-90, 450).map(lambda tenths: tenths / 10)
POLYGONS = st.lists(st.one_of(WHOLE, TENTHS, st.floats(-9, 45)), min_size=6, max_size=20).map(
    lambda values: values[: len(values) // 2 * 2]
)


@settings(deadline=None, max_examples=100)
@given(POLYGONS, st.integers(1, 40), st.integers(1, 40))
def test_polygons_have_the_pixels_that_pycocotools_finds(polygon: list[float], height: int, width: int) -> None:
    (theirs,) = cocoapi.frPyObjects([polygon], height, width)
    ours = Masks.of_spans([spans_of_polygon(np.array(polygon), (height, width))], (height, width))
    assert ours.rle(0)["counts"] == theirs["counts"].decode()


SQUARE = [2.0, 2.0, 8.0, 2.0, 8.0, 6.0, 2.0, 6.0]
PARTS = [[1.5, 1, 8, 2.2, 4, 9], [15, 0, 19, 0.5, 16, 3]]
RLE = {"size": [10, 20], "counts": [33, 4, 6, 4, 153]}
PACKED = {"size": [10, 20], "counts": Masks.of_rle([RLE], (10, 20)).rle(0)["counts"]}
SEGMENTATIONS: list[Any] = [[SQUARE], PARTS, RLE, PACKED]


def one_image(folder: Path, *entries: dict[str, Any], labels: tuple[str, ...] = ("RBC", "WBC")) -> str:
    picture(folder / "a.png")
    annotations = [
        {"id": n, "image_id": 0, "category_id": n % len(labels), "bbox": [1, 1, 9, 8], **entry}
        for n, entry in enumerate(entries)
    ]
    return coco(folder / "set.json", {"a.png": ((10, 20), [])}, labels, annotations=annotations)


def outlined(folder: Path, *more: dict[str, Any]) -> DetectionSet:
    entries = [{"segmentation": one} for one in SEGMENTATIONS]
    return read_detection_set(one_image(folder, *entries, *more))


def theirs(segmentation: Any) -> Any:
    if isinstance(segmentation, list):
        return cocoapi.decode(cocoapi.merge(cocoapi.frPyObjects(segmentation, 10, 20)))
    packed = cocoapi.frPyObjects(segmentation, 10, 20) if isinstance(segmentation["counts"], list) else segmentation
    return cocoapi.decode(packed)


def test_coco_files_keep_the_masks_of_their_objects(tmp_path: Path) -> None:
    found = outlined(tmp_path)
    assert found.masked
    wanted = np.array([theirs(one) for one in SEGMENTATIONS], bool)
    assert np.array_equal(np.array(list(found.images[0].masks)), wanted)


def test_masks_stay_with_their_objects(tmp_path: Path) -> None:
    found = outlined(tmp_path, {"segmentation": RLE, "iscrowd": 1, "category_id": 0})
    every = found.images[0].masks
    assert found.only("wbc").images[0].masks == every[[1, 3]]
    assert found.holding_out(["WBC"]).images[0].masks == every[[0, 2]]
    assert found.relabelled(["other", "WBC", "RBC"]).images[0].masks == every
    assert found.only("RBC").images[0].ignored_masks == Masks.of_rle([RLE], (10, 20))
    assert len(found.only("WBC").images[0].ignored_masks) == 0


@pytest.mark.parametrize("segmentation", [None, [], {}])
def test_an_object_without_an_outline_leaves_its_image_without_masks(tmp_path: Path, segmentation: Any) -> None:
    found = outlined(tmp_path, {"segmentation": segmentation})
    assert (found.masked, found.images[0].masks) == (False, None)


def test_a_crowd_that_is_only_a_box_is_its_whole_box(tmp_path: Path) -> None:
    found = outlined(tmp_path, {"bbox": [3.6, 2, 5, 4], "iscrowd": 1})
    assert found.masked
    assert found.images[0].ignored_masks.boxes_xyxy.tolist() == [[4, 2, 9, 6]]


def test_an_image_without_objects_has_no_masks_to_miss(tmp_path: Path) -> None:
    found = read_detection_set(one_image(tmp_path, {"segmentation": [SQUARE]}))
    empty = replace(found.images[0], boxes_xyxy=np.zeros((0, 4), np.float32), class_ids=np.zeros(0, int), outlines=())
    assert replace(found, images=(*found.images, empty)).masked
    assert len(empty.masks) == 0
    assert not replace(found, images=(empty,)).masked


@pytest.mark.parametrize(
    "segmentation",
    [
        [[1, 2, 3, 4]],
        [[1, 2, 3, 4, 5, 6, 7]],
        [[1, 2, "x", 4, 5, 6]],
        [[1, 2, float("nan"), 4, 5, 6]],
        [[0, 0, 1e300, 0, 5, 6]],
        "text",
        7,
        {"size": [20, 10], "counts": [200]},
        {"size": [10, 20], "counts": [199]},
        {"size": [10, 20], "counts": [-1, 201]},
        {"size": [10, 20], "counts": [10**30, 1]},
        {"size": [10, 20], "counts": "é"},
        {"counts": [200]},
    ],
)
def test_a_damaged_outline_is_named_where_its_pixels_are_asked_for(tmp_path: Path, segmentation: Any) -> None:
    """Boxes alone are read without it: the file states them."""
    found = read_detection_set(one_image(tmp_path, {"segmentation": segmentation}))
    assert found.images[0].boxes_xyxy.tolist() == [[1, 1, 10, 9]]
    with pytest.raises(DataError, match="outline of an object") as caught:
        _ = found.images[0].masks
    assert "annotation 0" in caught.value.where


def test_yolo_polygons_are_masks(tmp_path: Path) -> None:
    picture(tmp_path / "images/a.png")
    shares = [value / (10 if place % 2 else 20) for place, value in enumerate(SQUARE)]
    (tmp_path / "labels").mkdir()
    line = " ".join(map(str, shares))
    (tmp_path / "labels/a.txt").write_text(f"0 {line}\n0 {line}\n")
    (tmp_path / "data.yaml").write_text("names: [RBC]\ntrain: images\n")
    found = read_detection_set(f"{tmp_path}/data.yaml:train")
    assert [one.tolist() for one in found.images[0].masks] == [theirs([SQUARE]).astype(bool).tolist()] * 2
    (tmp_path / "labels/a.txt").write_text(f"0 {line}\n0 0.5 0.5 0.2 0.2\n")
    assert read_detection_set(f"{tmp_path}/data.yaml:train").images[0].masks is None


def test_outlines_of_a_large_file_are_kept_small(tmp_path: Path) -> None:
    found = read_detection_set(one_image(tmp_path, {"segmentation": [SQUARE]}))
    (outline,) = found.images[0].outlines
    assert isinstance(outline, Outline)
    assert not isinstance(outline.segmentation[0], list)
