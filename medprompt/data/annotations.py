"""Labels as their files state them, before anything is clipped or left out: what the check looks at."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medprompt.data.findings import Finding
from medprompt.data.outlines import Outline
from medprompt.data.sizes import header_of_image

UNKNOWN = -1
"""Class id of a box whose category is not declared."""

SHOWN = 40
"""Characters of a value that a message repeats."""


class LabelledObject(NamedTuple):
    """One object as labels state it.

    Attributes:
        box: Left, top, right, bottom in pixels.
        class_id: Index into the set's labels, or ``UNKNOWN``.
        ignored: A crowd (COCO) or difficult (VOC): neither to be found nor a mistake to find.
        area: Of its mask, in square pixels; NaN where it is not stated.
        outline: Of its pixels; None where only the box is known.
    """

    box: Sequence[float]
    class_id: int
    ignored: bool = False
    area: float = float("nan")
    outline: Outline | None = None


Size = tuple[int, int]
Objects = Callable[[Size | None], Sequence[LabelledObject]]
"""The objects of an image, from the height and width that its labels are of."""


@dataclass(frozen=True)
class AnnotatedImage:
    """An image as the labels list it.

    Attributes:
        name: What the labels call it.
        path: The file; None where there is none.
        size_hw: Its height and width, upright; as the labels state them where it cannot be read; None where neither.
        boxes_xyxy: float64 ``[N, 4]`` in pixels as written: they may lie outside, be inside out or no numbers.
        class_ids: int64 ``[N]``, index into the set's ``labels``, or ``UNKNOWN``.
        ignored: bool ``[N]``, see ``LabelledObject``.
        areas: float64 ``[N]``, likewise.
        outlines: N of them, likewise.
        stated_hw: Height and width as the labels state them; None where they do not.
        turned: Whether the file has an EXIF turn, and the stated size does not prove that labels are of the upright
            picture.
    """

    name: str
    path: Path | None
    size_hw: Size | None
    boxes_xyxy: NDArray[np.float64]
    class_ids: NDArray[np.int64]
    ignored: NDArray[np.bool_]
    areas: NDArray[np.float64]
    outlines: tuple[Outline | None, ...]
    stated_hw: Size | None = None
    turned: bool = False


@dataclass(frozen=True)
class Annotations:
    """A labelled set as its files state it; ``findings``: what is wrong with what is declared, and with file names."""

    name: str
    labels: tuple[str, ...]
    images: tuple[AnnotatedImage, ...]
    findings: tuple[Finding, ...] = ()


def annotated_image(name: str, path: Path | None, stated_hw: Size | None, objects: Objects) -> AnnotatedImage:
    """Look at an image's header, and put its objects into arrays."""
    header = header_of_image(path) if path else None
    size_hw = header.size_hw if header else stated_hw
    rows = objects(stated_hw or size_hw)
    boxes = np.array([row.box for row in rows], dtype=np.float64).reshape(-1, 4)
    upright = stated_hw == size_hw and size_hw is not None and size_hw[0] != size_hw[1]
    sideways = header is not None and header.sideways
    return AnnotatedImage(
        name,
        path,
        size_hw,
        boxes,
        np.array([row.class_id for row in rows], dtype=np.int64),
        np.array([row.ignored for row in rows], dtype=np.bool_),
        np.array([row.area for row in rows], dtype=np.float64),
        tuple(row.outline for row in rows),
        stated_hw,
        header is not None and header.turned and not (sideways and upright),
    )


UNTRUE = frozenset({"", "none", "null", "nan", "false", "no", "n", "f", "unspecified", "unknown"})
TRUE = frozenset({"true", "yes", "y", "t"})

INVISIBLE = re.compile("[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]")
"""Characters that nobody sees and that tell no two words apart; those that join letters do."""


def is_true(value: Any) -> bool:
    """A flag as exporters write it: a number, a boolean, or either as text; what is not specified is not so.

    Raises:
        ValueError: It says neither.
    """
    text = str(value).strip().lower()
    if text in UNTRUE | TRUE:
        return text in TRUE
    try:
        return float(text) != 0
    except ValueError:
        raise ValueError(f"{text[:SHOWN]!r} where 0 or 1 is expected") from None


def is_turn(degrees: Any) -> bool:
    """Whether CVAT's attribute ``rotation`` turns a box."""
    try:
        return float(degrees) % 360 > 0
    except (TypeError, ValueError):
        return False


def clean_label(label: str) -> str:
    """A label in Unicode's composed form, without invisible characters, with single blanks."""
    return " ".join(INVISIBLE.sub("", unicodedata.normalize("NFC", label)).split())


def label_key(label: str) -> str:
    """What two labels share that are equal but for case, blanks and the form of their letters."""
    return clean_label(label).casefold()


def with_merged_classes(found: Annotations) -> Annotations:
    """Take categories for one whose names are equal but for case and blanks, under the first name."""
    places: dict[str, int] = {}
    table = np.array([places.setdefault(label_key(label), len(places)) for label in found.labels], dtype=np.int64)
    labels = [clean_label(found.labels[int(np.flatnonzero(table == place)[0])]) for place in range(len(places))]
    merged = [
        Finding("merged_category", found.name, ", ".join(map(repr, same)))
        for place in range(len(places))
        if len(same := [label for label, own in zip(found.labels, table, strict=True) if own == place]) > 1
    ]
    if len(labels) == len(found.labels):
        return replace(found, labels=tuple(labels))
    table = np.append(table, UNKNOWN)  # the last, which UNKNOWN leads to
    images = tuple(replace(image, class_ids=table[image.class_ids]) for image in found.images)
    return Annotations(found.name, tuple(labels), images, (*found.findings, *merged))
