"""Labelled images: COCO and VOC folders behind one dataclass, checked on the way in."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from medprompt.errors import DataError
from medprompt.files import sha256_of_file

IMAGE_FOLDERS = ("", "images", "JPEGImages", "train", "val")


@dataclass(frozen=True)
class LabelledImage:
    """One image and its boxes.

    Attributes:
        path: The image file.
        size_hw: Height and width in pixels, as the labels state them.
        boxes_xyxy: float32 ``[N, 4]`` in pixels, clipped to the image, none of zero area.
        class_ids: int64 ``[N]``, index into the set's ``labels``.
        held_out_xyxy: float32 ``[M, 4]``: objects that are there and that training shall say nothing about.
    """

    path: Path
    size_hw: tuple[int, int]
    boxes_xyxy: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    held_out_xyxy: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 4), dtype=np.float32))


@dataclass(frozen=True)
class DetectionSet:
    """A labelled data set.

    Attributes:
        name: Where it came from, for reports.
        labels: Category names; ``class_ids`` index into them.
        images: The images, in file order.
        dropped: One line for each box that was left out (zero area, outside the image).
    """

    name: str
    labels: tuple[str, ...]
    images: tuple[LabelledImage, ...]
    dropped: tuple[str, ...] = field(default=())

    def relabelled(self, labels: Sequence[str]) -> DetectionSet:
        """Index the boxes by another list of labels, which must hold all of this set's (case is ignored).

        Raises:
            DataError: A category that ``labels`` does not have.
        """
        places = {label.casefold(): place for place, label in enumerate(labels)}
        missing = [label for label in self.labels if label.casefold() not in places]
        if missing:
            raise DataError(
                "The data set has categories that no class of the prompts covers.",
                where=self.name,
                expected=f"a class in the prompts file for each of: {', '.join(self.labels)}",
                got=f"no class for: {', '.join(missing)}",
                fix="add the classes to the prompts file, under the label the data set uses",
            )
        table = np.array([places[label.casefold()] for label in self.labels], dtype=np.int64)
        images = tuple(replace(image, class_ids=table[image.class_ids]) for image in self.images)
        return DetectionSet(self.name, tuple(labels), images, self.dropped)

    def holding_out(self, labels: Sequence[str]) -> DetectionSet:
        """Take categories out of the labels; their boxes stay known as ``held_out_xyxy``.

        Raises:
            DataError: A label that the set does not have (case is ignored).
        """
        held_out = {label.casefold() for label in labels}
        unknown = held_out - {label.casefold() for label in self.labels}
        if unknown:
            raise DataError(
                "A class to hold out is not in the data set.",
                where=self.name,
                expected=", ".join(self.labels),
                got=", ".join(sorted(unknown)),
                fix="name categories of this data set under hold_out",
            )
        kept = [place for place, label in enumerate(self.labels) if label.casefold() not in held_out]
        images = tuple(_without(image, kept) for image in self.images)
        return DetectionSet(self.name, tuple(self.labels[place] for place in kept), images, self.dropped)

    def only(self, label: str) -> DetectionSet:
        """The same images with the boxes of one category alone, for measuring it by itself.

        Raises:
            DataError: The set does not have the label (case is ignored).
        """
        chosen = self.holding_out([other for other in self.labels if other.casefold() != label.casefold()])
        if not chosen.labels:
            raise DataError(
                "The data set has no such category.",
                where=self.name,
                expected=", ".join(self.labels),
                got=label,
                fix="name a label of the set",
            )
        return chosen


def _without(image: LabelledImage, kept: Sequence[int]) -> LabelledImage:
    stay = np.isin(image.class_ids, kept)
    held_out = np.concatenate([image.held_out_xyxy, image.boxes_xyxy[~stay]])
    places = np.searchsorted(np.array(kept, dtype=np.int64), image.class_ids[stay])
    return replace(image, boxes_xyxy=image.boxes_xyxy[stay], class_ids=places, held_out_xyxy=held_out)


def check_apart(chosen_on: DetectionSet, reported_on: DetectionSet) -> None:
    """Refuse to report on images that something was chosen or tuned on, known by their bytes: it would flatter.

    Raises:
        DataError: Naming the first image that both sets have.
    """
    seen = {sha256_of_file(image.path): image.path for image in chosen_on.images}
    pairs = [(seen.get(sha256_of_file(image.path)), image.path) for image in reported_on.images]
    shared = [(mine, other) for mine, other in pairs if mine is not None]
    if shared:
        raise DataError(
            "The two sets share images, so the report would be no proof.",
            where=f"{chosen_on.name} and {reported_on.name}",
            expected="two sets without a common image",
            got=f"{len(shared)} in both, such as {shared[0][0]} = {shared[0][1]}",
            fix="split the images, and pass one part to --data and the other to --report",
        )


def read_detection_set(source: str) -> DetectionSet:
    """Read a data set from ``FILE.json`` (COCO) or ``FOLDER:SPLIT`` (VOC, ``ImageSets/Main/SPLIT.txt``).

    Raises:
        DataError: Unknown form, missing or damaged files, or an empty split.
    """
    if source.endswith(".json"):
        found = read_coco(Path(source))
    else:
        folder, _, split = source.rpartition(":")
        if not folder:
            raise DataError(
                "The data set is named in an unknown form.",
                got=source,
                expected="a COCO file (FOLDER/train.json) or a VOC folder and split (FOLDER:train)",
            )
        found = read_voc(Path(folder), split)
    if not found.images:
        raise DataError("The data set has no image.", where=source)
    return found


def read_coco(path: Path) -> DetectionSet:
    """Read a COCO instances file; images lie beside it or in ``images/``. Crowd boxes are left out.

    Raises:
        DataError: The file is missing or damaged, or an image it lists is.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        categories = {entry["id"]: place for place, entry in enumerate(content["categories"])}
        labels = tuple(str(entry["name"]) for entry in content["categories"])
        boxes: dict[int, list[tuple[list[float], int]]] = {entry["id"]: [] for entry in content["images"]}
        for entry in content["annotations"]:
            if not entry.get("iscrowd"):
                left, top, width, height = entry["bbox"]
                box = [left, top, left + width, top + height]
                boxes[entry["image_id"]].append((box, categories[entry["category_id"]]))
        rows = [
            (str(entry["file_name"]), (int(entry["height"]), int(entry["width"])), boxes[entry["id"]])
            for entry in content["images"]
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError("The COCO file cannot be read.", where=str(path), got=repr(error)) from error
    return _detection_set(str(path), labels, rows, lambda name: _find_image(path.parent, name))


def read_voc(folder: Path, split: str) -> DetectionSet:
    """Read a VOC folder: ``ImageSets/Main/SPLIT.txt``, ``Annotations/*.xml``, ``JPEGImages/*``.

    Raises:
        DataError: A file is missing or damaged.
    """
    listing = folder / "ImageSets" / "Main" / f"{split}.txt"
    try:
        stems = listing.read_text(encoding="utf-8").split()
        rows_by_name = [_voc_row(folder / "Annotations" / f"{stem}.xml") for stem in stems]
    except (OSError, ElementTree.ParseError, TypeError, ValueError, AttributeError) as error:
        raise DataError("The VOC data set cannot be read.", where=str(listing), got=repr(error)) from error
    labels = tuple(sorted({name for _, _, objects in rows_by_name for _, name in objects}))
    rows = [
        (f"{stem}.jpg", size, [(box, labels.index(name)) for box, name in objects])
        for stem, (_, size, objects) in zip(stems, rows_by_name, strict=True)
    ]
    return _detection_set(f"{folder}:{split}", labels, rows, lambda name: _find_image(folder, name))


def _voc_row(path: Path) -> tuple[str, tuple[int, int], list[tuple[list[float], str]]]:
    root = ElementTree.parse(path).getroot()
    size = (int(root.findtext("size/height") or 0), int(root.findtext("size/width") or 0))
    objects = [
        (
            [float(node.findtext(f"bndbox/{side}") or "nan") for side in ("xmin", "ymin", "xmax", "ymax")],
            str(node.findtext("name")),
        )
        for node in root.iter("object")
    ]
    return path.stem, size, objects


def _find_image(folder: Path, name: str) -> Path:
    for place in IMAGE_FOLDERS:
        for suffix in ("", ".png", ".jpg"):
            candidate = folder / place / (name if not suffix else str(Path(name).with_suffix(suffix)))
            if candidate.is_file():
                return candidate
    raise DataError("An image that the labels list is missing.", where=str(folder), got=name)


Row = tuple[str, tuple[int, int], list[tuple[list[float], int]]]


def _detection_set(
    name: str, labels: tuple[str, ...], rows: Iterable[Row], find: Callable[[str], Path]
) -> DetectionSet:
    images, dropped = [], []
    for file_name, size_hw, objects in rows:
        boxes, class_ids = [], []
        for box, class_id in objects:
            clipped = _clipped(box, size_hw)
            if clipped is None:
                dropped.append(f"{file_name}: {labels[class_id]} {box}")
                continue
            boxes.append(clipped)
            class_ids.append(class_id)
        images.append(
            LabelledImage(
                find(file_name),
                size_hw,
                np.array(boxes, dtype=np.float32).reshape(-1, 4),
                np.array(class_ids, dtype=np.int64),
            )
        )
    return DetectionSet(name, labels, tuple(images), tuple(dropped))


def _clipped(box: Sequence[float], size_hw: tuple[int, int]) -> Any:
    height, width = size_hw
    limits = np.array([width, height, width, height], dtype=np.float64)
    clipped = np.clip(np.array(box, dtype=np.float64), 0, limits)
    return clipped if (clipped[2:] > clipped[:2]).all() else None
