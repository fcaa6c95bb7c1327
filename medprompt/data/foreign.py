"""Labels of formats that are not read: called by their name, with the way to one that is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from medprompt.core.text import json_from_file

EXPORT = "export the labels as COCO or YOLO there"
"""What to do about labels of a program that can."""

TO_COCO = "convert it to COCO"

DATUMARO = (
    "convert it: pip install 'datumaro[cli]', and datum convert -i FOLDER -if {} -f coco_instances -o coco -- "
    "--save-media --segmentation-mode polygons"
)
"""What to do about folders that Datumaro reads; masks of CVAT would become crowds without the last words."""

IN_JSON: tuple[tuple[str, str, Callable[[Any, Any], bool]], ...] = (
    ("COCO results: detections, no labels", "name the instances file", lambda top, one: {"score", "bbox"} <= one),
    ("a Label Studio export", EXPORT, lambda top, one: "data" in one and one & {"annotations", "completions"} != set()),
    ("a Label Studio export", EXPORT, lambda top, one: {"data", "predictions"} <= one),
    ("a Label Studio export (JSON-MIN)", EXPORT, lambda top, one: {"annotation_id", "annotator"} <= one),
    ("a Label Studio export (JSON-MIN)", EXPORT, lambda top, one: {"image", "id", "label"} <= one),
    ("Label Studio's notes.json", EXPORT, lambda top, one: {"categories", "info"} == top),
    ("a CreateML file", TO_COCO, lambda top, one: {"image", "annotations"} <= one),
    ("a CreateML file", TO_COCO, lambda top, one: {"imagefilename", "annotation"} <= one),
    ("GeoJSON, as QuPath writes it", "convert the outlines to COCO", lambda top, one: "features" in top),
    (
        "GeoJSON, as QuPath writes it",
        "convert the outlines to COCO",
        lambda top, one: {"geometry", "type"} <= one | top,
    ),
    ("a VIA project", "export it as COCO there", lambda top, one: "_via_img_metadata" in top),
    ("VIA annotations", "export them as COCO there", lambda top, one: {"regions", "filename"} <= one),
    ("a VIA 3 project", "export it as COCO there", lambda top, one: {"project", "file", "metadata"} <= top),
    ("a VoTT export", TO_COCO, lambda top, one: {"assets", "tags"} <= top),
    ("a VoTT file of one image", TO_COCO, lambda top, one: {"asset", "regions"} <= top),
    ("BDD100K's or Scalabel's labels", TO_COCO, lambda top, one: {"name", "labels"} <= one),
    ("a Darwin file of V7", EXPORT, lambda top, one: {"item", "annotations"} <= top),
    ("Detectron2's list of images", TO_COCO, lambda top, one: {"file_name", "annotations"} <= one),
    ("MMDetection's list of images", TO_COCO, lambda top, one: {"filename", "ann"} <= one),
    ("OpenMMLab's labels", TO_COCO, lambda top, one: {"metainfo", "data_list"} <= top),
    ("a Segments.ai release", EXPORT, lambda top, one: {"name", "dataset"} <= top),
    ("an Encord export", EXPORT, lambda top, one: {"label_hash", "data_units"} <= one),
    ("a Hasty export", EXPORT, lambda top, one: {"project_name", "label_classes", "images"} <= top),
    ("nnU-Net's dataset.json", "convert slices to COCO", lambda top, one: {"channel_names", "labels"} <= top),
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
    ".csv": ("a table", TO_COCO),
    ".tsv": ("a table", TO_COCO),
    ".xls": ("a table", TO_COCO),
    ".xlsx": ("a table", TO_COCO),
    ".mat": ("a MATLAB file", TO_COCO),
    ".npy": ("a NumPy file", TO_COCO),
    ".npz": ("a NumPy file", TO_COCO),
    ".pkl": ("a pickle, which runs code where it is read", "convert it to COCO where you trust it"),
    ".pickle": ("a pickle, which runs code where it is read", "convert it to COCO where you trust it"),
    ".manifest": ("a SageMaker manifest", TO_COCO),
    ".names": (
        "a list of classes",
        "write a data.yaml that names the classes and the images: `medprompt docs datasets`",
    ),
    ".txt": ("a text file", "write a data.yaml that names the classes and lists it: `medprompt docs datasets`"),
    ".data": ("Darknet's obj.data", DATUMARO.format("yolo")),
    ".datum": ("a Datumaro file", DATUMARO.format("datumaro_binary")),
    ".arrow": ("a Datumaro file", DATUMARO.format("arrow")),
    **{
        suffix: ("a packed export", "unpack it")
        for suffix in (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")
    },
    ".parquet": ("a Parquet table", "convert it to COCO"),
    ".tfrecord": ("a TFRecord", EXPORT),
}

WRITE_YAML = "write a data.yaml that names the classes and the folder of images: `medprompt docs datasets`"

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
    ("classes.txt", "a folder of YOLO without a data.yaml", WRITE_YAML),
    ("labelTxt", "a folder of DOTA", TO_COCO),
    ("metadata.jsonl", "a folder of images of Hugging Face", TO_COCO),
    ("ds*/ann/*.json", "a Supervisely project", EXPORT),
    ("*/ann/*.json", "a Supervisely project", EXPORT),
    ("ann/*.json", "a data set of a Supervisely project", EXPORT),
    ("*/label_2", "KITTI", DATUMARO.format("kitti")),
    ("annotations/*.datum", "a folder of Datumaro", DATUMARO.format("datumaro_binary")),
    ("*.arrow", "a folder of Datumaro", DATUMARO.format("arrow")),
)
"""Files that tell the format of a folder, its name, and what to do."""

OF_COCO = {"segments_info": "COCO's panoptic segments", "caption": "COCO's captions"}
"""What annotations of other files of COCO have."""


def format_of_json(content: Any) -> tuple[str, str]:
    """The name of a known format that is not COCO, and what to do; empty texts where it may be COCO, or is unknown."""
    if isinstance(content, str):
        return "JSON written as a text into JSON", "write the object itself"
    if isinstance(content, Mapping) and "images" in content and "annotations" in content:
        listed = content["annotations"]
        first = listed[0] if isinstance(listed, list) and listed and isinstance(listed[0], Mapping) else {}
        name = next((name for key, name in OF_COCO.items() if key in first and "category_id" not in first), "")
        return name, "name the instances file" if name else ""
    entries = content if isinstance(content, list) else list(content.values()) if isinstance(content, Mapping) else []
    top = set(content) if isinstance(content, Mapping) else set()
    one = set(entries[0]) if entries and isinstance(entries[0], Mapping) else set()
    return next(((name, fix) for name, fix, fits in IN_JSON if fits(top, one)), ("", ""))


IN_BYTES = (
    (b"\x1f\x8b", "a gzip file", "unpack it: gunzip"),
    (b"PK\x03\x04", "a ZIP file", "unpack it"),
    (b"version https://git-lfs", "a pointer of Git LFS, and the file is not here", "fetch it: git lfs pull"),
    (b"<!doctype html", "a web page, such as one to sign in", "download the file again"),
    (b"<html", "a web page, such as one to sign in", "download the file again"),
    (b"<?xml", "XML", "name its folder and split: FOLDER:train, or export COCO"),
)
"""How files begin that are called .json, what they are, and what to do."""

YAML = (".yaml", ".yml")

LABEL_FILES = ("data.yaml", "*.yaml", "*.yml", "*.json", "*/*.json", "*.csv", "*/*.csv")
"""Where a folder's label files may lie, likeliest first."""

