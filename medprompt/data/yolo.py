"""YOLO data sets as Ultralytics describes them: ``data.yaml``, images, and a text file of boxes for each."""

from __future__ import annotations

import math
import os
import re
import unicodedata
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from medprompt.core.errors import DataError
from medprompt.core.files import real_path
from medprompt.core.text import read_text, reason
from medprompt.core.yaml import YamlFile, read_yaml_file
from medprompt.data.annotations import (
    UNKNOWN,
    AnnotatedImage,
    Annotations,
    LabelledObject,
    Size,
    annotated_image,
)
from medprompt.data.find import names_of_path
from medprompt.data.findings import Finding
from medprompt.data.outlines import Outline, box_from_polygons
from medprompt.images.decode import SUFFIXES

NO_SPLITS = frozenset({"names", "nc", "path", "kpt_shape", "flip_idx", "channels", "download", "roboflow", "yaml_file"})
"""Entries of ``data.yaml`` that are none."""

LABEL_FOLDERS = ("labels", "Labels", "LABELS", "label", "Label")
"""What stands in a path for the folder ``images``, the usual name first."""

NO_LABELS = frozenset({"classes", "labels", "notes", "readme", "predefined_classes", "train", "val", "test"})
"""Text files that lie beside label files and are none."""

LEAST_POLYGONS, MOST, ROUNDING = 10, 0.95, 1e-3
"""Polygons of a split that prove something, the share of them that look like boxes where they are some, and the shares
of an image that digits lose. A polygon whose first corner is right of or under two thirds of the image never does."""

SHOWN = 80
"""Characters of a line that a message repeats."""


@dataclass
class _Set:
    """What the images of a split share.

    Attributes:
        listings: Label files of folders, by name without suffix.
        images: Those of each label file.
        like_boxes: For each polygon whether it may be a box with points after it.
    """

    root: Path
    labels: tuple[str, ...]
    keypoints: int
    findings: list[Finding] = field(default_factory=list)
    listings: dict[Path, dict[str, Path]] = field(default_factory=dict)
    images: dict[Path, dict[Path, None]] = field(default_factory=dict)
    like_boxes: list[bool] = field(default_factory=list)


def annotations_from_yolo(path: Path, split: str, images: Path | None = None) -> Annotations:
    """Read a split of a YOLO data set.

    ``data.yaml`` names the classes (``names``, a list or a mapping from 0) and for each split a folder of images, a
    text file that lists images, or several of them, from ``images`` or else ``path`` if that is given. The labels of
    ``images/a.jpg`` are in ``labels/a.txt``: ``class x y width height`` a line, with keypoints after it where
    ``kpt_shape`` is given, or ``class x y x y x y …`` for a polygon, as shares of the upright image. An image without
    such a file has no box.

    Raises:
        DataError: A file is missing or damaged, or there is no such split.
    """
    file = read_yaml_file(
        path, DataError("The YOLO data set cannot be read.", fix="mend data.yaml: `medprompt docs datasets`")
    )
    content = file.value
    if not isinstance(content, dict) or not content.get("names"):
        expected = "names: a list or a mapping"
        raise DataError(
            "The YOLO data set names no classes.", where=str(path), expected=expected, fix=f"add {expected}"
        )
    found = _Set(images or _root(path, content), _labels(path, file), _keypoints(path, content.get("kpt_shape")))
    parts = _parts(path, content, split)
    seen = tuple(_image(found, image) for part in parts for image in _files(found.root, str(part)))
    findings = [*found.findings, *_of_two_images(found), *_with_points(found, str(path))]
    if all(_place(found.root, str(part)).is_dir() for part in parts):  # a list need not name all
        findings.extend(_without_image(found, {image.path.parent for image in seen if image.path}))
    return Annotations(f"{path}:{split}", found.labels, seen, tuple(findings))


def _of_two_images(found: _Set) -> Iterator[Finding]:
    """Label files that several images lead to: a picture and its mask, or its thumbnail, beside each other."""
    for text, images in found.images.items():
        if len(images) > 1:
            names = " and ".join(str(image) for image in images)
            yield Finding("ambiguous_image", str(text), f"{text} is the label file of {names}")


def _without_image(found: _Set, folders: set[Path]) -> Iterator[Finding]:
    """Label files that no image leads to: it is lost, or of a kind that is not read."""
    listed = [file for folder, files in found.listings.items() if folder not in folders for file in files.values()]
    lone = [file for file in listed if file not in found.images and file.stem.lower() not in NO_LABELS]
    if lone:
        yield Finding("no_image", str(lone[0].parent), f"{len(lone)} of {len(listed)} label files, such as {lone[0]}")


def _with_points(found: _Set, where: str) -> Iterator[Finding]:
    """Polygons that are boxes with keypoints or corners after them, as far as a whole split tells."""
    like_boxes = sum(found.like_boxes)
    if len(found.like_boxes) >= LEAST_POLYGONS and like_boxes >= MOST * len(found.like_boxes):
        told = f"{like_boxes} of {len(found.like_boxes)} lines of more than four numbers: keypoints need kpt_shape"
        yield Finding("keypoints", where, told)


