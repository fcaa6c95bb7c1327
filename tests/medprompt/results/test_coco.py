"""COCO files of a run: rows, a label file's ids, a data set; read back with pycocotools."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medprompt.core.errors import InputError
from medprompt.results.coco import (
    CocoIds,
    coco_dataset,
    coco_ids_from_file,
    coco_results,
    relative_names,
    write_coco,
    write_coco_dataset,
)
from medprompt.results.run import Item, Run
from tests.medprompt.results.test_run import RUN, detections


def test_coco_results(tmp_path: Path) -> None:
    write_coco(RUN, tmp_path / "c.json")
    assert json.loads((tmp_path / "c.json").read_text()) == coco_results(RUN)
    assert coco_results(RUN) == [
        {
            "image_id": 1,
            "category_id": 2,
            "bbox": [1, 2, 10, 20],
            "score": 0.9,
            "file_name": "a/one.png",
            "category_name": "WBC",
        },
        {
            "image_id": 1,
            "category_id": 1,
            "bbox": [-3, 0, 8.25, 60],
            "score": 0.5,
            "file_name": "a/one.png",
            "category_name": "RBC",
        },
    ]


BOXES = [[1, 2, 11, 22], [30, 30, 60, 45], [-3, 0, 5.25, 60], [200, 200, 210, 210]]


def run_of(*paths: str) -> Run:
    items = tuple(Item(Path(path), detections(BOXES, [1, 0, 0, 1])) for path in paths)
    return replace(RUN, items=items)


def labels_of(folder: Path, names: list[str], classes: dict[int, str] | None = None, first: int = 70) -> Path:
    """A label file in which each image has the boxes of ``run_of``, numbered in another order."""
    classes = classes or {9: "WBC", 4: "rbc "}
    ids = {name.strip().casefold(): key for key, name in classes.items()}
    images = [{"id": first - n, "file_name": name, "width": 300, "height": 300} for n, name in enumerate(names)]
    annotations = [
        {
            "id": 1 + len(BOXES) * n + m,
            "image_id": image["id"],
            "category_id": ids.get(label, 0),
            "iscrowd": 0,
            "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
            "area": 1.0,
        }
        for n, image in enumerate(images)
        for m, (box, label) in enumerate(zip(BOXES, ("wbc", "rbc", "rbc", "wbc"), strict=True))
    ]
    categories = [{"id": key, "name": name} for key, name in classes.items()]
    path = folder / "val.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def average_precision(labels: Path, results: Path) -> float:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(labels))
        evaluation = COCOeval(coco, coco.loadRes(str(results)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])


@pytest.mark.parametrize(
    "names",
    [["1.png", "2.png"], ["a/1.png", "b/1.png"], ["sub\\a\\1.png", "sub\\b\\1.png"]],
)
def test_with_the_labels_ids_pycocotools_agrees(tmp_path: Path, names: list[str]) -> None:
    labels = labels_of(tmp_path, names)
    run = run_of(*(f"/data/{name}".replace("\\", "/") for name in reversed(names)))
    ids = coco_ids_from_file(labels)
    assert list(ids.gaps([item.path for item in run.items], run.labels)) == []
    write_coco(run, tmp_path / "own.json")
    write_coco(run, tmp_path / "theirs.json", ids)
    assert average_precision(labels, tmp_path / "theirs.json") == pytest.approx(1.0)
    with pytest.raises(AssertionError):  # own ids: not of this set
        average_precision(labels, tmp_path / "own.json")


@pytest.mark.parametrize(
    ("names", "classes", "run", "said"),
    [
        (["1.png", "2.png"], None, ["x/1.png"], ["1 images of"]),
        (["1.png"], None, ["x/1.png", "x/2.png"], ["1 of 2 images are not in"]),
        (["1.png"], {9: "WBC"}, ["x/1.png"], ["classes that are not in"]),
    ],
)
def test_what_is_missing_is_said(
    tmp_path: Path, names: list[str], classes: dict[int, str] | None, run: list[str], said: list[str]
) -> None:
    ids = coco_ids_from_file(labels_of(tmp_path, names, classes))
    gaps = list(ids.gaps(list(map(Path, run)), RUN.labels))
    assert len(gaps) == len(said) and all(text in gap for text, gap in zip(said, gaps, strict=True))
    rows = coco_results(run_of(*run), ids)
    assert {row["image_id"] for row in rows} == {70} and {row["category_id"] for row in rows} <= {4, 9}


@pytest.mark.parametrize(
    ("names", "classes", "path", "framed", "message"),
    [
        (["1.png"], None, "x/2.png", [], "none of the images"),
        (["1.png"], {1: "polyp"}, "x/1.png", [], "none of the classes"),
        (["5.dcm"], None, "x/5.dcm", [Path("x/5.dcm")], "frames of a file"),
        (["1.png"], None, "x/1.png;y/1.png", [], "two images have one id"),
    ],
)
def test_ids_that_cannot_be_taken(
    tmp_path: Path, names: list[str], classes: dict[int, str] | None, path: str, framed: list[Path], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        list(
            coco_ids_from_file(labels_of(tmp_path, names, classes)).gaps(
                list(map(Path, path.split(";"))), RUN.labels, framed
            )
        )


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"images": 3, "categories": []}',
        '{"images": [{"id": 1}], "categories": []}',
        "\udcff",
        '{"images": [{"id": 1, "file_name": "a"}, {"id": 2, "file_name": "a"}], "categories": []}',
        '{"images": [], "categories": [{"id": 1, "name": "RBC"}, {"id": 2, "name": "rbc "}]}',
        '{"images": [], "categories": [{"id": 1, "name": "RBC"}, {"id": 1, "name": "WBC"}]}',
        '{"images": [{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}], "categories": []}',
        '{"images": [{"id": "1", "file_name": "a"}], "categories": []}',
        '{"images": [{"id": true, "file_name": "a"}], "categories": []}',
        '{"images": [{"id": 1, "file_name": null}], "categories": []}',
        '{"images": [], "images": [], "categories": []}',
    ],
)
def test_what_is_no_label_file(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.json").write_text(content, errors="surrogateescape")
    with pytest.raises(InputError) as caught:
        coco_ids_from_file(tmp_path / "x.json")
    assert str(tmp_path / "x.json") in str(caught.value)


def test_a_missing_label_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        coco_ids_from_file(tmp_path / "x.json")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/d/a/1.png", 1),
        ("/d/b/1.png", 2),
        ("/d/c/1.png", 3),
        ("/d/c/2.png", None),
        ("/d/xb/1.png", 3),
        ("/d/7.png", 4),
    ],
)
def test_the_longest_name_that_ends_a_path(path: str, expected: int | None) -> None:
    ids = CocoIds(Path("v.json"), {"a/1.png": 1, "b/1.png": 2, "1.png": 3, "C:/x/7.png": 4}, {}, {})
    assert ids.of_image(Path(path)) == expected


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        ([], []),
        (["/d/a/1.png"], ["1.png"]),
        (["/d/1.png", "/d/2.png", "/d/1.png"], ["1.png", "2.png"]),
        (["/d/a/1.png", "/d/b/1.png"], ["a/1.png", "b/1.png"]),
        (["/d/1.png", "/d/b/1.png"], ["1.png", "b/1.png"]),
    ],
)
def test_names_below_the_folder_that_all_share(paths: list[str], names: list[str]) -> None:
    assert list(relative_names(map(Path, paths)).values()) == names


def test_a_data_set(tmp_path: Path) -> None:
    write_coco_dataset(RUN, tmp_path / "c.json")
    content = json.loads((tmp_path / "c.json").read_text())
    assert content == coco_dataset(RUN)
    assert [image["file_name"] for image in content["images"]] == ["a/one.png", "b/two.png", "e/five.dcm#frame 3"]
    assert content["info"]["not_analysed"] == ["c/three.png", "d/four.dcm"]
    assert content["categories"] == [
        {"id": 1, "name": "RBC", "supercategory": ""},
        {"id": 2, "name": "WBC", "supercategory": ""},
    ]
    first, second = content["annotations"]
    assert (first["id"], first["image_id"], first["category_id"], first["bbox"], first["score"]) == (
        1,
        1,
        2,
        [1, 2, 10, 20],
        0.9,
    )
    assert (second["bbox"], second["area"], second["iscrowd"]) == ([0, 0, 5.25, 50], 262.5, 0)  # cut at the edge


def test_other_tools_read_the_data_set(tmp_path: Path) -> None:
    supervision = pytest.importorskip("supervision")
    from PIL import Image

    for name in ("1.png", "2.png"):
        Image.new("RGB", (40, 50)).save(tmp_path / name)
    run = run_of(str(tmp_path / "1.png"), str(tmp_path / "2.png"))
    write_coco_dataset(run, tmp_path / "set.json")
    found = supervision.DetectionDataset.from_coco(str(tmp_path), str(tmp_path / "set.json"))
    boxes: Any = {Path(path).name: annotations.xyxy for path, _, annotations in found}
    assert found.classes == ["RBC", "WBC"] and sorted(boxes) == ["1.png", "2.png"]
    np.testing.assert_allclose(boxes["1.png"], [[1, 2, 11, 22], [30, 30, 40, 45], [0, 0, 5.25, 50]])


def test_nothing_found_is_an_empty_list_and_a_whole_data_set(tmp_path: Path) -> None:
    run = replace(RUN, items=RUN.items[1:])
    assert coco_results(run) == [] and coco_dataset(run)["annotations"] == []
    assert len(coco_dataset(run)["images"]) == 2


def test_another_size_than_is_stated_is_said(tmp_path: Path) -> None:
    ids = coco_ids_from_file(labels_of(tmp_path, ["1.png"]))  # states 300 x 300
    assert ["1 images have another size" in text for text in ids.other_sizes(run_of("x/1.png"))] == [True]
    assert list(replace(ids, sizes={70: (50, 40)}).other_sizes(run_of("x/1.png"))) == []
