"""Pascal VOC folders."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from xml.etree import ElementTree

from medprompt.core.errors import DataError
from medprompt.core.text import read_text, reason
from medprompt.data.annotations import Annotations, LabelledObject, Size, annotated_image, is_true, is_turn
from medprompt.data.find import IMAGE_FOLDERS, ImageFinder, files_by_name, located
from medprompt.data.findings import Finding
from medprompt.images.decode import SUFFIXES

SIDES = ("xmin", "ymin", "xmax", "ymax")

LABEL_FOLDERS = ("Annotations", "annotations")

OF_A_CLASS = re.compile(r"\s+-?[01]$")
"""What lists of a class have after the name: whether the image shows one."""


class _Row(NamedTuple):
    """Box, name, whether it is difficult, and whether an attribute turns it."""

    box: list[float]
    name: str
    difficult: bool
    turned: bool


class _Labels(NamedTuple):
    """What a label file says: how its image is called, its size if that is stated, and objects."""

    image: str
    size_hw: Size | None
    rows: list[_Row]


def annotations_from_voc(folder: Path, split: str, images: Path | None = None) -> Annotations:
    """Read a VOC folder: ``ImageSets/Main/SPLIT.txt``, ``Annotations/*.xml``, ``JPEGImages/*``.

    The list holds a file name a line; it may have spaces, and a suffix. Without a list, the images lie in the folder
    ``SPLIT``, and the label files beside them or in ``Annotations``. An image without a label file has no object.
    Difficult objects are ignored ones. An image whose size is not stated is asked itself. Boxes are taken as written:
    no pixel is subtracted.

    Raises:
        DataError: A label file is missing or damaged.
    """
    where = f"{folder}:{split}"
    labels_in, own, stems = _layout(folder, split)
    finder = ImageFinder([images] if images else [own], [] if images else [folder / name for name in IMAGE_FOLDERS])
    known = _label_files(labels_in)
    files = {stem: path for stem in stems if (path := _label_file(known, labels_in, stem)) is not None}
    labels = {stem: _read(files[stem]) if stem in files else _Labels("", None, []) for stem in stems}
    lost = [stem for stem in stems if stem not in files]
    findings = [Finding("no_label_file", stem, f"{stem}.xml; looked in {labels_in}") for stem in lost]
    findings.extend(_turned(labels, where))
    names = tuple(sorted({row.name for one in labels.values() for row in one.rows}))
    seen = []
    for stem in stems:
        file, told = _image(finder, stem, labels[stem].image, where)
        findings.extend(told)
        objects = partial(_objects, labels[stem].rows, names)
        seen.append(annotated_image(f"{stem}.jpg", file, labels[stem].size_hw, objects))
    return Annotations(where, names, tuple(seen), tuple(findings))


def _layout(folder: Path, split: str) -> tuple[Path, Path, list[str]]:
    """Folders of label files and of images, and the names of a split."""
    lists = [folder / "ImageSets" / inner / f"{split}.txt" for inner in ("Main", "")]
    listing = next((path for path in lists if path.is_file()), lists[0])
    inner = [folder / name for name in LABEL_FOLDERS]
    labels_in = next((place for place in inner if _label_files(place)), inner[0])
    beside = folder / split
    if not listing.is_file():
        images = {path.stem for path in files_by_name(beside)[0].values() if path.suffix.lower() in SUFFIXES}
        if own := _label_files(beside):
            return beside, beside, sorted(images | set(own))
        if images and _label_files(labels_in):
            return labels_in, beside, sorted(images)
    try:
        lines = [line.strip() for line in read_text(listing).splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise DataError(
            "The VOC data set cannot be read.",
            where=str(listing),
            expected="a list of its images, a name a line",
            got=reason(error),
            fix=_way_out(folder, split),
        ) from error
    known = _label_files(labels_in)
    return labels_in, folder / "JPEGImages", [_stem(known, labels_in, line) for line in lines]


def _way_out(folder: Path, split: str) -> str:
    """What to do where there is no list: the address that may be meant, or the layouts that are read."""
    inside = sorted(path.parent for path in folder.glob("*/ImageSets"))
    lists = sorted(path.stem for inner in ("Main/*.txt", "*.txt") for path in (folder / "ImageSets").glob(inner))
    meant = [f"{inside[0]}:{split}"] if inside else [f"{folder}:{name}" for name in lists[:1]]
    if meant:
        return f"write {meant[0]}, or write the list"
    return "write the list, or name as FOLDER:NAME a folder NAME of images and XML files: `medprompt docs datasets`"


