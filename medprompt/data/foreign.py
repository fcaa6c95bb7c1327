"""Labels of formats that are not read: called by their name, with the way to one that is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

EXPORT = "export the labels as COCO or YOLO there"
"""What to do about labels of a program that can."""

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
    ("a Datumaro file", "medprompt reads its COCO export", lambda top, one: {"items", "categories"} <= top),
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
    ".data": (
        "Darknet's obj.data",
        "export the type Ultralytics YOLO, or write a data.yaml: `medprompt docs datasets`",
    ),
    ".zip": ("a packed export", "unpack it"),
    ".parquet": ("a Parquet table", "convert it to COCO"),
    ".tfrecord": ("a TFRecord", EXPORT),
}


def format_of_json(content: Any) -> tuple[str, str]:
    """The name of a known format that is not COCO, and what to do; empty texts where it may be COCO, or is unknown."""
    if isinstance(content, Mapping) and "images" in content and "annotations" in content:
        return "", ""
    entries = content if isinstance(content, list) else list(content.values()) if isinstance(content, Mapping) else []
    top = set(content) if isinstance(content, Mapping) else set()
    one = set(entries[0]) if entries and isinstance(entries[0], Mapping) else set()
    return next(((name, fix) for name, fix, fits in IN_JSON if fits(top, one)), ("", ""))


def format_of_address(path: Path) -> tuple[str, str]:
    """What a path that is no address of labels is, and what to do; empty texts where it says nothing."""
    if path.suffix.lower() in IN_NAMES:
        return IN_NAMES[path.suffix.lower()]
    if not path.is_dir():
        return "", ""
    files = sorted(file for pattern in ("*.json", "*/*.json", "data.yaml") for file in path.glob(pattern))
    if files:
        return "", f"name one of its label files, such as {files[0]}" + (":val" if files[0].suffix == ".yaml" else "")
    if (path / "classes.txt").is_file():
        return "", "write a data.yaml that names the classes and the folder of images: `medprompt docs datasets`"
    splits = sorted(file.stem for file in (path / "ImageSets/Main").glob("*.txt"))
    return "", f"write {path}:{splits[0]}" if splits else ""
