"""The same two pictures as real files have them: each layout gives the same figures, or is refused, or is warned of."""

from __future__ import annotations

import ast
import hashlib
import json
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

import medprompt.data
from medprompt import Detections
from medprompt.core.errors import DataError, InputError
from medprompt.data import read_detection_set
from medprompt.data.check import check_data
from medprompt.images.read import load_image
from medprompt.metrics.coco import measure_accuracy
from tests.medprompt.data.made import Box, coco, picture, voc, yolo

LABELS = ("RBC", "WBC")
SIZE = (240, 300)
BOXES: dict[str, list[Box]] = {
    "one": [("RBC", 10, 20, 60, 70), ("RBC", 100, 30, 150, 90), ("WBC", 200, 100, 280, 180), ("RBC", 5, 150, 40, 200)],
    "two": [("WBC", 20, 20, 99, 99), ("RBC", 150, 150, 190, 200), ("RBC", 200, 20, 250, 60), ("WBC", 30, 140, 99, 220)],
}  # fmt: skip
SEEDS = {"one": 1, "two": 2}
AP = 0.569142
"""Of the detections below, by pycocotools too."""

Content = dict[str, Any]
Change = Callable[[Path, Content], str | None]


def detect(path: Path) -> Detections:
    """Scripted: known by its pixels, each object a bit off, one under the wrong name, one where nothing is."""
    pixels = hashlib.sha256(load_image(path).tobytes()).hexdigest()
    rows = [(*box[1:], LABELS.index(box[0])) for box in BOXES[KNOWN[pixels]]] if pixels in KNOWN else []
    rows += [(150, 200, 190, 230, 0)]
    boxes = np.array([row[:4] for row in rows], np.float32) + np.float32([3, -2, 1, 4])
    ids = np.array([row[4] for row in rows])
    ids[0] = 0
    scores = np.linspace(0.9, 0.3, len(rows), dtype=np.float32)
    return Detections(boxes, scores, ids, np.zeros(len(rows), np.int64), LABELS, ("x",), SIZE)


def pixels_of(folder: Path, name: str) -> str:
    return hashlib.sha256(load_image(picture(folder / "x.png", SIZE, SEEDS[name])).tobytes()).hexdigest()


