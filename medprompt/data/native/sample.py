"""What every native format ends in, and what their readers share."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medprompt.core.errors import DataError
from medprompt.core.masks import Masks
from medprompt.data.registry import KnownSet, Part
from medprompt.data.sizes import size_of_image
from medprompt.images.decode import SUFFIXES


@dataclass(frozen=True)
class Sample:
    """An image with its boxes.

    Attributes:
        name: File name for the image, with suffix; unique in its split.
        picture: The image file, or uint8 ``[H, W]`` grey levels of a slice.
        size_hw: Height and width in pixels.
        boxes_xyxy: float64 ``[N, 4]`` in pixels.
        class_ids: int64 ``[N]``, index into the set's ``labels``.
        small: How many pieces of a mask were too small for an object.
        segmentations: Pixels of each object, as COCO has them; None where only its box is known. Empty: of none.
        crowds: Indices of the boxes that are crowds or difficult: ``iscrowd`` in COCO's words.

    Raises:
        DataError: A box coordinate is not a number.
    """

    name: str
    picture: Path | NDArray[np.uint8]
    size_hw: tuple[int, int]
    boxes_xyxy: NDArray[np.float64]
    class_ids: NDArray[np.int64]
    small: int = 0
    segmentations: Sequence[Any] = ()
    crowds: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        if not np.isfinite(self.boxes_xyxy).all():
            raise DataError("A box coordinate is not a number.", where=self.name, got=str(self.boxes_xyxy.tolist()))


@dataclass(frozen=True)
class Job:
    """One image or volume, which ``make`` reads: it raises ``DataError`` or ``ImageError`` where it cannot be."""

    name: str
    make: Callable[[], list[Sample]]


def rles(masks: Masks) -> list[dict[str, Any]]:
    """Each mask as COCO's run lengths."""
    return [masks.rle(index) for index in range(len(masks))]


def zeros(boxes_xyxy: NDArray[np.float64]) -> NDArray[np.int64]:
    """The class ids of boxes that are all of the only class."""
    return np.zeros(len(boxes_xyxy), dtype=np.int64)


def images_of_folder(folder: Path) -> list[Path]:
    """Image files of a folder, sorted; not of folders within.

    Raises:
        DataError: There is none.
    """
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise DataError(
            "A folder of images is empty.", where=str(folder), expected=f"files ending in {', '.join(sorted(SUFFIXES))}"
        )
    return found


def wanted_stems(source: Path, part: Part) -> set[str] | None:
    """The names that a split's list holds; None where the split has its folders for itself.

    Raises:
        DataError: The list cannot be read.
    """
    if part.names is None:
        return None
    file, _, key = part.names.partition("#")
    path = source / file
    try:
        text = path.read_text(encoding="utf-8")
        names = json.loads(text)[key] if key else text.split("\n")
        return {f"{name:04d}" if isinstance(name, int) else Path(str(name).strip()).stem for name in names} - {""}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError("The list of a split cannot be read.", where=str(path), got=repr(error)) from error


def listed_images(source: Path, part: Part) -> list[Path]:
    """The images of a split: all of its folders, or those that its list names.

    Raises:
        DataError: An image that the list names is missing, or there is none.
    """
    found = [path for folder in part.folders for path in images_of_folder(source / folder)]
    wanted = wanted_stems(source, part)
    if wanted is None:
        return found
    kept = [path for path in found if path.stem in wanted]
    missing = sorted(wanted - {path.stem for path in kept})
    if missing:
        raise DataError(
            "Images that the list of a split names are missing.",
            where=str(source / part.folders[0]),
            expected=f"{len(wanted)} images of {part.names}",
            got=f"{len(kept)}, without {', '.join(missing[:3])}",
        )
    return kept


def known_size(path: Path) -> tuple[int, int]:
    """Height and width of an image file.

    Raises:
        DataError: It cannot be read.
    """
    size_hw = size_of_image(path)
    if size_hw is None:
        raise DataError("An image cannot be read.", where=str(path), expected="a whole image file")
    return size_hw


def class_of(known: KnownSet, name: str, where: str) -> int:
    """Class id of a category as the files name it.

    Raises:
        DataError: The set has no such category.
    """
    label = known.merged.get(name, name)
    if label not in known.labels:
        raise DataError(
            "The labels have a category that the set is not known to have.",
            where=where,
            expected=", ".join(known.merged or known.labels),
            got=name,
            fix="is it the right folder? `medprompt data list` shows what the set holds",
        )
    return known.labels.index(label)
