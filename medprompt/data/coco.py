"""COCO instances files: boxes, and boxes of what is only outlined."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medprompt.core.errors import DataError
from medprompt.data.annotations import UNKNOWN, Annotations, annotated_image, find_image
from medprompt.data.outlines import box_from_segmentation

Box = list[float]


def annotations_from_coco(path: Path, folder: Path | None = None) -> Annotations:
    """Read a COCO instances file; images lie beside it or in ``images/``, or so in ``folder``. Crowds are left out.

    A box that is not given is that of its segmentation.

    Raises:
        DataError: The file is missing or damaged.
    """
    root = folder or path.parent
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        class_ids = {entry["id"]: number for number, entry in enumerate(content["categories"])}
        labels = tuple(str(entry["name"]) for entry in content["categories"])
        sizes = {entry["id"]: (int(entry["height"]), int(entry["width"])) for entry in content["images"]}
        names = {entry["id"]: str(entry["file_name"]) for entry in content["images"]}
        twice = [key for key, count in Counter(entry["id"] for entry in content["images"]).items() if count > 1]
        objects, orphans = _objects(path, content["annotations"], sizes, class_ids)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise DataError("The COCO file cannot be read.", where=str(path), got=repr(error)) from error
    images = tuple(
        annotated_image(name, find_image(root, name), sizes[key], objects[key]) for key, name in names.items()
    )
    return Annotations(str(path), labels, images, (*orphans, *(f"several images have the id {key}" for key in twice)))


def _objects(
    path: Path, entries: list[dict[str, Any]], sizes: Mapping[Any, tuple[int, int]], class_ids: Mapping[Any, int]
) -> tuple[dict[Any, list[tuple[Box, int]]], list[str]]:
    """Box and class of each object by image, and a line for each that belongs to no image or category."""
    objects: dict[Any, list[tuple[Box, int]]] = {key: [] for key in sizes}
    orphans = []
    for entry in entries:
        if entry.get("iscrowd"):
            continue
        image, category = entry["image_id"], entry["category_id"]
        if image not in sizes:
            orphans.append(f"annotation {entry.get('id')}: no image has the id {image}")
            continue
        if category not in class_ids:
            orphans.append(f"annotation {entry.get('id')}: no category has the id {category}")
        objects[image].append((_box(path, entry, sizes[image]), class_ids.get(category, UNKNOWN)))
    return objects, orphans


def _box(path: Path, entry: Mapping[str, Any], size_hw: tuple[int, int]) -> Box:
    """Left, top, right, bottom."""
    try:
        if not entry.get("bbox"):
            return box_from_segmentation(entry["segmentation"], size_hw)
        left, top, width, height = (float(value) for value in entry["bbox"])
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise DataError(
            "An annotation of the COCO file cannot be read.",
            where=f"{path}, annotation {entry.get('id')}",
            expected="bbox: [left, top, width, height], or a segmentation (polygons or run lengths)",
            got=repr(error),
        ) from error
    return [left, top, left + width, top + height]