@pytest.fixture(scope="module", autouse=True)
def known(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("known")
    KNOWN.update({pixels_of(folder, name): name for name in SEEDS})


KNOWN: dict[str, str] = {}


def accuracy(source: str, **more: Any) -> float:
    found = read_detection_set(source, **more).relabelled(LABELS)
    return measure_accuracy(found, [detect(image.path) for image in found.images]).ap


def base(folder: Path, images: str = "images") -> Content:
    for name, seed in SEEDS.items():
        picture(folder / images / f"{name}.png", SIZE, seed)
    source = coco(folder / "all.json", {f"{name}.png": (SIZE, boxes) for name, boxes in BOXES.items()}, LABELS)
    content: Content = json.loads(Path(source).read_text())
    Path(source).unlink()
    return content


def written(content: Content, path: Path, encoding: str = "utf-8") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(json.dumps(content).encode(encoding))
    return str(path)


def each(content: Content, part: str, **values: Any) -> None:
    for entry in content[part]:
        entry.update({key: value(entry) if callable(value) else value for key, value in values.items()})


def polygon(entry: Content) -> list[list[float]]:
    x, y, w, h = entry["bbox"]
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


def strangers(folder: Path) -> None:
    for name, seed in SEEDS.items():
        picture(folder / f"{name}.png", SIZE, seed + 10)


def moved(folder: Path, to: str) -> None:
    (folder / "images").rename(folder / "aside")
    (folder / to).parent.mkdir(parents=True, exist_ok=True)
    (folder / "aside").rename(folder / to)


def change_names(content: Content, name: Callable[[str], str]) -> None:
    each(content, "images", file_name=lambda entry: name(entry["file_name"]))


def merge(content: Content, *names: str) -> None:
    """Spread the objects of the first category over several of such names."""
    content["categories"] += [{"id": 70 + n, "name": name} for n, name in enumerate(names)]
    for n, entry in enumerate(entry for entry in content["annotations"] if entry["category_id"] == 0):
        entry["category_id"] = [0, *(70 + place for place in range(len(names)))][n % (len(names) + 1)]


def same_layout(place: str, labels: str) -> Change:
    def change(folder: Path, content: Content) -> str:
        moved(folder, place)
        return written(content, folder / labels)

    return change


def renamed(name: Callable[[str], str], on_disk: Callable[[str], str] = lambda text: text) -> Change:
    def change(folder: Path, content: Content) -> None:
        for path in list((folder / "images").iterdir()):
            path.rename(folder / "images" / on_disk(path.name))
        change_names(content, name)

    return change


def entries(part: str, **values: Any) -> Change:
    return lambda folder, content: each(content, part, **values)


def encoded(encoding: str, name: str = "all.json") -> Change:
    return lambda folder, content: written(content, folder / name, encoding)


def trap(images: str, others: str, labels: str) -> Change:
    """Images here, other pictures of the same names there."""

    def change(folder: Path, content: Content) -> str:
        moved(folder, images)
        strangers(folder / others)
        return written(content, folder / labels)

    return change


def exif(turn: int, stored: bool = False) -> Change:
    """Files with an EXIF turn, of which the labels are upright; ``stored``: the pixels lie so that it is right."""

    def change(folder: Path, content: Content) -> None:
        tag = Image.Exif()
        tag[0x0112] = turn
        for path in (folder / "images").iterdir():
            image = Image.open(path).copy()
            (image.rotate(90, expand=True) if stored else image).save(path, exif=tag)

    return change


SAME: dict[str, Change] = {
    "plain": lambda folder, content: None,
    "polygons and no box": lambda folder, content: [
        entry.update(segmentation=polygon(entry)) or entry.pop("bbox") for entry in content["annotations"]
    ]
    and None,
    "boxes of zeros beside polygons": entries("annotations", segmentation=polygon, bbox=[0, 0, 0, 0]),
    "iscrowd as text": entries("annotations", iscrowd="0"),
    "iscrowd false": entries("annotations", iscrowd=False),
    "sizes 0": entries("images", width=0, height=0),
    "sizes null": entries("images", width=None, height=None),
    "sizes as text": entries("images", width="300", height="240.0"),
    "category names with blanks": entries("categories", name=lambda entry: f" {entry['name']} "),
    "an unused category": lambda folder, content: content["categories"].insert(0, {"id": 99, "name": "cells"}),
    "UTF-8 with a mark": encoded("utf-8-sig"),
    "UTF-16": encoded("utf-16"),
    "capital suffix": encoded("utf-8", "ALL.JSON"),
    "train.json and train/": trap("train", "val", "train.json"),
    "val.json and val/": trap("val", "train", "val.json"),
    "val.json and valid/": trap("valid", "train", "val.json"),
    "COCO": trap("val2017", "train2017", "annotations/instances_val2017.json"),
    "CVAT": same_layout("images", "annotations/instances_default.json"),
    "CVAT with a subset": trap("images/default", "images/other", "annotations/instances_default.json"),
    "FiftyOne": same_layout("data", "labels.json"),
    "test/": same_layout("test", "all.json"),
    "Roboflow": same_layout("train", "train/_annotations.coco.json"),
    "backslashes": renamed(lambda name: f"images\\{name}"),
    "blanks after names": renamed(lambda name: f"{name} \n"),
    "addresses of a server": renamed(lambda name: f"https://bucket.example.org/set/{name}?Signature=ab%2Fc"),
    "addresses of a store": renamed(lambda name: f"s3://bucket/set/{name}"),
    "a circle of links beside": lambda folder, content: (folder / "images/x.png").symlink_to("x.png") and None,
    "category names with what nobody sees": entries("categories", name=lambda entry: f"{entry['name']}\u200b"),
    "iscrowd unspecified": entries("annotations", iscrowd="Unspecified"),
    "wider boxes than their outlines": entries(
        "annotations", segmentation=lambda one: polygon({"bbox": [one["bbox"][0] + 9, one["bbox"][1] + 9, 12, 12]})
    ),
    "percent signs": renamed(lambda name: quote(f"é {name}"), lambda name: f"é {name}"),
    "composed and decomposed letters": renamed(
        lambda name: f"\xe9{name}", lambda name: unicodedata.normalize("NFD", f"\xe9{name}")
    ),
    "another machine's folders": renamed(lambda name: f"/content/drive/My Drive/{name}"),
    "a Windows path": renamed(lambda name: f"D:\\data\\{name}"),
    "Label Studio's address": renamed(lambda name: f"data/local-files/?d=images/{name}"),
    "capital suffix of the file": renamed(lambda name: name, lambda name: name.replace(".png", ".PNG")),
    "numbers that look like a suffix": renamed(
        lambda name: f"frame.000{SEEDS[name[:3]]}", lambda name: f"frame.000{SEEDS[name[:3]]}.png"
    ),
    "copies in two folders": lambda folder, content: shutil.copytree(folder / "images", folder / "JPEGImages") and None,
    "upright labels of turned files": exif(6, stored=True),
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_what_is_right_gives_the_same_figures(tmp_path: Path, name: str) -> None:
    content = base(tmp_path)
    source = SAME[name](tmp_path, content) or written(content, tmp_path / "all.json")
    assert accuracy(source) == pytest.approx(AP, abs=1e-6)
    assert check_data(source).passed
    assert read_detection_set(source).warnings == ()


WARNED: dict[str, tuple[Change, str]] = {
    "a category twice": (lambda folder, content: merge(content, "RBC"), "merged_category"),
    "in another case": (lambda folder, content: merge(content, "rbc", " Rbc"), "merged_category"),
    "turned boxes": (entries("annotations", attributes={"rotation": 30.0}), "rotated"),
    "scores": (entries("annotations", score=0.5), "scored"),
    "an empty annotation": (
        lambda folder, content: content["annotations"].append(
            {"image_id": 0, "category_id": 0, "bbox": [0, 0, 0, 0], "segmentation": []}
        ),
        "zero_area",
    ),
    "another suffix": (renamed(lambda name: name.replace("png", "jpg")), "other_name"),
}  # fmt: skip


@pytest.mark.parametrize("name", WARNED)
def test_what_is_odd_gives_the_same_figures_and_a_warning(tmp_path: Path, name: str) -> None:
    change, kind = WARNED[name]
    content = base(tmp_path)
    source = change(tmp_path, content) or written(content, tmp_path / "all.json")
    assert accuracy(source) == pytest.approx(AP, abs=1e-6)
    assert list(check_data(source).counts()) == [kind]
    assert kind in read_detection_set(source).warnings[0]


def scale(entry: Content, x: float, y: float) -> list[float]:
    return [value * factor for value, factor in zip(entry["bbox"], (x, y, x, y), strict=True)]


def corners(entry: Content) -> list[float]:
    x, y, w, h = entry["bbox"]
    return [x, y, x + w, y + h]


def centre(entry: Content) -> list[float]:
    x, y, w, h = entry["bbox"]
    return [x + w / 2, y + h / 2, w, h]


REFUSED: dict[str, tuple[Change, str]] = {
    "no object": (lambda folder, content: content.update(annotations=[]), "no_box"),
    "all crowds": (entries("annotations", iscrowd=1), "no_box"),
    "all without area": (entries("annotations", bbox=[5, 5, 0, 9]), "no_box"),
    "shares": (entries("annotations", bbox=lambda entry: scale(entry, 1 / 300, 1 / 240)), "tiny"),
    "corners in shares": (entries("annotations", bbox=[0.1, 0.2, 0.9, 0.95]), "tiny"),
    "corners beside outlines": (entries("annotations", segmentation=polygon, bbox=corners), "other_outline"),
    "centres beside outlines": (entries("annotations", segmentation=polygon, bbox=centre), "other_outline"),
    "corners beside areas": (
        entries("annotations", area=lambda one: one["bbox"][2] * one["bbox"][3], bbox=corners),
        "other_outline",
    ),
    "outlines in shares": (
        entries("annotations", segmentation=lambda one: [[value / 300 for value in polygon(one)[0]]]),
        "other_outline",
    ),
    "swapped sizes": (entries("images", width=240, height=300), "other_size"),
    "halved sizes": (entries("images", width=150, height=120), "other_size"),
    "labels of the stored frame": (exif(6), "other_size"),
    "a missing image": (lambda folder, content: (folder / "images/one.png").unlink(), "missing_image"),
    "an image of another split": (trap("val", "x", "train.json"), ""),
    "names that lose their numbers": (
        renamed(lambda name: f"frame.000{SEEDS[name[:3]]}", lambda name: name.replace("one", "frame")),
        "missing_image",
    ),
    "two names for one file": (
        lambda folder, content: change_names(content, lambda name: f"{name[:3]}/one.png"),
        "ambiguous_image",
    ),
    "two different files": (lambda folder, content: strangers(folder), "ambiguous_image"),
    "no such image id": (entries("annotations", image_id="0"), "undeclared"),
    "no such category": (entries("annotations", category_id=None), "undeclared"),
    "one id for two categories": (
        lambda folder, content: content["categories"].append({"id": 0, "name": "dot"}),
        "duplicate_id",
    ),
    "one id for two images": (entries("images", id=0), "duplicate_id"),
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name, (_, kind) in REFUSED.items() if kind])
def test_what_would_make_figures_meaningless_is_refused_by_name(tmp_path: Path, name: str) -> None:
    change, kind = REFUSED[name]
    content = base(tmp_path)
    source = change(tmp_path, content) or written(content, tmp_path / "all.json")
    with pytest.raises(DataError) as caught:
        read_detection_set(source)
    assert kind in caught.value.got
    found = check_data(source)
    assert kind in found.as_json()["fatal"]
    assert not found.passed
    if kind in ("undeclared", "duplicate_id"):
        assert "allow" not in caught.value.fix
        with pytest.raises(InputError, match="cannot be allowed"):
            read_detection_set(source, allow=[kind])
    else:
        assert f"allow={kind}" in caught.value.fix
        assert any(kind in line for line in read_detection_set(source, allow=found.as_json()["fatal"]).warnings)


def test_pictures_of_another_split_are_not_taken(tmp_path: Path) -> None:
    content = base(tmp_path, "val")
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match="is missing"):
        read_detection_set(written(content, tmp_path / "train.json"))
    change_names(content, lambda name: f"train/{name}")
    with pytest.raises(DataError, match="is missing"):
        read_detection_set(written(content, tmp_path / "all.json"))


