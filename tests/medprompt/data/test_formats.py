"""The three formats say the same, whatever is in them."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medprompt.core.errors import DataError
from medprompt.data import DetectionSet, read_detection_set
from medprompt.data.find import finder_of_coco
from medprompt.data.yolo import label_file
from tests.medprompt.data.made import Box, coco, picture, voc, yolo

LABELS = ("RBC", "WBC")


@st.composite
def one_image(draw: st.DrawFn) -> tuple[tuple[int, int], list[Box]]:
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    boxes = []
    for _ in range(draw(st.integers(0, 3))):
        x, y = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
        right, bottom = draw(st.integers(x + 1, width)), draw(st.integers(y + 1, height))
        boxes.append((draw(st.sampled_from(LABELS)), x, y, right, bottom))
    return (height, width), boxes


def boxes_by_image(found: DetectionSet) -> dict[str, list[tuple[str, list[int]]]]:
    return {
        image.path.stem: [
            (found.labels[place], np.round(box, 3).tolist())
            for box, place in zip(image.boxes_xyxy, image.class_ids, strict=True)
        ]
        for image in found.images
    }


@settings(max_examples=25, deadline=None)
@given(st.lists(one_image(), min_size=1, max_size=3))
def test_what_is_written_is_read_in_every_format(images: list[tuple[tuple[int, int], list[Box]]]) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        by_stem = {f"image {n}.a": image for n, image in enumerate(images)}
        by_name = {f"{stem}.png": image for stem, image in by_stem.items()}
        for stem, (size_hw, _) in by_stem.items():
            for place in ("coco", "voc/JPEGImages", "yolo/images/val"):
                picture(folder / place / f"{stem}.png", size_hw)
        sources = [
            coco(folder / "coco/val.json", by_name, LABELS),
            voc(folder / "voc", "val", by_stem),
            yolo(folder / "yolo", "val", by_name, LABELS),
        ]
        wanted = {
            stem: [(label, list(map(float, box))) for label, *box in boxes] for stem, (_, boxes) in by_stem.items()
        }
        for source in sources:
            found = read_detection_set(source, allow=["no_box"])
            assert boxes_by_image(found) == wanted
            assert [image.size_hw for image in found.images] == [size_hw for size_hw, _ in images]
            assert found.dropped == ()


def test_voc_names_may_have_spaces_and_sizes_may_be_left_out(tmp_path: Path) -> None:
    picture(tmp_path / "JPEGImages/blood image 1.jpg", (10, 20))
    source = voc(tmp_path, "val", {"blood image 1": ((0, 0), [("RBC", 1, 2, 30, 4)])})
    found = read_detection_set(source).images[0]
    assert (found.size_hw, found.boxes_xyxy.tolist()) == ((10, 20), [[1, 2, 20, 4]])


@pytest.mark.parametrize("name", ["ghost.jpg", "", "deep/er.png"])
def test_looking_for_an_image(tmp_path: Path, name: str) -> None:
    picture(tmp_path / "images/deep/er.tif")
    found = finder_of_coco(tmp_path / "set.json").find(name)
    assert found.path == (tmp_path / "images/deep/er.tif" if name.startswith("deep") else None)


def yolo_of(folder: Path, content: dict[str, object], lines: str = "1 0.5 0.5 0.5 0.5") -> str:
    picture(folder / "images/val/a.png")
    (folder / "labels/val").mkdir(parents=True, exist_ok=True)
    (folder / "labels/val/a.txt").write_text(lines)
    (folder / "data.yaml").write_text(json.dumps(content))
    return f"{folder / 'data.yaml'}:val"


@pytest.mark.parametrize(
    "content",
    [
        {"val": "images/val", "names": ["RBC", "WBC"]},
        {"val": "images/val", "names": {"0": "RBC", "1": "WBC"}, "nc": 2},
        {"path": ".", "val": "images/val", "names": ["RBC", "WBC"]},
        {"path": "/somewhere/else", "val": ["images/val"], "names": ["RBC", "WBC"]},
        {"val": "../images/val", "names": ["RBC", "WBC"]},
        {"val": "list.txt", "names": ["RBC", "WBC"]},
        {"val": "lists/list.txt", "names": ["RBC", "WBC"]},
    ],
)
def test_yolo_files_as_they_are_met(tmp_path: Path, content: dict[str, object]) -> None:
    (tmp_path / "list.txt").write_text("./images/val/a.png\n\n")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/list.txt").write_text("images/val/a.png")
    source = yolo_of(tmp_path, content)
    text = (tmp_path / "data.yaml").read_text().replace('"0":', "0:").replace('"1":', "1:")
    (tmp_path / "data.yaml").write_text(text)
    found = read_detection_set(source)
    assert found.labels == ("RBC", "WBC")
    assert found.images[0].boxes_xyxy.tolist() == [[5, 2.5, 15, 7.5]]
    assert found.images[0].class_ids.tolist() == [1]


@pytest.mark.parametrize(
    ("lines", "boxes"),
    [
        ("", []),
        ("0 0.5 0.5 1 1\n\n1.0 0.25 0.5 0.1 0.2\n", [[0, 0, 20, 10], [4, 4, 6, 6]]),
        ("0 0.1 0.2 0.4 0.2 0.3 0.9", [[2, 2, 8, 9]]),  # a polygon
        ("0 1 0.5 0.5 0.5", [[15, 2.5, 20, 7.5]]),  # sticks out
        ("0 0.5 0.5 0 0.5", []),  # no area
    ],
)
def test_yolo_lines(tmp_path: Path, lines: str, boxes: list[list[float]]) -> None:
    source = yolo_of(tmp_path, {"val": "images/val", "names": ["RBC", "WBC"]}, lines)
    found = read_detection_set(source, allow=["no_box"])
    assert found.images[0].boxes_xyxy == pytest.approx(np.array(boxes).reshape(-1, 4), abs=1e-5)


def test_yolo_images_without_labels_and_on_their_side(tmp_path: Path) -> None:
    source = yolo_of(tmp_path, {"val": "images/val", "names": ["RBC"]}, "0 0.5 0.25 1 0.5")
    (tmp_path / "labels/val/b.txt").unlink(missing_ok=True)
    picture(tmp_path / "images/val/b.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (20, 10)).save(tmp_path / "images/val/a.jpg", exif=turned)
    (tmp_path / "images/val/a.png").unlink()
    first, second = read_detection_set(source).images
    assert (first.size_hw, first.boxes_xyxy.tolist()) == ((20, 10), [[0, 0, 10, 10]])
    assert (second.size_hw, second.boxes_xyxy.shape) == ((10, 20), (0, 4))


@pytest.mark.parametrize(
    ("content", "lines", "message"),
    [
        ({"val": "images/val"}, "", "names no classes"),
        ({"val": "images/val", "names": {"a": "RBC", "0": "WBC"}}, "", "have gaps"),
        ({"val": "images/val", "names": 5}, "", "does not say what its classes are"),
        ({"val": "images/val", "names": "RBC"}, "", "does not say what its classes are"),
        ({"val": "images/val", "names": ["RBC"], "nc": 2}, "", "does not say what its classes are"),
        ({"train": "images/val", "names": ["RBC"]}, "", "no such split"),
        ({"val": "images/nowhere", "names": ["RBC"]}, "", "are not found"),
        ({"val": "images/val", "names": ["RBC"]}, "0 0.5 0.5 0.5", "cannot be read"),
        ({"val": "images/val", "names": ["RBC"]}, "0.5 0.5 0.5 0.5 0.5", "cannot be read"),
        ({"val": "images/val", "names": ["RBC"]}, "0 a b c d", "cannot be read"),
        ({"val": "images/val", "names": ["RBC"]}, "1 0.5 0.5 0.5 0.5", "not declared"),
    ],
)
def test_bad_yolo_files(tmp_path: Path, content: dict[str, object], lines: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_detection_set(yolo_of(tmp_path, content, lines))
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "split", "message"),
    [
        (None, ":val", "cannot be read"),
        ("{", ":val", "cannot be read"),
        ("[1]", ":val", "names no classes"),
        ("{names: [a], train: x}", ":", "no such split"),
        ("{names: [a], train: x}", "", "no such split"),
        ("{names: [a], train: x}", ":names", "no such split"),
    ],
)
def test_bad_yolo_addresses(tmp_path: Path, text: str | None, split: str, message: str) -> None:
    if text is not None:
        (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_detection_set(f"{tmp_path / 'data.yaml'}{split}")
    if message == "no such split":
        assert caught.value.expected == "train"


def test_a_label_file_that_is_no_text(tmp_path: Path) -> None:
    source = yolo_of(tmp_path, {"val": "images/val", "names": ["RBC"]})
    (tmp_path / "labels/val/a.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="label file cannot be read"):
        read_detection_set(source)


@pytest.mark.parametrize("listing", [b"\xff\xfe\x00", b"\xe9", b"x\x00y"])
def test_voc_lists_that_are_no_text(tmp_path: Path, listing: bytes) -> None:
    source = voc(tmp_path, "val", {})
    (tmp_path / "ImageSets/Main/val.txt").write_bytes(listing)
    with pytest.raises(DataError, match=r"cannot be read|is missing"):
        read_detection_set(source)


@pytest.mark.parametrize("spoil", ["", "<annotation>", "<annotation><object/></annotation>"])
def test_bad_voc_files_are_named(tmp_path: Path, spoil: str) -> None:
    source = voc(tmp_path, "val", {"x y": ((10, 20), [])})
    (tmp_path / "Annotations/x y.xml").write_text(spoil)
    with pytest.raises(DataError, match=r"x y\.xml"):
        read_detection_set(source)


def test_a_listed_yolo_image_that_is_missing_or_no_image(tmp_path: Path) -> None:
    source = yolo_of(tmp_path, {"val": "list.txt", "names": ["RBC", "WBC"]})
    (tmp_path / "list.txt").write_text("images/val/gone.png")
    with pytest.raises(DataError, match="is missing"):
        read_detection_set(source)
    (tmp_path / "images/val/gone.png").write_text("no image")
    left = read_detection_set(source, allow=["no_box"])  # whoever opens it says that it cannot be read
    assert (left.images[0].size_hw, len(left.images[0].boxes_xyxy)) == ((0, 0), 0)


@pytest.mark.parametrize(
    ("image", "labels"),
    [
        ("a/images/train/x.jpg", "a/labels/train/x.txt"),
        ("images/images/x.jpg", "images/labels/x.txt"),
        ("photos/x.y.jpg", "photos/x.y.txt"),
        ("Images/val/x.jpg", "Labels/val/x.txt"),
        ("images/val/x.jpg", "label/val/x.txt"),
        ("images/val/Capture décran.jpg", "labels/val/Capture%20d%C3%A9cran.txt"),
        ("images/val/e\u0301.jpg", "labels/val/\xe9.txt"),
        ("images.jpg", "images.txt"),
    ],
)
def test_where_yolo_labels_lie(tmp_path: Path, image: str, labels: str) -> None:
    assert label_file(tmp_path / image, {}) is None
    (tmp_path / labels).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / labels).touch()
    assert label_file(tmp_path / image, {}) == tmp_path / labels
