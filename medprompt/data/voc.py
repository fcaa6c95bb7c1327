"""Pascal VOC folders."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from medprompt.core.errors import DataError
from medprompt.data.annotations import Annotations, annotated_image, find_image
from medprompt.data.sizes import size_of_image

SIDES = ("xmin", "ymin", "xmax", "ymax")

Row = tuple[str, tuple[int, int], list[tuple[list[float], str]]]


def annotations_from_voc(folder: Path, split: str) -> Annotations:
    """Read a VOC folder: ``ImageSets/Main/SPLIT.txt``, ``Annotations/*.xml``, ``JPEGImages/*``.

    The list holds a file name without suffix a line; it may have spaces. An image whose size is not stated is asked
    itself.

    Raises:
        DataError: A label file is missing or damaged.
    """
    listing = folder / "ImageSets" / "Main" / f"{split}.txt"
    try:
        stems = [line.strip() for line in listing.read_text(encoding="utf-8").splitlines() if line.strip()]
        rows = [_row(folder, stem) for stem in stems]
    except (OSError, ValueError) as error:
        raise DataError("The VOC data set cannot be read.", where=str(listing), got=repr(error)) from error
    labels = tuple(sorted({name for _, _, objects in rows for _, name in objects}))
    images = []
    for stem, size_hw, objects in rows:
        path = find_image(folder, f"{stem}.jpg")
        stated = size_hw if all(size_hw) else (size_of_image(path) if path else None)
        boxes = [(box, labels.index(name)) for box, name in objects]
        images.append(annotated_image(f"{stem}.jpg", path, stated, boxes))
    return Annotations(f"{folder}:{split}", labels, tuple(images))


def _row(folder: Path, stem: str) -> Row:
    path = folder / "Annotations" / f"{stem}.xml"
    try:
        root = ElementTree.parse(path).getroot()
        size = (int(root.findtext("size/height") or 0), int(root.findtext("size/width") or 0))
        objects = [
            ([float(node.findtext(f"bndbox/{side}") or "nan") for side in SIDES], _name(node))
            for node in root.iter("object")
        ]
    except (ElementTree.ParseError, ValueError) as error:
        raise DataError("The VOC data set cannot be read.", where=str(path), got=repr(error)) from error
    return stem, size, objects


def _name(node: ElementTree.Element) -> str:
    name = (node.findtext("name") or "").strip()
    if not name:
        raise ValueError("an object without a name")
    return name