def test_images_in_a_folder_of_their_own(tmp_path: Path) -> None:
    content = base(tmp_path / "far", "pictures")
    strangers(tmp_path / "images")
    source = written(content, tmp_path / "all.json")
    assert accuracy(source, images=tmp_path / "far/pictures") == pytest.approx(AP, abs=1e-6)
    assert check_data(source, images=tmp_path / "far/pictures").passed


def test_percent_of_the_image(tmp_path: Path) -> None:
    content = base(tmp_path)
    each(content, "annotations", bbox=lambda entry: scale(entry, 100 / 300, 100 / 240))
    content["annotations"] += [dict(entry, bbox=[n, n, 9, 9]) for n, entry in enumerate(content["annotations"])]
    with pytest.raises(DataError, match="percent"):
        read_detection_set(written(content, tmp_path / "all.json"))


@pytest.mark.parametrize("most", [4, 5])
def test_many_boxes_outside_are_no_accident(tmp_path: Path, most: int) -> None:
    content = base(tmp_path)
    content["annotations"] += [dict(entry) for entry in content["annotations"][:2] * 6]
    for n, entry in enumerate(content["annotations"]):
        entry["bbox"] = [250, 200, 80, 80] if n < 2 * most + 1 else [5 * n, 5 * n, 40, 40]
    source = written(content, tmp_path / "all.json")
    assert ("outside" in check_data(source).as_json()["fatal"]) == (most == 5)


