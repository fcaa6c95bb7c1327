"""A folder of images and a table of boxes, a row a box, as DFUC 2020 has them."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from medprompt.core.errors import DataError
from medprompt.data.native.sample import Job, Sample, known_size, listed_images, zeros
from medprompt.data.registry import KnownSet, Part

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
    return [Job(str(path), partial(_samples, path, boxes.get(path.stem, []))) for path in images]


def _samples(image: Path, objects: list[list[float]]) -> list[Sample]:
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
        boxes.setdefault(Path(row[column]).stem, []).extend(_box(row, f"{path}, line {number}"))
    return boxes


def _box(row: Mapping[str, str], where: str) -> list[list[float]]:
    if not any(row[side] for side in SIDES):
        return []
    try:
        return [[float(row[side]) for side in SIDES]]
    except ValueError as error:
        raise DataError("A row of a table of boxes cannot be read.", where=where, got=str(error)) from error