def _parts(path: Path, content: dict[str, Any], split: str) -> list[Any]:
    """The entries of a split."""
    wanted = content.get(split) if split not in NO_SPLITS else None
    if not wanted:
        there = [str(key) for key, value in content.items() if key not in NO_SPLITS and isinstance(value, str | list)]
        raise DataError(
            "The YOLO data set has no such split.",
            where=str(path),
            expected=", ".join(there) or "train, val or test",
            got=split or "none named",
            fix=f"write {path}:{there[-1] if there else 'SPLIT'}",
        )
    return wanted if isinstance(wanted, list) else [wanted]


def _labels(path: Path, file: YamlFile) -> tuple[str, ...]:
    """The classes in the order of their ids, as they are written: a class may be called ``no``."""
    names = file.value["names"]
    where = f"{path}, line {file.line('names')}, names"
    if isinstance(names, dict):
        ids = {str(key).strip(): key for key in names}
        if set(ids) != {str(index) for index in range(len(names))}:
            raise DataError(
                "The class ids of the YOLO data set have gaps.",
                where=where,
                expected=f"0 … {len(names) - 1}",
                got=", ".join(map(repr, names)),
                fix="name every class, from 0 on",
            )
        keys: Sequence[Any] = [ids[str(index)] for index in range(len(names))]
    else:
        keys = range(len(names)) if isinstance(names, list) else ()
    written = [(file.written("names", key), names[key]) for key in keys]  # "no", where the value is False
    texts = [_name_of_class(value, word) for word, value in written]
    count = file.value.get("nc")
    if not texts or not all(texts) or str(count) not in ("None", str(len(texts))):
        raise DataError(
            "The YOLO data set does not say what its classes are.",
            where=where,
            expected="a list of names" + (f", {count} of them (nc)" if count is not None else ""),
            got=", ".join(map(repr, texts))
            if texts
            else f"no list: is there a blank after each colon? {names}"[:SHOWN],
            fix="name every class in names, and as many in nc",
        )
    return tuple(texts)


def _name_of_class(value: Any, word: str | None) -> str:
    """Empty where there is none: neither nothing nor a list is a name."""
    if (value is None and word in ("", "~", None)) or isinstance(value, list | dict):
        return ""
    return str(value if word is None else word).strip()


def _keypoints(path: Path, shape: Any) -> int:
    """How many numbers of keypoints follow a box."""
    if shape is None:
        return 0
    if isinstance(shape, list) and len(shape) == 2 and all(isinstance(side, int) and side > 0 for side in shape):
        return math.prod(shape)
    expected = "two whole numbers: keypoints, and numbers of each"
    raise DataError(
        "The keypoints of the YOLO data set have no shape.",
        where=f"{path}, kpt_shape",
        expected=expected,
        got=str(shape)[:SHOWN],
        fix="write kpt_shape: [17, 3], or as many as a line has",
    )


def _root(path: Path, content: dict[str, Any]) -> Path:
    """Absolute, from the file's own folder, or that folder where ``path`` is meant from another program's."""
    given = Path(str(content.get("path") or ""))
    root = path.parent / given
    return root if root.is_dir() else path.parent


def _files(root: Path, part: str) -> list[Path]:
    """The images of one entry: a folder's, or those that a text file lists."""
    path = _place(root, part)
    if path.is_dir():
        inside = (file for file in _walk(path) if file.suffix.lower() in SUFFIXES)
        return sorted(file for file in inside if not file.name.startswith(".") and file.is_file())
    try:
        lines = read_text(path).splitlines()
    except (OSError, ValueError) as error:
        raise DataError(
            "The images of the YOLO data set are not found.",
            where=str(path),
            expected="a folder of images, or a text file with an image a line",
            got=reason(error),
            fix="correct path, or the split, in data.yaml, or pass images=FOLDER",
        ) from error
    return [_listed(root, path, line.strip()) for line in lines if line.strip()]


def _walk(folder: Path) -> Iterator[Path]:
    """What lies in a folder and below, where links lead too, each folder once."""
    seen: set[Path] = set()
    for place, inner, files in os.walk(folder, followlinks=True):
        seen.add(real_path(Path(place)))
        inner[:] = [name for name in inner if real_path(Path(place, name)) not in seen]
        yield from (Path(place, name) for name in files)


def _place(root: Path, part: str) -> Path:
    """Where an entry lies: exporters write ``../`` as if data.yaml lay one folder deeper, and Windows backslashes."""
    parts = dict.fromkeys((part, part.replace("\\", "/")))
    ways = [way for text in parts for way in ([text.removeprefix("../"), text] if text.startswith("../") else [text])]
    return next((root / way for way in ways if (root / way).exists()), root / part)


def _listed(root: Path, listing: Path, name: str) -> Path:
    """The image of a line: from the list's own folder or the data set's, with or without the folders before it."""
    names = [way for text in dict.fromkeys((name, name.replace("\\", "/"))) for way, _ in names_of_path(text)]
    ways = (folder / way for way in names for folder in (listing.parent, root))
    return next((way for way in ways if way.is_file()), root / name)


