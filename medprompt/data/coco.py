"""COCO instances files: boxes and outlines, and boxes of what is only outlined."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from medprompt.core.errors import DataError
from medprompt.core.text import json_from_file, reason
from medprompt.data.annotations import (
    SHOWN,
    UNKNOWN,
    Annotations,
    LabelledObject,
    Size,
    annotated_image,
    is_true,
    is_turn,
)
from medprompt.data.find import finder_of_coco, located
from medprompt.data.findings import Finding, FindingKind
from medprompt.data.foreign import format_of_file, format_of_json
from medprompt.data.outlines import Outline, box_from_segmentation

Box = list[float]
Entry = Mapping[str, Any]

ANEW = "write the file anew, as COCO instances in UTF-8: `medprompt docs datasets`"
"""What to do about a file that is none."""

XYWH = 1
"""What Detectron2 calls left, top, width, height (``BoxMode.XYWH_ABS``)."""

PARTS = ("images", "annotations", "categories")


def annotations_from_coco(path: Path, images: Path | None = None) -> Annotations:
    """Read a COCO instances file; its images lie where ``finder_of_coco`` looks. Crowds are ignored objects.

    A box that is not given is that of its segmentation.

    Raises:
        DataError: The file is missing or damaged, or is another format.
    """
    content = _content(path)
    class_ids, findings = _classes(path, content["categories"])
    entries: dict[Any, list[Entry]] = {}
    for place, image in enumerate(content["images"]):
        key = _key(path, image, "id", f"images, entry {place + 1}")
        if key in entries:
            findings.append(Finding("duplicate_id", str(path), f"several images have the id {key}"))
        entries.setdefault(key, [])
    findings.extend(_sort(path, content["annotations"], entries, class_ids))
    findings.extend(_of_other_tools(path, content["annotations"]))
    finder, seen = finder_of_coco(path, images), []
    for image in content["images"]:
        name, own = str(_key(path, image, "file_name", f"image {image['id']}")), entries[image["id"]]
        file, told = located(finder, name, str(path))
        findings.extend(told)
        seen.append(annotated_image(name, file, _size(image), partial(_objects, path, own, class_ids)))
    labels = tuple(str(category["name"]) for category in content["categories"])
    return Annotations(str(path), labels, tuple(seen), tuple(findings))


def _content(path: Path) -> dict[str, list[Any]]:
    try:
        content = json_from_file(path)
    except (OSError, ValueError, RecursionError) as error:
        name, fix = format_of_file(path)
        if isinstance(error, OSError):
            fix = "name a file that is on disk and may be read"
        got = f"{name}: {reason(error)}" if name else reason(error)
        raise DataError("The COCO file cannot be read.", where=str(path), got=got, fix=fix or ANEW) from error
    foreign, fix = format_of_json(content)
    expected = "an object with the lists images, annotations and categories"
    if foreign:
        raise DataError(f"This is {foreign}.", where=str(path), expected=f"COCO instances: {expected}", fix=fix)
    lost = [part for part in PARTS if not isinstance(content, dict) or not isinstance(content.get(part), list)]
    odd = [part for part in PARTS if part not in lost and not all(isinstance(one, dict) for one in content[part])]
    if lost or odd:
        got = "; ".join([*(f"no list {part}" for part in lost), *(f"entries of {part} that are none" for part in odd)])
        raise DataError("The COCO file cannot be read.", where=str(path), expected=expected, got=got, fix=ANEW)
    return dict(content)


def _key(path: Path, entry: Entry, key: str, where: str) -> Any:
    value = entry.get(key)
    if value is None or isinstance(value, dict | list):
        got = "it is missing" if value is None else "a list or an object"
        fix = f"give it its {key}, or take it out"
        where = f"{path}, {where}"
        raise DataError("The COCO file cannot be read.", where=where, expected=f"its {key}", got=got, fix=fix)
    return value


def _classes(path: Path, categories: Sequence[Entry]) -> tuple[dict[Any, int], list[Finding]]:
    """Index of each category by its id, and ids that two different ones have."""
    class_ids: dict[Any, int] = {}
    findings = []
    for number, entry in enumerate(categories):
        where = f"categories, entry {number + 1}"
        key, name = _key(path, entry, "id", where), _key(path, entry, "name", where)
        if key in class_ids and (first := categories[class_ids[key]]["name"]) != name:
            findings.append(Finding("duplicate_id", str(path), f"the categories {first} and {name} have the id {key}"))
        class_ids.setdefault(key, number)
    return class_ids, findings


def _sort(
    path: Path, entries: Sequence[Entry], by_image: dict[Any, list[Entry]], class_ids: Mapping[Any, int]
) -> Iterator[Finding]:
    """Put annotations to their images; a finding for each that belongs to no image or category."""
    for number, entry in enumerate(entries):
        if "image_id" not in entry or "category_id" not in entry:
            _key(path, entry, "category_id" if "image_id" in entry else "image_id", f"annotations, entry {number + 1}")
        image, category = entry["image_id"], entry["category_id"]
        if isinstance(image, dict | list) or image not in by_image:
            yield Finding("undeclared", str(path), f"annotation {entry.get('id')}: no image has the id {image}")
            continue
        if isinstance(category, dict | list) or category not in class_ids:
            yield Finding("undeclared", str(path), f"annotation {entry.get('id')}: no category has the id {category}")
        by_image[image].append(entry)


def _of_other_tools(path: Path, entries: Sequence[Entry]) -> Iterator[Finding]:
    """What annotations have that says more of them than COCO does: CVAT's turn of a box, and a detector's score."""
    attributes = [(entry, entry.get("attributes")) for entry in entries]
    turned = [entry for entry, own in attributes if isinstance(own, dict) and is_turn(own.get("rotation"))]
    scored = [entry for entry in entries if isinstance(entry.get("score"), int | float)]
    kinds: list[tuple[FindingKind, list[Entry]]] = [("rotated", turned), ("scored", scored)]
    for kind, own in kinds:
        if own:
            yield Finding(kind, str(path), f"{len(own)} of {len(entries)} annotations, such as {own[0].get('id')}")


def _size(image: Entry) -> Size | None:
    """Height and width as stated; None where they are absent or no sizes: VIA and others write 0 or nothing."""
    try:
        height, width = int(float(image["height"])), int(float(image["width"]))
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return (height, width) if height > 0 and width > 0 else None


def _objects(
    path: Path, entries: Sequence[Entry], class_ids: Mapping[Any, int], size_hw: Size | None
) -> list[LabelledObject]:
    return [
        LabelledObject(
            box,
            class_ids.get(entry["category_id"], UNKNOWN),
            ignored,
            _area(entry.get("area")),
            _outline(path, entry),
        )
        for entry in entries
        for box, ignored in [_box(path, entry, size_hw)]
    ]


def _area(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def _outline(path: Path, entry: Entry) -> Outline | None:
    """Polygons as arrays where they are numbers: lists of them would take ten times the memory."""
    segmentation = entry.get("segmentation")
    if not segmentation:
        return None
    with suppress(ValueError, TypeError):
        segmentation = segmentation if isinstance(segmentation, dict) else [array("d", one) for one in segmentation]
    return Outline(segmentation, f"{path}, annotation {entry.get('id')}")


def _box(path: Path, entry: Entry, size_hw: Size | None) -> tuple[Box, bool]:
    """Left, top, right, bottom, and whether it is a crowd's. Without any extent, an outline stands for a box."""
    try:
        ignored = is_true(entry.get("iscrowd"))
        box = _numbers(entry.get("bbox"))
        if not any(box) and entry.get("segmentation"):
            return box_from_segmentation(entry["segmentation"], size_hw), ignored
        if entry.get("bbox_mode", XYWH) not in (XYWH, None):
            raise ValueError(f"bbox_mode {entry['bbox_mode']}, which is Detectron2's for another form")  # noqa: TRY301
        if len(box) != len("xywh"):
            raise ValueError(f"a bbox of {len(box)} numbers")  # noqa: TRY301 - one message
        left, top, width, height = box
    except (ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
        outlined = bool(entry.get("segmentation"))
        raise DataError(
            "An annotation of the COCO file cannot be read.",
            where=f"{path}, annotation {entry.get('id')}",
            expected="bbox: [left, top, width, height], or a segmentation (polygons or run lengths)",
            got=reason(error) if entry.get("bbox") or outlined else "neither of them",
            fix="take the annotation out, or give it its bbox",
        ) from error
    return [left, top, left + width, top + height], ignored


def _numbers(bbox: Any) -> Box:
    """What a box holds; empty where there is none."""
    if bbox is not None and not isinstance(bbox, list):
        raise ValueError(f"a bbox that is no list: {str(bbox)[:SHOWN]}")
    return [float(value) for value in bbox or ()]
