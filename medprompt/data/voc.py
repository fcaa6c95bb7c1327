"""Pascal VOC folders."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from medprompt.core.errors import DataError
from medprompt.core.text import read_text, reason
from medprompt.data.annotations import Annotations, LabelledObject, Size, annotated_image, is_true
from medprompt.data.find import IMAGE_FOLDERS, ImageFinder, files_by_name, located
from medprompt.data.findings import Finding
from medprompt.images.decode import SUFFIXES

SIDES = ("xmin", "ymin", "xmax", "ymax")

OF_A_CLASS = re.compile(r"\s+-?[01]$")
"""What lists of a class have after the name: whether the image shows one."""


class _Row(NamedTuple):
    """Box, name and whether it is difficult."""

    box: list[float]
    name: str
    difficult: bool


def annotations_from_voc(folder: Path, split: str, images: Path | None = None) -> Annotations:
    """Read a VOC folder: ``ImageSets/Main/SPLIT.txt``, ``Annotations/*.xml``, ``JPEGImages/*``.

    The list holds a file name a line; it may have spaces, and a suffix. Without a list, the label files lie beside the
    images in the folder ``SPLIT``. An image without a label file has no object. Difficult objects are ignored ones. An
    image whose size is not stated is asked itself. Boxes are taken as written: no pixel is subtracted.

    Raises:
        DataError: A label file is missing or damaged.
    """
    where = f"{folder}:{split}"
    labels_in, own, stems = _layout(folder, split)
    finder = ImageFinder([images] if images else [own], [] if images else [folder / name for name in IMAGE_FOLDERS])
    findings: list[Finding] = []
    sizes: dict[str, Size | None] = {}
    rows: dict[str, list[_Row]] = {}
    for stem in stems:
        path = labels_in / f"{stem}.xml"
        if not path.is_file():
            findings.append(Finding("no_label_file", stem, f"{stem}.xml; looked in {labels_in}"))
        sizes[stem], rows[stem] = _read(path) if path.is_file() else (None, [])
    labels = tuple(sorted({row.name for own_rows in rows.values() for row in own_rows}))
    seen = []
    for stem in stems:
        file, told = located(finder, f"{stem}.jpg", where)
        findings.extend(one for one in told if one.kind != "other_name")  # the list names no suffix
        seen.append(annotated_image(f"{stem}.jpg", file, sizes[stem], partial(_objects, rows[stem], labels)))
    return Annotations(where, labels, tuple(seen), tuple(findings))


def _layout(folder: Path, split: str) -> tuple[Path, Path, list[str]]:
    """Folders of label files and of images, and the names of a split."""
    listing = folder / "ImageSets" / "Main" / f"{split}.txt"
    beside = folder / split
    if not listing.is_file() and any(beside.glob("*.xml")):
        images = {path.stem for path in files_by_name(beside)[0].values() if path.suffix.lower() in SUFFIXES}
        return beside, beside, sorted(images | {path.stem for path in beside.glob("*.xml")})
    labels_in = folder / "Annotations"
    try:
        lines = [line.strip() for line in read_text(listing).splitlines() if line.strip()]
        return labels_in, folder / "JPEGImages", [_stem(labels_in, line) for line in lines]
    except (OSError, ValueError) as error:
        raise DataError(
            "The VOC data set cannot be read.",
            where=str(listing),
            expected="a list of its images, a name a line",
            got=reason(error),
            fix=f"write the list, or name a folder of images with their label files: {folder.parent}:{folder.name}",
        ) from error


def _stem(labels_in: Path, line: str) -> str:
    """The name of a label file that a line means: as it is, without what lists of a class add, without a suffix."""
    bare = OF_A_CLASS.sub("", line)
    names = [name for text in (line, bare) for name in (text, _without_suffix(text))]
    return next((name for name in names if (labels_in / f"{name}.xml").is_file()), _without_suffix(bare))


def _without_suffix(name: str) -> str:
    path = Path(name)
    return name[: -len(path.suffix)] if path.suffix.lower() in SUFFIXES else name


def _read(path: Path) -> tuple[Size | None, list[_Row]]:
    try:
        root = _root(path.read_bytes())
        size = (_side(root, "height"), _side(root, "width"))
        rows = [_row(node) for node in root.iter("object")]
    except (OSError, ElementTree.ParseError, ValueError, LookupError) as error:
        fix = "mend that file; numbers have a point, and every object has a name"
        raise DataError("The VOC data set cannot be read.", where=str(path), got=reason(error), fix=fix) from error
    return size if all(side > 0 for side in size) else None, rows


def _root(content: bytes) -> ElementTree.Element:
    """Parse XML, also of encodings that the parser does not know and Python does, such as GBK."""
    try:
        return ElementTree.fromstring(content)
    except (ValueError, LookupError):
        declared = re.search(rb'encoding=["\']([\w.-]+)', content[:200])
        if not declared:
            raise
        text = content.decode(declared.group(1).decode("ascii"))
        return ElementTree.fromstring(text.partition("?>")[2])


def _side(root: ElementTree.Element, name: str) -> int:
    return int(float(root.findtext(f"size/{name}") or 0))


def _row(node: ElementTree.Element) -> _Row:
    name = (node.findtext("name") or "").strip()
    if not name:
        raise ValueError("an object without a name")
    box = [float(node.findtext(f"bndbox/{side}") or "nan") for side in SIDES]
    return _Row(box, name, is_true(node.findtext("difficult")))


def _objects(rows: list[_Row], labels: tuple[str, ...], size_hw: Size | None) -> list[LabelledObject]:
    return [LabelledObject(row.box, labels.index(row.name), row.difficult) for row in rows]
