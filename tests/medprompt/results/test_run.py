"""Results files and overlays: a failed image is never one without findings, and nothing is half-written."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medprompt.core.detections import Detections
from medprompt.core.errors import InputError
from medprompt.core.overlay import COLOURS, draw_overlay, save_overlay
from medprompt.results.coco import write_coco
from medprompt.results.run import Item, Run, write_csv, write_results


def detections(boxes: list[list[float]], class_ids: list[int], size_hw: tuple[int, int] = (50, 40)) -> Detections:
    count = len(boxes)
    return Detections(
        np.array(boxes, dtype=np.float32).reshape(count, 4),
        np.linspace(0.9, 0.5, count, dtype=np.float32),
        np.array(class_ids, dtype=np.int64),
        np.array(class_ids, dtype=np.int64),
        ("RBC", "WBC"),
        ("red cell", "white cell"),
        size_hw,
    )


FOUND = Item(Path("a/one.png"), detections([[1, 2, 11, 22], [-3, 0, 5.25, 60]], [1, 0]), overlay=Path("o/one.png"))
EMPTY = Item(Path("b/two.png"), detections([], []))
FAILED = Item(Path("c/three.png"), None, "The engine failed.")
REFUSED = Item(Path("d/four.dcm"), None, "No pixels.", code="no_pixels", sha256="f" * 64)
MINDED = Item(Path("e/five.dcm"), detections([], []), frame=3, warnings=("not square",), dicom={"frame": 3})
RUN = Run(
    (FOUND, EMPTY, FAILED, REFUSED, MINDED),
    ("RBC", "WBC"),
    "b" * 64,
    "p" * 64,
    "fake",
    "asked for",
    (("x", "no"),),
    (0.2, 0.3),
    "Research",
)


def test_statuses() -> None:
    assert [item.status for item in RUN.items] == ["OK", "OK", "ERROR", "REJECTED", "OK_WITH_WARNINGS"]
    assert [item.counts() for item in RUN.items] == ["1 WBC, 1 RBC", "none", "not known", "not known", "none"]
    assert RUN.failed == (FAILED, REFUSED)
    assert [item.name for item in RUN.items[-2:]] == ["d/four.dcm", "e/five.dcm#frame 3"]


def test_results_file(tmp_path: Path) -> None:
    write_results(RUN, tmp_path / "deep" / "r.json")
    read = json.loads((tmp_path / "deep" / "r.json").read_text())
    assert {
        key: read[key] for key in ("schema_version", "bundle_sha256", "bank_sha256", "engine", "engine_reason")
    } == {
        "schema_version": 2,
        "bundle_sha256": "b" * 64,
        "bank_sha256": "p" * 64,
        "engine": "fake",
        "engine_reason": "asked for",
    }
    assert read["engine_rejected"] == [{"device": "x", "reason": "no"}]
    assert read["classes"] == [{"label": "RBC", "threshold": 0.2}, {"label": "WBC", "threshold": 0.3}]
    assert read["complete"] is True
    found, empty, failed, refused, minded = read["items"]
    assert found["detections"][0] == {
        "label": "WBC",
        "score": 0.9,
        "box_xyxy": [1, 2, 11, 22],
        "phrase": "white cell",
    }
    assert (found["size_hw"], found["error"], found["overlay"]) == ([50, 40], None, "o/one.png")
    assert (empty["status"], empty["detections"], empty["overlay"]) == ("OK", [], None)
    assert (failed["status"], failed["detections"], failed["size_hw"]) == ("ERROR", None, None)
    assert (failed["error"], failed["code"], failed["sha256"]) == ("The engine failed.", None, None)
    assert (refused["status"], refused["code"], refused["detections"]) == ("REJECTED", "no_pixels", None)
    assert (minded["status"], minded["frame"], minded["warnings"]) == ("OK_WITH_WARNINGS", 3, ["not square"])
    assert (minded["dicom"], minded["detections"]) == ({"frame": 3}, [])


def test_csv(tmp_path: Path) -> None:
    """A row a detection; one for an item without, and its status says whether that means "nothing found"."""
    write_csv(RUN, tmp_path / "deep" / "c.csv")
    with (tmp_path / "deep" / "c.csv").open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [(row["file"], row["frame"], row["status"], row["code"], row["label"]) for row in rows] == [
        ("a/one.png", "", "OK", "", "WBC"),
        ("a/one.png", "", "OK", "", "RBC"),
        ("b/two.png", "", "OK", "", ""),
        ("c/three.png", "", "ERROR", "", ""),
        ("d/four.dcm", "", "REJECTED", "no_pixels", ""),
        ("e/five.dcm", "3", "OK_WITH_WARNINGS", "", ""),
    ]
    sides = ("score", "left", "top", "right", "bottom", "phrase", "height", "width")
    assert [rows[1][side] for side in sides] == ["0.5", "-3.0", "0.0", "5.25", "60.0", "red cell", "50", "40"]
    assert [rows[3][side] for side in sides] == [""] * 8
    assert (rows[5]["warnings"], rows[5]["height"], rows[5]["score"]) == ("not square", "50", "")


def test_an_unwritable_place_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for write in (write_results, write_coco, write_csv):
        with pytest.raises(InputError, match="cannot be written"):
            write(RUN, tmp_path / "file" / "out.json")


@pytest.mark.parametrize(
    ("size_hw", "drawn"),
    [
        ((50, 40), (650, 520)),
        ((640, 480), (640, 480)),
        ((480, 640), (480, 640)),
        ((1, 1), (640, 640)),
        ((700, 3), (700, 3)),
    ],
)
def test_small_images_are_enlarged(size_hw: tuple[int, int], drawn: tuple[int, int]) -> None:
    picture = draw_overlay(np.zeros((*size_hw, 3), np.uint8), detections([], [], size_hw))
    assert (picture.height, picture.width) == drawn


def test_boxes_have_the_colour_of_their_class() -> None:
    found = detections([[10, 60, 30, 80], [100, 160, 150, 200]], [0, 1], (640, 640))
    picture = np.asarray(draw_overlay(np.zeros((640, 640, 3), np.uint8), found))
    for (x, y), class_id in (((10, 70), 0), ((30, 70), 0), ((20, 80), 0), ((150, 190), 1), ((120, 200), 1)):
        assert "#{:02X}{:02X}{:02X}".format(*picture[y, x]) == COLOURS[class_id]
    assert picture[70, 20].tolist() == [0, 0, 0]
    assert picture[630, 630].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "box",
    [
        [-50, -50, 900, 900],
        [-90, -90, -10, -10],
        [700, 700, 800, 800],
        [30, 30, 10, 10],
        [5, 5, 5, 5],
        [639, 639, 640, 640],
    ],
    ids=["larger", "off the left", "off the right", "inside out", "a point", "the corner"],
)
@pytest.mark.parametrize("size_hw", [(640, 640), (7, 9), (1, 1)])
def test_any_box_can_be_drawn(box: list[float], size_hw: tuple[int, int]) -> None:
    image = np.full((*size_hw, 3), 128, np.uint8)
    before = image.copy()
    draw_overlay(image, detections([box], [1], size_hw))
    np.testing.assert_array_equal(image, before)


def test_overlays_are_png_files(tmp_path: Path) -> None:
    picture = draw_overlay(np.zeros((50, 40, 3), np.uint8), FOUND.detections or detections([], []))
    save_overlay(picture, tmp_path / "deep" / "o.png")
    with Image.open(tmp_path / "deep" / "o.png") as read:
        assert (read.format, read.size) == ("PNG", (520, 650))
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["o.png"]