@pytest.mark.parametrize("turn", [2, 3, 4])
def test_turns_that_no_size_shows_are_told(tmp_path: Path, turn: int) -> None:
    content = base(tmp_path)
    exif(turn)(tmp_path, content)
    source = written(content, tmp_path / "all.json")
    assert check_data(source).counts() == {"exif_turn": 2}
    assert "exif_turn 2" in read_detection_set(source).warnings[0]


FOREIGN: list[tuple[Any, str]] = [
    ([{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 0.5}], "COCO results"),
    ([{"id": 1, "data": {"image": "a.png"}, "annotations": []}], "Label Studio"),
    ({"type": "FeatureCollection", "features": []}, "GeoJSON"),
    ({"a.png1": {"filename": "a.png", "regions": []}}, "VIA"),
    ({"_via_settings": {}, "_via_img_metadata": {}}, "VIA"),
    ({"training": [{"image": "a.nii", "box": []}]}, "MONAI"),
    ({"description": "", "tags": [], "size": {}, "objects": []}, "Supervisely"),
    ({"version": "5", "shapes": [], "imagePath": "a.png"}, "labelme"),
    ([{"id": 1, "data": {"image": "a.png"}, "predictions": []}], "Label Studio"),
    ([{"id": 1, "image": "a.png", "label": []}], "Label Studio"),
    ({"categories": [], "info": {}}, "Label Studio"),
    ([{"imagefilename": "a.png", "annotation": []}], "CreateML"),
    ({"project": {}, "file": {}, "metadata": {}}, "VIA 3"),
    ({"assets": {}, "tags": []}, "VoTT"),
    ([{"name": "a.png", "labels": []}], "BDD100K"),
    ({"version": "2.0", "item": {}, "annotations": []}, "Darwin"),
    ([{"file_name": "a.png", "annotations": []}], "Detectron2"),
    ([{"filename": "a.png", "ann": {}}], "MMDetection"),
    ({"metainfo": {}, "data_list": []}, "OpenMMLab"),
    ({"name": "x", "dataset": {}}, "Segments.ai"),
    ([{"label_hash": "x", "data_units": {}}], "Encord"),
    ({"project_name": "x", "label_classes": [], "images": []}, "Hasty"),
    ({"channel_names": {}, "labels": {}}, "nnU-Net"),
    ({"info": {}, "categories": {}, "items": []}, "datum convert -i FOLDER -if datumaro"),
    ({"images": [], "categories": [], "annotations": [{"image_id": 1, "segments_info": []}]}, "panoptic"),
    ({"images": [], "categories": [], "annotations": [{"image_id": 1, "caption": "a"}]}, "captions"),
    ({"images": [], "categories": []}, "no list annotations"),
    ({"images": 1, "annotations": None, "categories": []}, "no list images; no list annotations"),
    ({"images": [1], "annotations": [], "categories": []}, "entries of images"),
    ([], "no list images"),
    ({}, "no list images"),
    ("text", "JSON written as a text"),
    (None, "no list images"),
]


@pytest.mark.parametrize(("content", "name"), FOREIGN)
def test_other_formats_are_called_by_their_name(tmp_path: Path, content: Any, name: str) -> None:
    with pytest.raises(DataError, match=name) as caught:
        read_detection_set(written(content, tmp_path / "a.json"))
    assert "Error" not in str(caught.value)


BYTES = {
    b"\x1f\x8b\x08": ("a gzip file", "unpack"),
    b"PK\x03\x04": ("a ZIP file", "unpack"),
    b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n": ("a pointer of Git LFS", "git lfs pull"),
    b"<!DOCTYPE html><html>Sign in": ("a web page", "download"),
    b" \n": ("an empty file", "download"),
    b'{"a": 1}\n{"a": 2}\n': ("JSON by lines", "export"),
    b'{"images": [%s]}' % (b"1" * 5000): ("a number of thousands of digits", "anew"),
}


@pytest.mark.parametrize("content", BYTES)
def test_files_that_are_no_json_are_called_what_they_are(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "all.json").write_bytes(content)
    got, fix = BYTES[content]
    with pytest.raises(DataError) as caught:
        read_detection_set(str(tmp_path / "all.json"))
    assert caught.value.got.startswith(got)
    assert fix in caught.value.fix


BOXES_OF_OTHERS: list[tuple[Content, str]] = [
    ({"bbox": {"x": 1, "y": 2}}, "a bbox that is no list"),
    ({"bbox": "[1, 2, 3, 4]"}, "a bbox that is no list"),
    ({"bbox": [1, 2, 3, 4, 0.5]}, "a bbox of 5 numbers"),
    ({"bbox_mode": 0}, "bbox_mode 0"),
    ({"bbox": None, "segmentation": [1, 2, 3, 4, 5, 6]}, "no list of polygons"),
    ({"bbox": None, "segmentation": [{"x": 1, "y": 2}]}, "no list of polygons"),
    ({"iscrowd": "maybe"}, "'maybe' where 0 or 1 is expected"),
]