def _image(found: _Set, file: Path) -> AnnotatedImage:
    name = str(file.relative_to(found.root)) if file.is_relative_to(found.root) else str(file)
    there = file.is_file()
    text = label_file(file, found.listings) if there else None
    if not there:
        found.findings.append(Finding("missing_image", name, f"{name}; looked in {found.root}"))
    elif text is None:
        first, *more = dict.fromkeys(_folders(file.parent))
        looked = " and ".join(map(str, (first, *(folder for folder in more if folder.is_dir()))))
        found.findings.append(Finding("no_label_file", name, f"{file.stem}.txt; looked in {looked}"))
    if text is not None:
        found.images.setdefault(text, {})[file] = None
    return annotated_image(name, file if there else None, None, partial(_objects, found, text))


def label_file(image: Path, listings: dict[Path, dict[str, Path]]) -> Path | None:
    """The text file with an image's boxes: the last folder called ``images`` becomes ``labels``.

    A folder of another case, and a name with percent signs for what is no letter, are understood. ``listings`` keeps
    the folders that were looked into.
    """
    for folder in _folders(image.parent):
        if folder not in listings:
            files = sorted(folder.glob("*")) if folder.is_dir() else []
            listings[folder] = {_plain(file.stem): file for file in files if file.suffix.lower() == ".txt"}
        exact = folder / f"{image.stem}.txt"
        if exact.is_file():
            return exact
        if _plain(image.stem) in listings[folder]:
            return listings[folder][_plain(image.stem)]
    return None


def _plain(stem: str) -> str:
    return unicodedata.normalize("NFC", unquote(stem))


def _folders(images: Path) -> Iterator[Path]:
    """Where the labels of a folder of images may lie."""
    parts = list(images.parts)
    places = [index for index, part in enumerate(parts) if part.lower() in ("images", "image")]
    if not places:
        yield images
        return
    for name in LABEL_FOLDERS:
        yield Path(*parts[: places[-1]], name, *parts[places[-1] + 1 :])
    yield images


def _objects(found: _Set, text: Path | None, size_hw: Size | None) -> list[LabelledObject]:
    if text is None or size_hw is None:
        return []
    try:
        lines = [line for line in read_text(text).splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        fix = "write it anew, as text in UTF-8"
        raise DataError("A label file cannot be read.", where=str(text), got=reason(error), fix=fix) from error
    objects = []
    for number, line in enumerate(lines, start=1):
        box, class_id, outline = _object(line, size_hw, found.keypoints, f"{text}, line {number}")
        if outline is not None:
            found.like_boxes.append(_like_box(outline, size_hw))
        if not 0 <= class_id < len(found.labels):
            told = f"{text}, line {number}: no class has the id {class_id}"
            found.findings.append(Finding("undeclared", str(text), told))
            class_id = UNKNOWN
        objects.append(LabelledObject(box, class_id, outline=outline))
    return objects


def _object(line: str, size_hw: Size, keypoints: int, where: str) -> tuple[list[float], int, Outline | None]:
    """Box in pixels, class id, and polygon where there is one, of a line."""
    height, width = size_hw
    outline = None
    try:
        first, *rest = line.split()
        values = [float(value) for value in rest]
        class_id = _whole(first)
        if len(values) == 4 or (keypoints and len(values) == 4 + keypoints):
            x, y, wide, high = values[:4]
            shares = [x - wide / 2, y - high / 2, x + wide / 2, y + high / 2]
        else:
            shares = box_from_polygons([] if keypoints else [values])
            corners = [value * (height if place % 2 else width) for place, value in enumerate(values)]
            outline = Outline([array("d", corners)], where)
    except ValueError as error:
        forms = "class x y width height, or class x y x y x y … (a polygon), as shares of the image"
        raise DataError(
            "A line of a label file cannot be read.",
            where=where,
            expected=f"class x y width height and {keypoints} numbers of keypoints" if keypoints else forms,
            got=line[:SHOWN] + ("…" if len(line) > SHOWN else ""),
            fix="separate by blanks, number classes from 0 as data.yaml does, and take scores out",
        ) from error
    return [shares[0] * width, shares[1] * height, shares[2] * width, shares[3] * height], class_id, outline


def _like_box(outline: Outline, size_hw: Size) -> bool:
    """Whether the first four numbers of a polygon are a box in the image that the other points lie in."""
    values = np.array(outline.segmentation[0]) / np.tile(size_hw[::-1], len(outline.segmentation[0]) // 2)
    (x, y, width, height), points = values[:4], values[4:].reshape(-1, 2)
    sides = np.array([[x - width / 2, y - height / 2], [x + width / 2, y + height / 2]])
    shown = points[(points != 0).any(axis=1)]
    inside = (shown >= sides[0] - ROUNDING) & (shown <= sides[1] + ROUNDING)
    return bool((np.abs(sides - 0.5) <= 0.5 + ROUNDING).all() and inside.all())


def _whole(text: str) -> int:
    """A whole number, be it written as a float: NumPy's savetxt writes 2.000000e+00."""
    value = int(text) if re.fullmatch(r"[+-]?\d+", text) else float(text)
    if value != int(value):
        raise ValueError(f"{text!r} is no class id")
    return int(value)
