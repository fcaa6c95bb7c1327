"""Labels of formats that are not read: called by their name, with the way to one that is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

EXPORT = "export the labels as COCO or YOLO there"
"""What to do about labels of a program that can."""

DATUMARO = (
    "convert it: pip install 'datumaro[cli]', and datum convert -i FOLDER -if {} -f coco_instances -o coco -- "
    "--save-media --segmentation-mode polygons"
)
"""What to do about folders that Datumaro reads; masks of CVAT would become crowds without the last words."""

IN_JSON: tuple[tuple[str, str, Callable[[Any, Any], bool]], ...] = (
    ("COCO results: detections, no labels", "name the instances file", lambda top, one: {"score", "bbox"} <= one),
    ("a Label Studio export", EXPORT, lambda top, one: "data" in one and one & {"annotations", "completions"} != set()),
    ("a Label Studio export (JSON-MIN)", EXPORT, lambda top, one: {"annotation_id", "annotator"} <= one),
    ("a CreateML file", "convert it to COCO", lambda top, one: {"image", "annotations"} <= one),
    ("GeoJSON, as QuPath writes it", "convert the outlines to COCO", lambda top, one: "features" in top),
    (
        "GeoJSON, as QuPath writes it",
        "convert the outlines to COCO",
        lambda top, one: {"geometry", "type"} <= one | top,
    ),
    ("a VIA project", "export it as COCO there", lambda top, one: "_via_img_metadata" in top),
    ("VIA annotations", "export them as COCO there", lambda top, one: {"regions", "filename"} <= one),
    ("a list of volumes, as MONAI has it", "convert slices to COCO", lambda top, one: top >= {"training"}),
    ("a labelme file of one image", "convert the folder with labelme2coco", lambda top, one: "shapes" in top),
    ("a Supervisely file of one image", EXPORT, lambda top, one: {"objects", "size"} <= top),
    ("a Supervisely project's meta.json", EXPORT, lambda top, one: {"classes", "tags"} <= top),
    ("a Datumaro file", DATUMARO.format("datumaro"), lambda top, one: {"items", "categories"} <= top),
    ("a FiftyOne export of samples", "export the type COCODetectionDataset", lambda top, one: "samples" in top),
    ("a results file of medprompt", "name the labels", lambda top, one: {"medprompt", "items"} <= top),
)
"""Name, what to do, and the keys that tell: of the object at the top, and of the first entry of it."""

IN_NAMES = {
    ".geojson": ("GeoJSON, as QuPath writes it", "convert the outlines to COCO"),
    ".ndjson": ("a Labelbox or Ultralytics export by lines", EXPORT),
    ".jsonl": ("JSON by lines", EXPORT),
    ".xml": ("one label file", "name its folder and split: FOLDER:train, or export COCO"),
    ".csv": ("a table", "convert it to COCO"),
    ".txt": ("a text file", "write a data.yaml that names the classes and lists it: `medprompt docs datasets`"),
    ".data": ("Darknet's obj.data", DATUMARO.format("yolo")),
    ".datum": ("a Datumaro file", DATUMARO.format("datumaro_binary")),
    ".arrow": ("a Datumaro file", DATUMARO.format("arrow")),
    ".zip": ("a packed export", "unpack it"),
    ".parquet": ("a Parquet table", "convert it to COCO"),
    ".tfrecord": ("a TFRecord", EXPORT),
}

HEAD = 1 << 16
"""Bytes at the beginning of an XML file that tell its format."""

IN_XML = (
    (b"<annotations", "CVAT's XML", DATUMARO.format("cvat")),
    (b"<imagesize", "a LabelMe file of one image", DATUMARO.format("label_me")),
)
"""What tells a format, its name, and what to do."""

IN_FOLDERS = (
    ("obj.data", "a folder of Darknet's YOLO", DATUMARO.format("yolo")),
    ("annotations/*-bbox.csv", "Open Images", DATUMARO.format("open_images")),
    ("*/label_2", "KITTI", DATUMARO.format("kitti")),
    ("annotations/*.datum", "a folder of Datumaro", DATUMARO.format("datumaro_binary")),
    ("*.arrow", "a folder of Datumaro", DATUMARO.format("arrow")),
)
"""Files that tell the format of a folder, its name, and what to do."""

OF_COCO = {"segments_info": "COCO's panoptic segments", "caption": "COCO's captions"}
"""What annotations of other files of COCO have."""


def format_of_json(content: Any) -> tuple[str, str]:
    """The name of a known format that is not COCO, and what to do; empty texts where it may be COCO, or is unknown."""
    if isinstance(content, Mapping) and "images" in content and "annotations" in content:
        listed = content["annotations"]
        first = listed[0] if isinstance(listed, list) and listed and isinstance(listed[0], Mapping) else {}
        name = next((name for key, name in OF_COCO.items() if key in first and "category_id" not in first), "")
        return name, "name the instances file" if name else ""
    entries = content if isinstance(content, list) else list(content.values()) if isinstance(content, Mapping) else []
    top = set(content) if isinstance(content, Mapping) else set()
    one = set(entries[0]) if entries and isinstance(entries[0], Mapping) else set()
    return next(((name, fix) for name, fix, fits in IN_JSON if fits(top, one)), ("", ""))


def format_of_address(path: Path, split: str = "") -> tuple[str, str]:
    """What a path that is no address of labels is, and what to do; empty texts where it says nothing."""
    if path.suffix.lower() == ".xml" and path.is_file() and (known := _format_of_xml(path)):
        return known
    if path.suffix.lower() in IN_NAMES:
        return IN_NAMES[path.suffix.lower()]
    if not path.is_dir() or (path / "ImageSets").is_dir() or (split and any((path / split).glob("*.xml"))):
        return "", _split_of(path)
    for pattern, name, fix in IN_FOLDERS:
        if any(path.glob(pattern)):
            return name, fix
    files = sorted(file for pattern in ("*.xml", "Annotations/*/*.xml") for file in path.glob(pattern))
    if files and (known := _format_of_xml(files[0])):
        return known
    files = sorted(file for pattern in ("*.json", "*/*.json", "data.yaml") for file in path.glob(pattern))
    if files:
        return "", f"name one of its label files, such as {files[0]}" + (":val" if files[0].suffix == ".yaml" else "")
    if (path / "classes.txt").is_file():
        return "", "write a data.yaml that names the classes and the folder of images: `medprompt docs datasets`"
    return "", ""


def _format_of_xml(path: Path) -> tuple[str, str] | None:
    with path.open("rb") as file:
        head = file.read(HEAD)
    return next(((name, fix) for mark, name, fix in IN_XML if mark in head), None)


def _split_of(folder: Path) -> str:
    splits = sorted(file.stem for file in (folder / "ImageSets/Main").glob("*.txt"))
    return f"write {folder}:{splits[0]}" if splits else ""