@pytest.mark.parametrize(("change", "got"), BOXES_OF_OTHERS)
def test_boxes_of_other_forms_are_refused_in_words(tmp_path: Path, change: Content, got: str) -> None:
    content = base(tmp_path)
    content["annotations"][0].update(change)
    with pytest.raises(DataError) as caught:
        read_detection_set(written(content, tmp_path / "all.json"))
    assert got in caught.value.got


def test_letters_that_look_like_others_are_shown_by_their_numbers(tmp_path: Path) -> None:
    content = base(tmp_path)
    content["categories"][0]["name"] = "R\u0412C\x1b"
    with pytest.raises(DataError) as caught:
        accuracy(written(content, tmp_path / "all.json"))
    assert caught.value.got == "no class for: R\u0412C\\x1b (R\\u0412C\\x1b)"


@pytest.mark.parametrize(
    ("part", "key"), [("images", "id"), ("images", "file_name"), ("annotations", "image_id"), ("categories", "name")]
)
def test_entries_that_lack_something_are_named(tmp_path: Path, part: str, key: str) -> None:
    content = base(tmp_path)
    del content[part][0][key]
    with pytest.raises(DataError, match=f"its {key}"):
        read_detection_set(written(content, tmp_path / "all.json"))


def test_no_message_holds_a_file(tmp_path: Path) -> None:
    path = tmp_path / "all.json"
    path.write_bytes(b"\xe9" * 100_000)
    with pytest.raises(DataError) as caught:
        read_detection_set(str(path))
    assert len(str(caught.value)) < 500


def yolo_base(folder: Path) -> str:
    for name, seed in SEEDS.items():
        picture(folder / f"images/val/{name}.png", SIZE, seed)
    return yolo(folder, "val", {f"{name}.png": (SIZE, boxes) for name, boxes in BOXES.items()}, LABELS)


def lines_changed(folder: Path, change: Callable[[str], str]) -> None:
    for path in (folder / "labels/val").iterdir():
        path.write_text("".join(f"{change(line)}\n" for line in path.read_text().splitlines()))


def data_yaml(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "data.yaml").write_text(text) and None


def first_word(change: Callable[[str], str]) -> Callable[[Path], None]:
    return lambda folder: lines_changed(folder, lambda line: " ".join([change(line.split()[0]), *line.split()[1:]]))


def listed(text: str, mark: str = "") -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / "val.txt").write_text(mark + "".join(f"{text.format(name)}\n" for name in SEEDS), encoding="utf-8")
        (folder / "data.yaml").write_text("{val: val.txt, names: [RBC, WBC]}")

    return change


def with_keypoints(folder: Path) -> None:
    lines_changed(folder, lambda line: f"{line} 0.1 0.2 0.3 0.4 0.5 0.6 0.7 0.8")
    data_yaml("{val: images/val, names: [RBC, WBC], kpt_shape: [4, 2]}")(folder)


def with_other_keypoints(folder: Path) -> None:
    with_keypoints(folder)
    data_yaml("{val: images/val, names: [RBC, WBC], kpt_shape: [4, 3]}")(folder)


def with_points(numbers: str) -> Callable[[Path], None]:
    """Boxes of which each line is there three times, with points in it."""

    def change(folder: Path) -> None:
        lines_changed(folder, lambda line: f"{line} {' '.join(line.split()[1:3])}{numbers}")
        for path in (folder / "labels/val").iterdir():
            path.write_text(path.read_text() * 3)

    return change


def of_a_mask(folder: Path) -> None:
    Image.new("L", SIZE[::-1]).save(folder / "images/val/one.bmp")


def of_a_stranger(folder: Path) -> None:
    inner = folder / "set"
    inner.mkdir()
    for name in ("images", "labels"):
        (folder / name).rename(inner / name)
    strangers(folder / "images/val")
    (inner / "data.yaml").write_text("{val: ../images/val, names: [RBC, WBC]}")


YOLO: dict[str, Callable[[Path], None]] = {
    "plain": lambda folder: None,
    "class ids as floats": first_word(lambda word: f"{float(word):.6f}"),
    "class ids of savetxt": first_word(lambda word: f"{float(word):.2e}"),
    "quoted keys": data_yaml("val: images/val\nnames:\n  '0': RBC\n  '1': WBC\n"),
    "a class twice": data_yaml("{val: images/val, names: [RBC, WBC, rbc]}"),
    "keypoints": with_keypoints,
    "a mark in the list": listed("images/val/{}.png", mark="\ufeff"),
    "CVAT's data/": listed("data/images/val/{}.png"),
    "backslashes": listed("images\\val\\{}.png"),
    "a path of Windows": data_yaml("{val: 'images\\val', names: [RBC, WBC]}"),
    "capital suffixes of labels": lambda folder: [
        path.rename(path.with_suffix(".TXT")) for path in list((folder / "labels/val").iterdir())
    ]
    and None,
    "capitals": lambda folder: (folder / "labels").rename(folder / "Labels") and None,
    "macOS": lambda folder: (folder / "images/val/._one.png").write_bytes(b"x") and None,
    "a stranger beside": of_a_stranger,
}  # fmt: skip


