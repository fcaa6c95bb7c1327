"""What a run found as COCO files: results for evaluation, with a label file's ids, and a data set for other tools."""

from __future__ import annotations

import json
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
from medprompt.core.outputs import file_kind
from medprompt.results.run import Item, Run

COCO_RESULTS = file_kind(
    "COCO results", r'\[\s*(\]\s*$|\{\s*"image_id":[^{}]*"score":[^{}]*"file_name":[^{}]*"category_name":)'
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
        categories: By name, lower case without blanks around it.
    """

    source: Path
    images: Mapping[str, Any]
    categories: Mapping[str, Any]

    def of_image(self, path: Path) -> Any | None:
        """Id of the image whose name is the end of a path, the longest such name; None where there is none."""
        parts = path.absolute().parts
        names = ("/".join(parts[start:]) for start in range(len(parts)))
        return next((self.images[name] for name in names if name in self.images), None)

    def of_class(self, label: str) -> Any | None:
        """Id of a class; None where the file has none of that name."""
        return self.categories.get(_folded(label))

    def gaps(self, paths: Sequence[Path], labels: Sequence[str], framed: Iterable[Path] = ()) -> Iterator[str]:
        """What the rows will not hold, and what an evaluation will miss, in words.

        Args:
            paths: The images of a run.
            labels: Its classes.
            framed: Those of the files that have several frames.

        Raises:
            InputError: No image or no class of the run is in the file, or a file has several frames, which have no ids
                there.
        """
        if several := list(framed):
            raise self._unfit("frames of a file have no ids in it", str(several[0]))
        known = [self.of_image(path) for path in paths]
        if not any(one is not None for one in known):
            raise self._unfit("none of the images is in it", ", ".join(map(str, paths[:3])))
        if not any(self.of_class(label) is not None for label in labels):
            raise self._unfit("none of the classes is in it", ", ".join(labels))
        if absent := known.count(None):
            yield f"{absent} of {len(paths)} images are not in {self.source}: the COCO file has no rows of them"
        if others := [label for label in labels if self.of_class(label) is None]:
            yield f"classes that are not in {self.source} have no rows in the COCO file: {', '.join(others)}"
        if rest := len(self.images) - len({str(one) for one in known if one is not None}):
            yield f"{rest} images of {self.source} were not analysed; an evaluation counts their boxes as missed"

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
        InputError: It is missing or no such file, or two images or two categories have one name.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        images = [(str(entry["file_name"]).replace("\\", "/"), entry["id"]) for entry in content["images"]]
        categories = [(_folded(str(entry["name"])), entry["id"]) for entry in content["categories"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            "This is no COCO label file.",
            where=str(path),
            expected="images with id and file_name, and categories with id and name",
            got=error.strerror or "" if isinstance(error, OSError) else type(error).__name__,
            fix="name the file with the labels (instances JSON)",
        ) from error
    for entries, what in ((images, "images"), (categories, "categories")):
        if twice := [name for name, count in Counter(name for name, _ in entries).items() if count > 1]:
            raise InputError(f"Two {what} of the label file have one name.", where=str(path), got=twice[0])
    return CocoIds(path, dict(images), dict(categories))


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
    """Rows of a COCO results file; ``bbox`` is left, top, width, height in source pixels.

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
    for (left, top, right, bottom), score, class_id in zip(boxes.tolist(), found.scores, found.class_ids, strict=True):
        sides = round(right - left, 3), round(bottom - top, 3)
        if min(sides) > 0:  # nothing of it is in the image
            yield {
                "image_id": image_id,
                "category_id": int(class_id) + 1,
                "bbox": [left, top, *sides],
                "area": round(sides[0] * sides[1], 3),
                "iscrowd": 0,
                "segmentation": [],
                "score": round(float(score), 6),
            }
