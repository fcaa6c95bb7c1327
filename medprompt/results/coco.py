"""What a run found as COCO files: results for evaluation, with a label file's ids, and a data set for other tools."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medprompt.core.convert import coco_records
from medprompt.core.errors import InputError
from medprompt.core.files import write_json
from medprompt.core.output_kinds import file_kind
from medprompt.core.text import json_from_file, reason
from medprompt.results.run import Item, Run

COCO_RESULTS = file_kind(
    "COCO results",
    r'\[\s*(\]\s*$|\{\s*"image_id":[^{}]*"score":[^{}]*(\{[^{}]*\}[^{}]*)?"file_name":[^{}]*"category_name":)',
)

COCO_DATASET = file_kind(
    "a COCO data set of detections", r'\{\s*"info":\s*\{\s*"description":\s*"Detections of medprompt'
)


@dataclass(frozen=True)
class CocoIds:
    """Ids of images and classes as a COCO label file has them.

    Attributes:
        source: The file.
        images: By ``file_name``, with ``/`` between folders.
        sizes: Stated height and width, by id; of images that state them.
        categories: By name, lower case without blanks around it.
    """

    source: Path
    images: Mapping[str, int]
    sizes: Mapping[int, tuple[int, int]]
    categories: Mapping[str, int]

    def of_image(self, path: Path) -> int | None:
        """Id of an image: of the longest name that ends its path, or else of the one whose last part is the file's."""
        parts = path.absolute().parts
        names = ("/".join(parts[start:]) for start in range(len(parts)))
        found = next((self.images[name] for name in names if name in self.images), None)
        alike = (
            [key for name, key in self.images.items() if name.rpartition("/")[2] == path.name] if found is None else []
        )
        return alike[0] if len(alike) == 1 else found

    def of_class(self, label: str) -> int | None:
        """Id of a class; None where the file has none of that name."""
        return self.categories.get(_folded(label))

    def gaps(self, paths: Sequence[Path], labels: Sequence[str], framed: Iterable[Path] = ()) -> Iterator[str]:
        """What the rows will not hold, and what an evaluation will miss, in words.

        Args:
            paths: The images of a run.
            labels: Its classes.
            framed: Those of the files that have several frames.

        Raises:
            InputError: No image or no class of the run is in the file, two images have one id there, or a file has
                several frames, which have no ids there.
        """
        if several := list(framed):
            raise self._unfit("frames of a file have no ids in it", str(several[0]))
        known: dict[int, Path] = {}
        for path in paths:
            number = self.of_image(path)
            if number in known:
                raise self._unfit("two images have one id in it", f"{known[number]} and {path}: {number}")
            if number is not None:
                known[number] = path
        if not known:
            raise self._unfit("none of the images is in it", ", ".join(map(str, paths[:3])))
        if not any(self.of_class(label) is not None for label in labels):
            raise self._unfit("none of the classes is in it", ", ".join(labels))
        if absent := len(paths) - len(known):
            yield f"{absent} of {len(paths)} images are not in {self.source}: the COCO file has no rows of them"
        if others := [label for label in labels if self.of_class(label) is None]:
            yield f"classes that are not in {self.source} have no rows in the COCO file: {', '.join(others)}"
        if rest := len(self.images) - len(known):
            yield f"{rest} images of {self.source} were not analysed; an evaluation counts their boxes as missed"

    def other_sizes(self, run: Run) -> Iterator[str]:
        """A warning where images of a run have another size than is stated: the boxes would not lie on each other."""
        pairs = [
            (item.detections.size_hw, self.of_image(item.path)) for item in run.items if item.detections is not None
        ]
        other = sum(key is not None and self.sizes.get(key, size) != size for size, key in pairs)
        if other:
            yield f"{other} images have another size than {self.source} states: figures from the COCO file are wrong"

    def _unfit(self, problem: str, got: str) -> InputError:
        return InputError(
            f"The ids of the label file cannot be taken: {problem}.",
            where=str(self.source),
            got=got,
            fix="name the label file of these images, or leave coco_ids= out",
        )


def coco_ids_from_file(path: Path) -> CocoIds:
    """Read ids from a COCO label file.

    Raises:
        InputError: It is missing or no such file, an id is no whole number, or two images or categories have one name
            or one id.
    """
    try:
        content = json_from_file(path)
        images = [_entry(one, "file_name") for one in content["images"]]
        categories = [_entry(one, "name") for one in content["categories"]]
        sizes = {
            one["id"]: (one["height"], one["width"]) for one in content["images"] if {"height", "width"} <= set(one)
        }
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            "The ids of the label file cannot be read.",
            where=str(path),
            expected="COCO: images with id and file_name, categories with id and name; ids are whole numbers",
            got=reason(error),
            fix="`medprompt data check` says more about label files",
        ) from error
    for entries, what in ((images, "images"), (categories, "categories")):
        for part, column in (("name", 0), ("id", 1)):
            if twice := [one for one, count in Counter(entry[column] for entry in entries).items() if count > 1]:
                raise InputError(f"Two {what} of the label file have one {part}.", where=str(path), got=str(twice[0]))
    return CocoIds(
        path,
        {name.replace("\\", "/"): key for name, key in images},
        sizes,
        {_folded(name): key for name, key in categories},
    )


