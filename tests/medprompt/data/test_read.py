import json

import numpy as np
import pytest
from PIL import Image

from medprompt.core.errors import DataError
from medprompt.data import read_detection_set

VOC = """<annotation><size><width>20</width><height>10</height></size>{}</annotation>"""
BOX = "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"


def coco(tmp_path, annotations, images=None):
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    content = {
        "images": images or [{"id": 7, "file_name": "a.png", "height": 10, "width": 20}],
        "categories": [{"id": 3, "name": "RBC"}, {"id": 5, "name": "WBC"}],
        "annotations": [{"id": n, "image_id": 7, **entry} for n, entry in enumerate(annotations)],
    }
    (tmp_path / "set.json").write_text(json.dumps(content))
    return str(tmp_path / "set.json")


def voc(tmp_path, objects, stem="x"):
    for folder in ("ImageSets/Main", "Annotations", "JPEGImages"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    (tmp_path / "ImageSets/Main/val.txt").write_text(f"{stem}\n")
    (tmp_path / f"Annotations/{stem}.xml").write_text(VOC.format("".join(BOX.format(*entry) for entry in objects)))
    Image.new("RGB", (20, 10)).save(tmp_path / f"JPEGImages/{stem}.jpg")
    return f"{tmp_path}:val"


def test_coco(tmp_path):
    found = read_detection_set(
        coco(
            tmp_path,
            [
                {"category_id": 5, "bbox": [1, 2, 3, 4]},
                {"category_id": 3, "bbox": [15, 5, 10, 10]},  # clipped to 20 x 10
                {"category_id": 3, "bbox": [5, 5, 0, 3]},  # no area
                {"category_id": 3, "bbox": [0, 0, 20, 10], "iscrowd": 1},
            ],
        )
    )
    assert found.labels == ("RBC", "WBC")
    assert found.images[0].boxes_xyxy.tolist() == [[1, 2, 4, 6], [15, 5, 20, 10]]
    assert found.images[0].class_ids.tolist() == [1, 0]
    assert len(found.dropped) == 1
    assert found.images[0].ignored_xyxy.tolist() == found.images[0].held_out_xyxy.tolist() == [[0, 0, 20, 10]]
    assert found.images[0].ignored_ids.tolist() == [0]


def test_voc(tmp_path):
    found = read_detection_set(voc(tmp_path, [("WBC", 1, 2, 3, 4), ("RBC", 0, 0, 20, 10), ("RBC", 4, 4, 4, 4)]))
    assert found.labels == ("RBC", "WBC")
    assert found.images[0].boxes_xyxy.tolist() == [[1, 2, 3, 4], [0, 0, 20, 10]]
    assert found.images[0].class_ids.tolist() == [1, 0]
    assert found.images[0].size_hw == (10, 20)
    assert len(found.dropped) == 1


def test_an_image_without_boxes(tmp_path):
    with pytest.raises(DataError, match="have no box"):
        read_detection_set(coco(tmp_path, []))
    found = read_detection_set(coco(tmp_path, []), allow=["no_box"])
    assert found.images[0].boxes_xyxy.shape == (0, 4)
    assert found.images[0].boxes_xyxy.dtype == np.float32


def test_relabelling_ignores_case_and_lists_what_is_missing(tmp_path):
    found = read_detection_set(coco(tmp_path, [{"category_id": 5, "bbox": [1, 2, 3, 4]}]))
    assert found.relabelled(["x", "wbc", "rbc"]).images[0].class_ids.tolist() == [1]
    assert found.relabelled(["wbc"]).images[0].class_ids.tolist() == [0]  # there is no RBC to be covered
    with pytest.raises(DataError, match="no class for: WBC"):
        found.relabelled(["rbc"])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{}/none.json", "cannot be read"),
        ("{}/broken.json", "cannot be read"),
        ("{}:val", "cannot be read"),
        ("folder", "unknown form"),
    ],
)
def test_bad_sources(tmp_path, source, message):
    (tmp_path / "broken.json").write_text('{"images": [')
    with pytest.raises(DataError, match=message) as caught:
        read_detection_set(source.format(tmp_path))
    assert caught.value.exit_code == 2


def test_a_listed_image_that_is_missing(tmp_path):
    source = coco(tmp_path, [], images=[{"id": 7, "file_name": "gone.png", "height": 10, "width": 20}])
    with pytest.raises(DataError, match="is missing"):
        read_detection_set(source)


def test_an_empty_split(tmp_path):
    (tmp_path / "set.json").write_text(json.dumps({"images": [], "categories": [], "annotations": []}))
    with pytest.raises(DataError, match="has no image"):
        read_detection_set(str(tmp_path / "set.json"))


OBJECTS = [("WBC", 1, 2, 3, 4), ("RBC", 0, 0, 20, 10), ("dot", 5, 5, 6, 6), ("RBC", 7, 1, 9, 3)]


@pytest.mark.parametrize(
    ("held_out", "labels", "class_ids", "boxes"),
    [
        ([], ("RBC", "WBC", "dot"), [1, 0, 2, 0], []),
        (["RBC"], ("WBC", "dot"), [0, 1], [[0, 0, 20, 10], [7, 1, 9, 3]]),
        (["wbc", "dot"], ("RBC",), [0, 0], [[1, 2, 3, 4], [5, 5, 6, 6]]),
        (["RBC", "WBC", "dot"], (), [], [[1, 2, 3, 4], [0, 0, 20, 10], [5, 5, 6, 6], [7, 1, 9, 3]]),
    ],
)
def test_holding_out_keeps_the_boxes_and_drops_the_labels(tmp_path, held_out, labels, class_ids, boxes):
    found = read_detection_set(voc(tmp_path, OBJECTS)).holding_out(held_out)
    assert found.labels == labels
    assert found.images[0].class_ids.tolist() == class_ids
    assert found.images[0].boxes_xyxy.shape == (len(class_ids), 4)
    assert found.images[0].held_out_xyxy.tolist() == boxes


def test_held_out_boxes_add_up_and_survive_relabelling(tmp_path):
    found = read_detection_set(voc(tmp_path, OBJECTS)).holding_out(["dot"]).holding_out(["WBC"])
    moved = found.relabelled(["x", "rbc"])
    assert moved.images[0].class_ids.tolist() == [1, 1]
    assert moved.images[0].held_out_xyxy.tolist() == [[5, 5, 6, 6], [1, 2, 3, 4]]


def test_one_category_alone(tmp_path):
    found = read_detection_set(voc(tmp_path, OBJECTS))
    alone = found.only("wbc")
    assert (alone.labels, alone.images[0].boxes_xyxy.tolist()) == (("WBC",), [[1, 2, 3, 4]])
    with pytest.raises(DataError, match="no such category"):
        found.only("nucleus")


def test_holding_out_what_is_not_there(tmp_path):
    with pytest.raises(DataError, match="not in the data set") as caught:
        read_detection_set(voc(tmp_path, OBJECTS)).holding_out(["platelet"])
    assert caught.value.got == "platelet"
