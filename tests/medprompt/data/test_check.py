"""What a check of labelled data finds, one fault at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medprompt.core.errors import DataError, ImageError
from medprompt.data import faults
from medprompt.data.annotations import UNKNOWN
from medprompt.data.check import check_data, content_of_image
from medprompt.data.faults import duplicates
from medprompt.data.findings import SHOWN
from medprompt.prompts.file import prompts_from_raw
from tests.medprompt.data.made import Box, coco, picture, voc, yolo

SIZE = (10, 20)
GOOD: Box = ("RBC", 1, 2, 8, 9)


def one(folder: Path, *boxes: Box, **more: Any) -> str:
    picture(folder / "a.png")
    return coco(folder / "set.json", {"a.png": (SIZE, boxes)}, ["RBC", "WBC"], **more)


def kinds(source: str, *against: str, **more: Any) -> dict[str, int]:
    counts = check_data(source, against, **more).counts()
    counts.pop("no_box", None)  # most sets here have none, or none that is right
    return counts


@pytest.mark.parametrize(
    ("boxes", "counts"),
    [
        ([], {}),
        ([GOOD], {}),
        ([("RBC", 0, 0, 20, 10)], {}),  # the whole image
        ([("RBC", -0.5, -0.5, 20.5, 10.5)], {}),  # rounding
        ([("RBC", -0.6, 0, 5, 5)], {"outside": 1}),
        ([("RBC", 0, 0, 20.6, 5)], {"outside": 1}),
        ([("RBC", 0, 0, 5, 11)], {"outside": 1}),
        ([("RBC", 30, 30, 40, 40)], {"outside": 1}),
        ([("RBC", 5, 5, 5, 9)], {"zero_area": 1}),
        ([("RBC", 5, 5, 5, 5)], {"zero_area": 1}),
        ([("RBC", 9, 5, 5, 9)], {"zero_area": 1}),  # inside out
        ([("RBC", 25, 5, 25, 9)], {"zero_area": 1}),  # not outside as well
        ([("RBC", 0, 0, float("inf"), 9), GOOD], {"zero_area": 1}),
        ([GOOD, GOOD], {"duplicate": 1}),
        ([GOOD, GOOD, GOOD], {"duplicate": 3}),
        ([GOOD, ("WBC", 1, 2, 8, 9)], {}),  # another class
        ([("RBC", 0, 0, 20, 10), ("RBC", 0, 0, 19, 10)], {}),  # IoU 0.95, not over it
        ([("RBC", 0, 0, 20, 10), ("RBC", 0, 0, 19.2, 10)], {"duplicate": 1}),
        ([("RBC", 5, 5, 5, 9), ("RBC", 5, 5, 5, 9), GOOD, GOOD], {"zero_area": 2, "duplicate": 1}),
    ],
)
def test_boxes(tmp_path: Path, boxes: list[Box], counts: dict[str, int]) -> None:
    assert kinds(one(tmp_path, *boxes)) == counts


def test_details_name_the_box(tmp_path: Path) -> None:
    found = check_data(one(tmp_path, ("WBC", 5, 5, 5, 9), ("RBC", 0, 0, 5, 10.75), GOOD, GOOD)).findings
    assert [finding.detail for finding in found] == [
        "WBC [5, 5, 5, 9]",
        "RBC [0, 0, 5, 10.75] in an image of 20 x 10",
        "RBC [1, 2, 8, 9] and [1, 2, 8, 9]",
    ]
    assert {finding.where for finding in found} == {"a.png"}


def test_a_side_that_is_no_number(tmp_path: Path) -> None:
    picture(tmp_path / "JPEGImages/x.jpg")
    assert kinds(voc(tmp_path, "val", {"x": (SIZE, [("RBC", "", 1, 2, 3)])})) == {"zero_area": 1}  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("more", "detail"),
    [
        ({"category_id": 9}, "no category has the id 9"),
        ({"image_id": 9}, "no image has the id 9"),
    ],
)
def test_what_is_not_declared(tmp_path: Path, more: dict[str, int], detail: str) -> None:
    entry = {"id": 4, "image_id": 0, "category_id": 0, "bbox": [1, 2, 3, 4], **more}
    source = one(tmp_path, annotations=[entry])
    found = [finding.detail for finding in check_data(source).findings if finding.kind == "undeclared"]
    assert found == [f"annotation 4: {detail}"]


def test_two_images_with_one_id(tmp_path: Path) -> None:
    entry = {"id": 0, "file_name": "a.png", "height": 10, "width": 20}
    found = check_data(one(tmp_path, images=[entry, entry])).findings
    assert [(finding.kind, finding.detail) for finding in found][:2] == [
        ("duplicate_id", "several images have the id 0"),
        ("repeated_image", "a.png, 2 times"),
    ]


def test_yolo_classes_that_are_not_declared(tmp_path: Path) -> None:
    picture(tmp_path / "images/val/a.png")
    source = yolo(tmp_path, "val", {"a.png": (SIZE, [])}, ["RBC"])
    (tmp_path / "labels/val/a.txt").write_text("1 0.5 0.5 0.5 0.5\n-1 0.5 0.5 0.5 0.5\n")
    found = check_data(source)
    assert found.counts() == {"undeclared": 2}  # and no duplicate: nobody knows whether they are of one class
    assert found.sets[0].boxes == {"RBC": 0}


def test_images_that_are_missing_damaged_or_of_another_size(tmp_path: Path) -> None:
    names = ("good.png", "gone.png", "bad.png", "other.png")
    for seed, name in enumerate(names):
        picture(tmp_path / name, SIZE, seed)
    (tmp_path / "gone.png").unlink()
    (tmp_path / "bad.png").write_bytes((tmp_path / "good.png").read_bytes()[:60])
    picture(tmp_path / "other.png", (20, 10), 3)
    source = coco(tmp_path / "set.json", {name: (SIZE, [GOOD]) for name in names}, ["RBC"])
    found = check_data(source)
    assert found.counts() == {"missing_image": 1, "unreadable_image": 1, "other_size": 1}
    assert not found.passed
    by_kind = {finding.kind: finding for finding in found.findings}
    assert by_kind["missing_image"].detail == f"gone.png; looked in {tmp_path}"
    assert by_kind["other_size"].detail == "the labels say 20 x 10, the image is 10 x 20"
    assert (found.sets[0].images, found.sets[0].boxes, found.sets[0].without_boxes) == (4, {"RBC": 4}, 0)
    with pytest.raises(DataError, match="is missing"):
        check_data(source, strict=True)
    picture(tmp_path / "gone.png", SIZE, 1)
    with pytest.raises(ImageError, match="cannot be read"):
        check_data(source, strict=True)


def test_an_empty_split_and_images_without_boxes(tmp_path: Path) -> None:
    empty = coco(tmp_path / "empty.json", {}, ["RBC"])
    assert kinds(empty) == {"empty_split": 1}
    bare = check_data(one(tmp_path))
    assert (bare.passed, bare.sets[0].without_boxes) == (False, 1)
    assert bare.as_json()["fatal"] == ["no_box"]
    picture(tmp_path / "b.png", SIZE, 1)
    some = coco(tmp_path / "some.json", {"a.png": (SIZE, [GOOD]), "b.png": (SIZE, [])}, ["RBC"])
    assert (check_data(some).passed, check_data(some).sets[0].without_boxes) == (True, 1)
    assert kinds(one(tmp_path), empty) == {"empty_split": 1}


def test_the_same_image_twice_and_in_another_set(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", SIZE, 1)
    Image.open(tmp_path / "a.png").save(tmp_path / "b.bmp")  # other bytes, the same pixels
    picture(tmp_path / "c.png", SIZE, 2)
    train = coco(tmp_path / "train.json", {name: (SIZE, []) for name in ("a.png", "c.png")}, ["RBC"])
    test = coco(tmp_path / "test.json", {"b.bmp": (SIZE, [])}, ["RBC"])
    both = coco(tmp_path / "both.json", {name: (SIZE, []) for name in ("a.png", "b.bmp")}, ["RBC"])
    assert kinds(train) == {}
    assert kinds(both) == {"repeated_image": 1}
    found = check_data(train, [test, both])
    assert found.counts() == {"no_box": 1, "shared_image": 2}
    assert found.findings[1].detail == "a.png = b.bmp"
    assert [each.name for each in found.sets] == [train, test, both]
    assert found.as_json()["counts"] == {"no_box": 1, "shared_image": 2}


def test_damaged_images_are_compared_by_their_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    one_set = coco(tmp_path / "a.json", {"a.png": (SIZE, [])}, ["RBC"])
    other = coco(tmp_path / "b.json", {"a.png": (SIZE, [])}, ["RBC"])
    assert kinds(one_set, other) == {"unreadable_image": 2, "shared_image": 1}


def test_only_the_first_set_has_its_boxes_looked_at(tmp_path: Path) -> None:
    picture(tmp_path / "other/b.png", SIZE, 5)
    other = coco(tmp_path / "other/set.json", {"b.png": (SIZE, [("RBC", 5, 5, 5, 5)])}, ["RBC"])
    assert kinds(one(tmp_path, GOOD), other) == {}


@pytest.mark.parametrize(
    ("label", "counts"), [("rbc", {"unused_category": 1}), ("x", {"class_without_phrase": 1, "unused_category": 1})]
)
def test_classes_that_no_phrase_covers(tmp_path: Path, label: str, counts: dict[str, int]) -> None:
    prompts = prompts_from_raw({"classes": [{"label": label, "phrases": ["a cell"]}]}, "test")
    assert kinds(one(tmp_path, GOOD), prompts=prompts) == counts


def test_pairs_of_boxes() -> None:
    assert duplicates(np.zeros((0, 4)), np.zeros(0, dtype=np.int64)) == []
    boxes = np.array([[0, 0, 9, 9], [0, 0, 9, 9], [0, 0, 9, 9.1]], dtype=np.float64)
    assert duplicates(boxes, np.array([0, 1, 0])) == [(0, 2)]
    assert duplicates(boxes, np.array([UNKNOWN, UNKNOWN, 0])) == []


@settings(max_examples=30)
@given(st.lists(st.integers(0, 5), max_size=40), st.integers(1, 7))
def test_pairs_do_not_depend_on_how_many_are_compared_at_once(places: list[int], rows: int) -> None:
    boxes = np.array([[x, 0, x + 4, 4] for x in places], dtype=np.float64).reshape(-1, 4)
    wanted = [(a, b) for a in range(len(places)) for b in range(a + 1, len(places)) if places[a] == places[b]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(faults, "ROWS", rows)
        assert duplicates(boxes, np.zeros(len(places), dtype=np.int64)) == wanted


def test_content_is_of_pixels_and_shape(tmp_path: Path) -> None:
    for name, size in {"a.png": (4, 2), "b.png": (2, 4)}.items():
        Image.new("RGB", size).save(tmp_path / name)
    (first, first_size), (second, second_size) = (content_of_image(tmp_path / name) for name in ("a.png", "b.png"))
    assert first != second
    assert (first_size, second_size) == ((2, 4), (4, 2))


def test_tables_show_some_and_json_all(tmp_path: Path) -> None:
    found = check_data(one(tmp_path, *[("RBC", 5.0, 5.0, 5.0, 5.0)] * (SHOWN + 2)))
    rows = found.finding_rows()
    assert (len(rows), rows[-1]) == (SHOWN + 2, ("zero_area (fatal)", "…", "and 2 more"))
    assert len(found.as_json()["findings"]) == SHOWN + 3
    assert found.set_rows() == [(str(tmp_path / "set.json"), 1, 0, "RBC 22, WBC 0", 0)]
