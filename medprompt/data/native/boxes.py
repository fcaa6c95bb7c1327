"""From labels that are boxes already: VOC folders and COCO files, and a table with a row a box, as DFUC 2020 has it."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medprompt.core.errors import DataError
from medprompt.data.annotations import AnnotatedImage, Annotations
from medprompt.data.coco import annotations_from_coco
from medprompt.data.findings import MEANINGS, NEVER_ALLOWED
from medprompt.data.native.sample import Job, Sample, class_of, known_size, listed_images, zeros
from medprompt.data.registry import KnownSet, Part
from medprompt.data.voc import annotations_from_voc


def jobs_from_voc(known: KnownSet, source: Path, part: Part) -> list[Job]:
    """List the images of a split, which is the name of ``part.labels``."""
    return jobs_from_annotations(known, annotations_from_voc(source, Path(part.labels).stem))


def jobs_from_coco(known: KnownSet, source: Path, part: Part) -> list[Job]:
    """List the images of a split."""
    return jobs_from_annotations(known, annotations_from_coco(source / part.labels, source / part.folders[0]))


def jobs_from_annotations(known: KnownSet, found: Annotations) -> list[Job]:
    """A job for each image, with its boxes as they are written."""
    lost = [finding for finding in found.findings if finding.kind in NEVER_ALLOWED]
    if lost:
        raise DataError(MEANINGS[lost[0].kind], where=found.name, got=lost[0].detail)
    table = np.array([class_of(known, label, found.name) for label in found.labels], dtype=np.int64)
    return [Job(f"{found.name}: {image.name}", partial(_samples, image, table)) for image in found.images]


def _samples(image: AnnotatedImage, table: NDArray[np.int64]) -> list[Sample]:
    if image.path is None or image.size_hw is None:
        raise DataError("An image that the labels list is missing, or cannot be read.", got=image.name)
    name = str(Path(image.name).with_suffix(image.path.suffix)).replace("/", "-")
    return [
        Sample(
            name,
            image.path,
            image.size_hw,
            image.boxes_xyxy,
            table[image.class_ids],
            segmentations=[one and _plain(one.segmentation) for one in image.outlines],
            crowds=frozenset(np.flatnonzero(image.ignored)),
        )
    ]


def _plain(segmentation: Any) -> Any:
    """Polygons or run lengths whose numbers are kept packed, as JSON has them."""
    if isinstance(segmentation, Mapping):
        return {name: value if isinstance(value, str) else list(value) for name, value in segmentation.items()}
    return [list(polygon) for polygon in segmentation]


SIDES = ("xmin", "ymin", "xmax", "ymax")
NAMES = ("filename", "file_name", "file", "name", "image", "image_id")
"""What the column of image names may be called; case is ignored."""

Boxes = dict[str, list[list[float]]]


def jobs_from_csv(known: KnownSet, source: Path, part: Part) -> list[Job]:
    """List the images of a split; one that the table does not name has no box."""
    table = source / part.labels
    boxes = boxes_from_csv(table)
    images = listed_images(source, part)
    missing = sorted(set(boxes) - {path.stem for path in images})
    if missing:
        raise DataError(
            "Images that the table of boxes names are missing.",
            where=str(table),
            expected=f"them in {', '.join(part.folders)}",
            got=f"{len(missing)} missing, such as {missing[0]}",
        )
    return [Job(str(path), partial(_samples_of_table, path, boxes.get(path.stem, []))) for path in images]


def _samples_of_table(image: Path, objects: list[list[float]]) -> list[Sample]:
    boxes = np.array(objects, dtype=np.float64).reshape(-1, 4)
    return [Sample(image.name, image, known_size(image), boxes, zeros(boxes))]


def boxes_from_csv(path: Path) -> Boxes:
    """Boxes by the stem of their image, from columns such as ``name, xmin, ymin, xmax, ymax``.

    Raises:
        DataError: The file is missing or damaged, or lacks a column. A row without numbers says: no box.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            rows = [
                {str(key).strip().casefold(): str(value).strip() for key, value in row.items()}
                for row in csv.DictReader(handle)
            ]
    except (OSError, ValueError, csv.Error) as error:
        raise DataError("A table of boxes cannot be read.", where=str(path), got=repr(error)) from error
    column = next((name for name in NAMES if rows and name in rows[0]), None)
    if column is None or not set(SIDES) <= set(rows[0]):
        raise DataError(
            "A table of boxes lacks columns.",
            where=str(path),
            expected=f"{', '.join(SIDES)}, and {' or '.join(NAMES)}",
            got=", ".join(rows[0]) if rows else "no row",
        )
    boxes: Boxes = {}
    for number, row in enumerate(rows, start=2):
        boxes.setdefault(Path(row[column]).stem, []).extend(_boxes_of_row(row, f"{path}, line {number}"))
    return boxes


def _boxes_of_row(row: Mapping[str, str], where: str) -> list[list[float]]:
    if not any(row[side] for side in SIDES):
        return []
    try:
        return [[float(row[side]) for side in SIDES]]
    except ValueError as error:
        raise DataError("A row of a table of boxes cannot be read.", where=where, got=str(error)) from error