MAX_PEEKED = 1 << 24
"""Bytes of a JSON file in a folder that is looked into to tell its format."""


def format_of_file(path: Path) -> tuple[str, str]:
    """What a file is that is no text of JSON, and what to do; empty texts where its beginning says nothing."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
    except OSError:
        return "", ""
    if not head.strip():
        return "an empty file", "export or download it again"
    begins = head.lstrip().lower()
    known = next(((name, fix) for mark, name, fix in IN_BYTES if begins.startswith(mark.lower())), None)
    if known:
        return known
    lines = [line for line in head.splitlines() if line.strip()]
    by_lines = len(lines) > 1 and all(line.startswith(b"{") and line.rstrip().endswith(b"}") for line in lines[:2])
    return ("JSON by lines", EXPORT) if by_lines else ("", "")


def format_of_address(path: Path, split: str = "") -> tuple[str, str]:
    """What a path that is no address of labels is, and what to do; empty texts where it says nothing."""
    if path.suffix.lower() == ".xml" and path.is_file() and (known := _format_of_xml(path)):
        return known
    if path.suffix.lower() in IN_NAMES and not path.is_dir():
        return IN_NAMES[path.suffix.lower()]
    if not path.is_dir():
        return "", ""
    if (path / "ImageSets").is_dir() or _has_xml(path, split):
        return "", _split_of(path)
    for folder in (path, path / split):
        for pattern, name, fix in IN_FOLDERS:
            if any(folder.glob(pattern)):
                return name, fix
    files = sorted(file for pattern in ("*.xml", "Annotations/*/*.xml") for file in path.glob(pattern))
    if files and (known := _format_of_xml(files[0])):
        return known
    return _format_of_inner(path)


def _has_xml(folder: Path, split: str) -> bool:
    """Whether a split of VOC's labels is there, with a list or without."""
    beside = (folder / split) if split else None
    inner = [place for place in (folder / "Annotations", folder / "annotations") if any(place.glob("*.xml"))]
    return bool(beside and (any(beside.glob("*.xml")) or (inner and beside.is_dir())))


def _format_of_inner(path: Path) -> tuple[str, str]:
    """What the label files in a folder say of it."""
    file = next((file for pattern in LABEL_FILES for file in sorted(path.glob(pattern))), None)
    if file is not None:
        name, fix = _format_of_json_file(file)
        if name or file.suffix == ".csv":
            return f"a folder with {file.name}, {name or 'a table'}", fix or TO_COCO
        return "", f"name one of its label files, such as {file}" + (":val" if file.suffix in YAML else "")
    if any(path.glob("*.xml")):
        return "", f"name it as {path.parent}:{path.name}"
    labels = next((name for name in ("Annotations", "annotations") if any((path / name).glob("*.xml"))), "")
    if labels:
        images = sorted(place.name for place in path.iterdir() if place.is_dir() and place.name != labels)
        return "", f"name the folder of images, as {path}:{images[0] if images else 'FOLDER'}"
    return "", ""


def _format_of_json_file(file: Path) -> tuple[str, str]:
    if file.suffix.lower() != ".json" or file.stat().st_size > MAX_PEEKED:
        return "", ""
    try:
        return format_of_json(json_from_file(file))
    except (OSError, ValueError, RecursionError):
        return format_of_file(file)


def _format_of_xml(path: Path) -> tuple[str, str] | None:
    with path.open("rb") as file:
        head = file.read(HEAD)
    return next(((name, fix) for mark, name, fix in IN_XML if mark in head), None)


def _split_of(folder: Path) -> str:
    splits = sorted(file.stem for file in (folder / "ImageSets/Main").glob("*.txt"))
    return f"write {folder}:{splits[0]}" if splits else ""