def _label_files(folder: Path) -> dict[str, Path]:
    """Label files of a folder by name without suffix."""
    return {path.stem: path for path in files_by_name(folder)[0].values() if path.suffix.lower() == ".xml"}


def _label_file(known: Mapping[str, Path], folder: Path, name: str) -> Path | None:
    """The label file of a name, which may have folders before it."""
    path = folder / f"{name}.xml"
    return known.get(name) or (path if "/" in name and path.is_file() else None)


def _stem(known: Mapping[str, Path], folder: Path, line: str) -> str:
    """The name of a label file that a line means: as it is, without what lists of a class add, without a suffix."""
    bare = OF_A_CLASS.sub("", line)
    last = PurePosixPath(bare.replace("\\", "/")).name
    names = [name for text in (line, bare, last) for name in (text, _without_suffix(text))]
    return next((name for name in names if _label_file(known, folder, name)), _without_suffix(bare))


def _without_suffix(name: str) -> str:
    path = Path(name)
    return name[: -len(path.suffix)] if path.suffix.lower() in SUFFIXES | {".xml"} else name


def _image(finder: ImageFinder, stem: str, stated: str, where: str) -> tuple[Path | None, list[Finding]]:
    """The image of a label file: the one of its name, with the suffix that it states; else the one that it states.

    Copies of label files go on stating the first image: where that is there too, it is told which one is taken.
    """
    stated = PurePosixPath(stated.replace("\\", "/")).name
    other = "" if _without_suffix(stated) == stem or not _without_suffix(stated) else stated
    file, told = located(finder, stem if other or not stated else stated, where)
    told = [one for one in told if one.kind != "other_name"]  # lists name no suffix
    meant = finder.find(other).path if other else None
    if file is None and meant is not None:
        return meant, []
    if file is not None and meant is not None and not meant.samefile(file):
        told.append(Finding("other_name", where, f"{stem}.xml states {other}, and {file.name} is taken"))
    return file, told


def _turned(labels: Mapping[str, _Labels], where: str) -> Iterator[Finding]:
    """Boxes that CVAT has turned: what is written is the box before."""
    turned = [stem for stem, one in labels.items() for row in one.rows if row.turned]
    if turned:
        yield Finding("rotated", where, f"{len(turned)} objects, such as one in {turned[0]}.xml")


def _read(path: Path) -> _Labels:
    try:
        root = _root(path.read_bytes())
        size = (_side(root, "height"), _side(root, "width"))
        rows = [_row(node) for node in root.iter("object")]
        image = (root.findtext("filename") or "").strip()
    except (OSError, ElementTree.ParseError, ValueError, LookupError) as error:
        fix = "mend that file; numbers have a point, and every object has a name and one box"
        raise DataError("The VOC data set cannot be read.", where=str(path), got=reason(error), fix=fix) from error
    return _Labels(image, size if all(side > 0 for side in size) else None, rows)


def _root(content: bytes) -> ElementTree.Element:
    """The annotation of a file. Tags have no namespace and no capitals here.

    Raises:
        ValueError: It is another format's, or has boxes of no object.
    """
    root = _parsed(content)
    for node in root.iter():
        node.tag = str(node.tag).rpartition("}")[2].lower()
    if root.tag != "annotation":
        raise ValueError(f"<{root.tag}>, where <annotation> is expected")
    stray = [node.tag for node in root.iter() if node.tag not in ("object", "part") and node.find("bndbox") is not None]
    if stray:
        raise ValueError(f"a <bndbox> in <{stray[0]}>, where <object> is expected")
    return root


def _parsed(content: bytes) -> ElementTree.Element:
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
    boxes = len(node.findall("bndbox"))
    if boxes > 1:
        raise ValueError(f"an object {name!r} with {boxes} boxes")
    box = [float(node.findtext(f"bndbox/{side}") or "nan") for side in SIDES]
    attributes = {one.findtext("name"): one.findtext("value") for one in node.iter("attribute")}
    return _Row(box, name, is_true(node.findtext("difficult")), is_turn(attributes.get("rotation")))


def _objects(rows: list[_Row], labels: tuple[str, ...], size_hw: Size | None) -> list[LabelledObject]:
    return [LabelledObject(row.box, labels.index(row.name), row.difficult) for row in rows]
