"""YOLO data sets as Ultralytics describes them: ``data.yaml``, images, and a text file of boxes for each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from medprompt.core.errors import DataError
from medprompt.data.annotations import UNKNOWN, AnnotatedImage, Annotations, annotated_image
from medprompt.data.outlines import box_from_polygons
from medprompt.data.sizes import size_of_image
from medprompt.images.decode import SUFFIXES

NO_SPLITS = ("names", "nc", "path")
"""Entries of ``data.yaml`` that are none."""

Objects = list[tuple[list[float], int]]


def annotations_from_yolo(path: Path, split: str) -> Annotations:
    """Read a split of a YOLO data set.

    ``data.yaml`` names the classes (``names``, a list or a mapping from 0) and for each split a folder of images, a
    text file that lists images, or several of them, from ``path`` if that is given. The labels of ``images/a.jpg`` are
    in ``labels/a.txt``: ``class x y width height`` a line, or ``class x y x y …`` for a polygon, as shares of the
    image. An image without such a file has no box.

    Raises:
        DataError: A file is missing or damaged, or there is no such split.
    """
    content = _yaml(path)
    labels = _labels(path, content)
    wanted = content.get(split) if split not in NO_SPLITS else None
    if not wanted:
        raise DataError(
            "The YOLO data set has no such split.",
            where=str(path),
            expected=", ".join(key for key in ("train", "val", "test") if content.get(key)) or "train, val or test",
            got=split or "none named",
            fix=f"write {path}:SPLIT",
        )
    root = _root(path, content)
    files = [file for part in (wanted if isinstance(wanted, list) else [wanted]) for file in _files(root, str(part))]
    orphans: list[str] = []
    images = tuple(_image(root, file, labels, orphans) for file in files)
    return Annotations(f"{path}:{split}", labels, images, tuple(orphans))


def _yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError("The YOLO data set cannot be read.", where=str(path), got=repr(error)) from error
    if not isinstance(content, dict) or not content.get("names"):
        raise DataError("The YOLO data set names no classes.", where=str(path), expected="names: a list or a mapping")
    return content


def _labels(path: Path, content: dict[str, Any]) -> tuple[str, ...]:
    names = content["names"]
    if isinstance(names, dict):
        if set(names) != set(range(len(names))):
            raise DataError(
                "The class ids of the YOLO data set have gaps.",
                where=f"{path}, names",
                expected=f"0 … {len(names) - 1}",
                got=", ".join(map(str, names)),
            )
        names = [names[index] for index in range(len(names))]
    count = content.get("nc")
    if not isinstance(names, list) or count not in (None, len(names)):
        raise DataError(
            "The YOLO data set does not say what its classes are.",
            where=f"{path}, names",
            expected="a list of names" + (f", {count} of them (nc)" if count is not None else ""),
            got=repr(names),
        )
    return tuple(map(str, names))


def _root(path: Path, content: dict[str, Any]) -> Path:
    """Absolute, from the file's own folder, or that folder where ``path`` is meant from another program's."""
    given = Path(str(content.get("path") or ""))
    root = path.parent / given
    return root if root.is_dir() else path.parent


def _files(root: Path, part: str) -> list[Path]:
    """The images of one entry: a folder's, or those that a text file lists."""
    path = root / part
    if not path.exists() and part.startswith("../"):
        path = root / part[3:]  # exporters write it as if data.yaml lay one folder deeper
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(
            "The images of the YOLO data set are not found.",
            where=str(path),
            expected="a folder of images, or a text file with an image a line",
            got=repr(error),
            fix="correct path, or the split, in data.yaml",
        ) from error
    names = [line.strip() for line in lines if line.strip()]
    # Lists mean their own folder or the data set's.
    return [near if (near := path.parent / name).is_file() else root / name for name in names]


def _image(root: Path, file: Path, labels: Sequence[str], orphans: list[str]) -> AnnotatedImage:
    name = str(file.relative_to(root)) if file.is_relative_to(root) else str(file)
    size_hw = size_of_image(file) if file.is_file() else None
    text = label_file(file)
    objects: Objects = []
    if size_hw and text.is_file():
        for number, line in enumerate(_lines(text), start=1):
            box, class_id = _object(line, size_hw, f"{text}, line {number}")
            if not 0 <= class_id < len(labels):
                orphans.append(f"{text}, line {number}: no class has the id {class_id}")
                class_id = UNKNOWN
            objects.append((box, class_id))
    return annotated_image(name, file if file.is_file() else None, size_hw, objects)


def label_file(image: Path) -> Path:
    """The text file with an image's boxes: the last folder called ``images`` becomes ``labels``."""
    parts = list(image.parts)
    for index in range(len(parts) - 2, -1, -1):
        if parts[index] == "images":
            parts[index] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise DataError("A label file cannot be read.", where=str(path), got=repr(error)) from error


def _object(line: str, size_hw: tuple[int, int], where: str) -> tuple[list[float], int]:
    """Box in pixels, and class id, of a line."""
    height, width = size_hw
    try:
        first, *rest = line.split()
        values = [float(value) for value in rest]
        class_id = int(first.removesuffix(".0"))  # some exporters write every number as a float
        if len(values) == 4:
            x, y, wide, high = values
            shares = [x - wide / 2, y - high / 2, x + wide / 2, y + high / 2]
        else:
            shares = box_from_polygons([values])
    except ValueError as error:
        raise DataError(
            "A line of a label file cannot be read.",
            where=where,
            expected="class x y width height, or class x y x y x y … (a polygon), as shares of the image",
            got=line,
        ) from error
    return [shares[0] * width, shares[1] * height, shares[2] * width, shares[3] * height], class_id