@pytest.mark.parametrize("name", YOLO)
def test_yolo_as_it_is_met(tmp_path: Path, name: str) -> None:
    yolo_base(tmp_path)
    YOLO[name](tmp_path)
    where = tmp_path / "set" if name == "a stranger beside" else tmp_path
    assert accuracy(f"{where / 'data.yaml'}:val") == pytest.approx(AP, abs=1e-6)


@pytest.mark.parametrize(
    ("change", "got"),
    [
        (lambda folder: (folder / "labels").rename(folder / "truth"), "no_box: "),
        (lambda folder: lines_changed(folder, lambda line: "0 150 120 30 30"), "no_box: "),
        (first_word(lambda word: str(int(word) + 1)), "undeclared 3, such as"),
        (data_yaml("val: images/val\nnames: [RBC]\nnames: [WBC]\n"), "line 3, column 1: 'names' is given twice"),
        (data_yaml("val: images/val\nnames:\n\t0: RBC\n"), "line 3, column 1: a tab"),
        (with_other_keypoints, "0 0.1"),
        (with_points(""), "keypoints: "),
        (with_points(" 0 0"), "keypoints: "),
        (of_a_mask, "ambiguous_image: "),
        (data_yaml("val: images/val\nnames: [~, WBC]\n"), "'', 'WBC'"),
        (data_yaml("val: images/val\nnames: [[RBC, WBC], x]\n"), "'', 'x'"),
    ],
)
def test_yolo_that_is_refused(tmp_path: Path, change: Callable[[Path], None], got: str) -> None:
    source = yolo_base(tmp_path)
    change(tmp_path)
    with pytest.raises(DataError) as caught:
        read_detection_set(source)
    assert caught.value.got.startswith(got)