def _entry(entry: Mapping[str, Any], name: str) -> tuple[str, int]:
    """Name and id of an image or a category."""
    if not isinstance(entry, Mapping):
        raise TypeError("an entry is no object")
    text, key = entry[name], entry["id"]
    if not isinstance(text, str) or not isinstance(key, int) or isinstance(key, bool):
        raise TypeError(f"{name} {text!r} with the id {key!r}")
    return (_folded(text) if name == "name" else text), key


def _folded(label: str) -> str:
    return label.strip().casefold()


def write_coco(run: Run, path: Path, ids: CocoIds | None = None) -> None:
    """Write the detections as COCO results, whole or not at all.

    Without ``ids`` they count from 1: ``image_id`` in the order of the run's images, ``category_id`` in the order of
    its classes. Each row also names file and class, the frame where the file has several, and the hash of the image's
    prompt set where that is not the whole bank. The format has no place for images that failed, nor for the phrases of
    a set: look them up in the results file.

    Raises:
        InputError: The path cannot be written to.
    """
    write_json(path, coco_results(run, ids), allow_nan=False)


def coco_results(run: Run, ids: CocoIds | None = None) -> list[dict[str, Any]]:
    """Rows of a COCO results file; ``bbox`` is left, top, width, height in source pixels, ``segmentation`` RLE.

    With ``ids``, images and classes that these do not have are left out, see ``CocoIds.gaps``.
    """
    names = relative_names(item.path for item in run.items)
    numbers = {label: number for number, label in enumerate(run.labels, start=1)}
    classes = {label: ids.of_class(label) if ids else number for label, number in numbers.items()}
    return [
        {
            **record,
            "category_id": classes[label],
            "file_name": names[item.path],
            "category_name": label,
            **({"frame": item.frame} if item.frame is not None else {}),
            **({"prompt_set": item.prompt_set.hash} if item.prompt_set else {}),
        }
        for number, item in enumerate(run.items, start=1)
        if item.detections is not None and (image := ids.of_image(item.path) if ids else number) is not None
        for record in coco_records(item.detections, image, numbers)
        if classes[label := run.labels[record["category_id"] - 1]] is not None
    ]


def relative_names(paths: Iterable[Path]) -> dict[Path, str]:
    """A name for each file below the folder that all share, with ``/`` between folders."""
    known = list(dict.fromkeys(paths))
    folders = [str(path.absolute().parent) for path in known]
    try:
        root = os.path.commonpath(folders) if folders else ""
    except ValueError:  # several drives
        return {path: path.absolute().as_posix() for path in known}
    return {path: path.absolute().relative_to(root).as_posix() for path in known}


def write_coco_dataset(run: Run, path: Path) -> None:
    """Write images, classes and detections as one COCO data set, whole or not at all.

    CVAT, Datumaro, FiftyOne and supervision read it as they read labels. Boxes are cut at the image's edge; each
    annotation has its ``score``. Images about which nothing is known are listed in ``info``, not among the images.

    Raises:
        InputError: The path cannot be written to.
    """
    write_json(path, coco_dataset(run), allow_nan=False)


def coco_dataset(run: Run) -> dict[str, Any]:
    """The content of a COCO data set; ids count from 1."""
    names = relative_names(item.path for item in run.items)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, item in enumerate((item for item in run.items if item.detections is not None), start=1):
        assert item.detections is not None
        height, width = item.detections.size_hw
        images.append({"id": number, "file_name": _framed(names, item), "height": height, "width": width})
        annotations += [
            {"id": len(annotations) + n, **row} for n, row in enumerate(_annotations(item, number), start=1)
        ]
    return {
        "info": {
            "description": "Detections of medprompt, not labels",
            "bundle_sha256": run.bundle_sha256,
            "not_analysed": [_framed(names, item) for item in run.failed],
        },
        "images": images,
        "categories": [{"id": n, "name": label, "supercategory": ""} for n, label in enumerate(run.labels, start=1)],
        "annotations": [{"id": n, **row} for n, row in enumerate(annotations, start=1)],
    }


def _framed(names: Mapping[Path, str], item: Item) -> str:
    return names[item.path] if item.frame is None else f"{names[item.path]}#frame {item.frame}"


def _annotations(item: Item, image_id: int) -> Iterator[dict[str, Any]]:
    found = item.detections
    assert found is not None
    height, width = found.size_hw
    boxes = np.clip(found.boxes_xyxy, 0, [width, height, width, height]).astype(float).round(3)
    for index, (left, top, right, bottom) in enumerate(boxes.tolist()):
        sides = round(right - left, 3), round(bottom - top, 3)
        if min(sides) > 0:  # nothing of it is in the image
            yield {
                "image_id": image_id,
                "category_id": int(found.class_ids[index]) + 1,
                "bbox": [left, top, *sides],
                "area": round(sides[0] * sides[1], 3) if found.masks is None else int(found.masks.areas[index]),
                "iscrowd": 0,
                "segmentation": [] if found.masks is None else found.masks.rle(index),
                "score": round(float(found.scores[index]), 6),
            }