def test_label_files_without_an_image_are_told(tmp_path: Path) -> None:
    source = yolo_base(tmp_path)
    (tmp_path / "labels/val/classes.txt").write_text("RBC\n")
    assert read_detection_set(source).warnings == ()
    (tmp_path / "labels/val/three.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    (tmp_path / "images/val/three.heic").write_bytes(b"x")
    assert "no_image: 1 of 4 label files, such as" in read_detection_set(source).warnings[0]
    (tmp_path / "val.txt").write_text("images/val/one.png\nimages/val/two.png\n")
    data_yaml("{val: val.txt, names: [RBC, WBC]}")(tmp_path)
    assert read_detection_set(source).warnings == ()


def test_images_of_yolo_lie_behind_links_too(tmp_path: Path) -> None:
    source = yolo_base(tmp_path)
    for name in ("images", "labels"):
        (tmp_path / name / "val").rename(tmp_path / name / "store")
        (tmp_path / name / "val").mkdir()
        (tmp_path / name / "val/hospital").symlink_to(tmp_path / name / "store")
    (tmp_path / "images/store/circle").symlink_to(tmp_path / "images/val")
    assert accuracy(source) == pytest.approx(AP, abs=1e-6)


def test_a_class_called_no_keeps_its_name(tmp_path: Path) -> None:
    source = yolo_base(tmp_path)
    data_yaml("{val: images/val, names: [no, on]}")(tmp_path)
    assert read_detection_set(source).labels == ("no", "on")


def test_images_of_yolo_that_cannot_be_read_are_left_to_be_told(tmp_path: Path) -> None:
    source = yolo_base(tmp_path)
    (tmp_path / "images/val/one.png").write_bytes(b"")
    assert check_data(source).counts() == {"unreadable_image": 1}
    assert [len(image.boxes_xyxy) for image in read_detection_set(source).images] == [0, 4]


def voc_base(folder: Path) -> str:
    for name, seed in SEEDS.items():
        picture(folder / f"JPEGImages/{name}.png", SIZE, seed)
    return voc(folder, "val", {name: (SIZE, boxes) for name, boxes in BOXES.items()})


def xml_changed(*pairs: tuple[str, str], encoding: str = "utf-8") -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for path in (folder / "Annotations").iterdir():
            text = path.read_text()
            for old, new in pairs:
                text = text.replace(old, new)
            path.write_bytes(text.encode(encoding))

    return change


def voc_list(text: str, mark: str = "") -> Callable[[Path], None]:
    lines = "".join(f"{text.format(name)}\n" for name in SEEDS)
    return lambda folder: (folder / "ImageSets/Main/val.txt").write_text(mark + lines, encoding="utf-8") and None


def flat(folder: Path) -> None:
    shutil.rmtree(folder / "ImageSets")
    (folder / "JPEGImages").rename(folder / "val")
    for path in list((folder / "Annotations").iterdir()):
        path.rename(folder / "val" / path.name)


def in_kaggles_folders(folder: Path) -> None:
    shutil.rmtree(folder / "ImageSets")
    (folder / "JPEGImages").rename(folder / "val")
    (folder / "Annotations").rename(folder / "annotations")


def in_inner_folders(folder: Path) -> None:
    for name in ("JPEGImages", "Annotations"):
        (folder / name).rename(folder / "aside")
        (folder / name).mkdir()
        (folder / "aside").rename(folder / name / "inner")
    voc_list("inner/{}")(folder)


def list_above(folder: Path) -> None:
    (folder / "ImageSets/Main/val.txt").rename(folder / "ImageSets/val.txt")


def stated_images(folder: Path) -> None:
    for path in (folder / "Annotations").iterdir():
        path.write_text(path.read_text().replace("<size>", f"<filename>scan-{path.stem}.png</filename><size>"))
        (folder / f"JPEGImages/{path.stem}.png").rename(folder / f"JPEGImages/scan-{path.stem}.png")


def stated_suffixes(folder: Path) -> None:
    for path in (folder / "Annotations").iterdir():
        path.write_text(path.read_text().replace("<size>", f"<filename>{path.stem}.png</filename><size>"))
        Image.new("RGB", SIZE[::-1]).save(folder / f"JPEGImages/{path.stem}.jpg")


VOC: dict[str, Callable[[Path], None]] = {
    "plain": lambda folder: None,
    "sizes as floats": xml_changed(("<width>300<", "<width>300.0<")),
    "sizes 0": xml_changed(("<width>300<", "<width>0<")),
    "a mark in the list": voc_list("{}", mark="\ufeff"),
    "suffixes in the list": voc_list("{}.jpg"),
    "a list of a class": voc_list("{}  -1"),
    "GBK": xml_changed(
        ("<annotation>", '<?xml version="1.0" encoding="GBK"?><annotation><folder>图像</folder>'), encoding="gbk"
    ),
    "names in two cases": lambda folder: (folder / "Annotations/two.xml").write_text(
        (folder / "Annotations/two.xml").read_text().replace("RBC", "rbc")
    )
    and None,
    "label files beside the images": flat,
    "capital suffixes of labels": lambda folder: [
        path.rename(path.with_suffix(".XML")) for path in list((folder / "Annotations").iterdir())
    ]
    and None,
    "a namespace": xml_changed(("<annotation>", '<annotation xmlns="http://example.org/voc">')),
    "tags in capitals": xml_changed(("object>", "Object>")),
    "difficult unspecified": xml_changed(("</bndbox>", "</bndbox><difficult>Unspecified</difficult>")),
    "paths in the list": voc_list("JPEGImages/{}.jpg"),
    "label files in the list": voc_list("{}.xml"),
    "folders of label files": in_inner_folders,
    "a list in ImageSets": list_above,
    "images and annotations": in_kaggles_folders,
    "the image that is stated": stated_images,
    "the suffix that is stated": stated_suffixes,
}  # fmt: skip


@pytest.mark.parametrize("name", VOC)
def test_voc_as_it_is_met(tmp_path: Path, name: str) -> None:
    source = voc_base(tmp_path)
    VOC[name](tmp_path)
    assert accuracy(source) == pytest.approx(AP, abs=1e-6)


BROKEN_VOC = {
    "another root": (xml_changed(("annotation>", "annotations>")), "<annotations>, where <annotation>"),
    "boxes of no object": (xml_changed(("object>", "item>")), "a <bndbox> in <item>"),
    "two boxes": (xml_changed(("</bndbox>", "</bndbox><bndbox/>")), "with 2 boxes"),
    "a flag of neither": (xml_changed(("</bndbox>", "</bndbox><difficult>so</difficult>")), "'so' where 0 or 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN_VOC)
def test_label_files_of_voc_that_are_refused(tmp_path: Path, name: str) -> None:
    source = voc_base(tmp_path)
    change, got = BROKEN_VOC[name]
    change(tmp_path)
    with pytest.raises(DataError) as caught:
        read_detection_set(source)
    assert got in caught.value.got


def test_two_images_of_one_name_in_voc_are_refused(tmp_path: Path) -> None:
    source = voc_base(tmp_path)
    Image.new("RGB", SIZE[::-1]).save(tmp_path / "JPEGImages/one.jpg")
    with pytest.raises(DataError, match="It is not clear which file"):
        read_detection_set(source)


def test_copies_of_label_files_are_of_their_own_image(tmp_path: Path) -> None:
    source = voc_base(tmp_path)
    path = tmp_path / "Annotations/one.xml"
    path.write_text(path.read_text().replace("<size>", "<filename>two.png</filename><size>"))
    assert "one.xml states two.png, and one.png is taken" in read_detection_set(source).warnings[0]
    assert accuracy(source) == pytest.approx(AP, abs=1e-6)


def test_a_split_that_is_not_there_names_one_that_is(tmp_path: Path) -> None:
    folder = tmp_path / "VOC2012"
    voc_base(folder)
    for address, meant in ((f"{folder}:train", f"{folder}:val"), (f"{tmp_path}:val", f"{folder}:val")):
        with pytest.raises(DataError) as caught:
            read_detection_set(address)
        assert caught.value.fix == f"write {meant}, or write the list"


def test_an_image_of_voc_without_a_label_file_has_no_object_and_is_told(tmp_path: Path) -> None:
    source = voc_base(tmp_path)
    (tmp_path / "Annotations/one.xml").unlink()
    found = read_detection_set(source)
    assert [len(image.boxes_xyxy) for image in found.images] == [0, 4]
    assert "no_label_file: one.xml" in found.warnings[0]


def test_difficult_objects_are_ignored(tmp_path: Path) -> None:
    source = voc_base(tmp_path)
    for path in (tmp_path / "Annotations").iterdir():
        path.write_text(path.read_text().replace("</bndbox>", "</bndbox><difficult>1</difficult>", 1))
    found = read_detection_set(source)
    assert [len(image.ignored_ids) for image in found.images] == [1, 1]
    assert [image.held_out_xyxy.tolist() for image in found.images] == [[[10, 20, 60, 70]], [[20, 20, 99, 99]]]
    assert check_data(source).sets[0].ignored == 2
    assert "2 crowds or difficult objects" in found.warnings[0]


@pytest.mark.parametrize(
    "name",
    [
        "a.geojson",
        "obj.data:train",
        "labels.xml",
        "list.txt:val",
        "a.csv",
        "a.tsv",
        "a.xlsx",
        "a.pkl",
        "a.tar.gz",
        "a.json.gz",
    ],
)
def test_addresses_of_other_formats(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="This is") as caught:
        read_detection_set(str(tmp_path / name))
    assert caught.value.fix


TOOLS = {
    "annotations.xml": ("CVAT's XML", "cvat", b'<?xml version="1.0"?>\n<annotations>\n  <version>1.1</version>'),
    "Annotations/train/a.xml": ("LabelMe", "label_me", b"<annotation><imagesize><nrows>40</nrows></imagesize>"),
    "obj.data": ("Darknet's YOLO", "yolo", b"classes = 2\ntrain = data/train.txt\n"),
    "annotations/val-annotations-bbox.csv": ("Open Images", "open_images", b"ImageID,Source,LabelName"),
    "val/label_2/a.txt": ("KITTI", "kitti", b"RBC 0.0 0 -1 30.0 10.0 42.5 18.25 -1 -1 -1 -1 -1 -1 -1 1.0"),
    "labelTxt/a.txt": ("DOTA", "", b""),
    "metadata.jsonl": ("Hugging Face", "", b""),
    "ds0/ann/a.png.json": ("Supervisely", "", b"{}"),
    "val/a.json": ("a.json, a labelme file", "", b'{"shapes": []}'),
    "_annotations.csv": ("_annotations.csv, a table", "", b""),
    "classes.txt": ("YOLO without a data.yaml", "", b""),
    "annotations/val.datum": ("Datumaro", "datumaro_binary", b""),
}
"""A file of each folder, as Datumaro 1.13 writes it where Datumaro reads it, and its name there."""


@pytest.mark.parametrize("name", TOOLS)
@pytest.mark.parametrize("split", ["", ":val"])
def test_folders_of_label_tools_are_refused_with_the_command_that_converts(
    tmp_path: Path, name: str, split: str
) -> None:
    called, form, content = TOOLS[name]
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"This is .*{called}") as caught:
        read_detection_set(f"{tmp_path}{split}")
    assert not form or f"datum convert -i FOLDER -if {form} -f coco_instances" in str(caught.value.fix)
    assert caught.value.fix


@pytest.mark.parametrize("name", ["annotations.xml", "obj.data:train", "annotations/val.datum"])
def test_files_of_label_tools_are_refused_with_the_command_that_converts(tmp_path: Path, name: str) -> None:
    (tmp_path / "annotations.xml").write_bytes(TOOLS["annotations.xml"][2])
    with pytest.raises(DataError, match="This is") as caught:
        read_detection_set(str(tmp_path / name))
    assert "datum convert" in str(caught.value.fix)


@pytest.mark.parametrize("path", sorted(Path(medprompt.data.__file__).parent.glob("*.py")), ids=lambda path: path.stem)
def test_every_refusal_of_labels_says_what_to_do(path: Path) -> None:
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    refusals = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "DataError"]
    assert [call.lineno for call in refusals if not any(word.arg == "fix" for word in call.keywords)] == []


def test_a_voc_folder_may_have_files_of_other_tools(tmp_path: Path) -> None:
    source = voc(tmp_path, "val", {"a": ((10, 20), [("RBC", 1, 2, 9, 8)])})
    picture(tmp_path / "JPEGImages/a.png")
    (tmp_path / "obj.data").write_text("classes = 1")
    (tmp_path / "annotations.xml").write_text("<annotations/>")
    assert len(read_detection_set(source).images) == 1


def test_anything_else_is_refused_with_what_to_do(tmp_path: Path) -> None:
    for name in ("nothing", "a.manifest", ".", "a.weird:val", "a.json:val"):
        with pytest.raises(DataError) as caught:
            read_detection_set(str(tmp_path / name))
        assert caught.value.fix
    in_kaggles_folders_of = voc_base(tmp_path).rpartition(":")[0]
    in_kaggles_folders(tmp_path)
    with pytest.raises(DataError) as caught:
        read_detection_set(in_kaggles_folders_of)
    assert caught.value.fix == f"name the folder of images, as {tmp_path}:val"


def test_a_folder_names_its_label_files(tmp_path: Path) -> None:
    written(base(tmp_path), tmp_path / "train/_annotations.coco.json")
    with pytest.raises(DataError, match=r"such as .*_annotations\.coco\.json"):
        read_detection_set(str(tmp_path))
