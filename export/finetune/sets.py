"""The labelled sets of a run, read and checked before anything is trained."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from medprompt.core.errors import DataError, ImageError
from medprompt.core.files import sha256_of_file
from medprompt.core.manifest import About, DataRecord
from medprompt.core.progress import Progress, Silent
from medprompt.data import DetectionSet, LabelledImage, read_detection_set
from medprompt.export.finetune.recipe import DataEntry, Recipe
from medprompt.export.shots import few_shot
from medprompt.images.read import load_image

MAX_NAMED = 10
"""Of many damaged files an error names so many."""

MAX_EMPHASIS = 6.0
"""No object counts more than this, however rare its class."""


@dataclass(frozen=True)
class Skipped:
    """An image that was left out: the set it is in, its file, and why it cannot be read."""

    found: str
    path: Path
    reason: str


@dataclass(frozen=True)
class RunData:
    """What a run learns from and is measured on.

    Attributes:
        training: A set for each entry of the recipe, indexed by the prompts' labels.
        annotated: bool ``[C]`` for each: the classes it can judge.
        validation: The val sets, in the recipe's order.
        skipped: Images of both that cannot be read.
    """

    training: tuple[DetectionSet, ...]
    annotated: tuple[NDArray[np.bool_], ...]
    validation: tuple[DetectionSet, ...]
    skipped: tuple[Skipped, ...] = ()

    def described(self) -> list[str]:
        """A line for each set: how many images, and boxes of each class."""
        lines = []
        for kind, sets in (("train", self.training), ("val", self.validation)):
            for found in sets:
                ids = np.concatenate([np.zeros(0, dtype=np.int64), *(image.class_ids for image in found.images)])
                counts = np.bincount(ids, minlength=len(found.labels))
                boxes = ", ".join(f"{label} {count}" for label, count in zip(found.labels, counts, strict=True))
                lines.append(f"{kind} {found.name}: {len(found.images)} images, {len(ids)} boxes ({boxes})")
        return lines


def data_from_recipe(
    recipe: Recipe,
    labels: Sequence[str],
    root: Path,
    *,
    strict: bool = False,
    allow: Sequence[str] = (),
    progress: Progress | None = None,
) -> RunData:
    """Read the sets of a recipe, every image once: which can be read decides which sample is which picture.

    ``labels`` are the prompts file's; ``strict`` refuses an image that cannot be read instead of leaving it out;
    ``allow``: see ``read_detection_set``.

    Raises:
        DataError: A set that cannot be used, a category without a class, a held-out class with phrases, or no image
            that can be read.
    """
    entries = [entry.below(root) for entry in recipe.data]
    labelled = [_labelled(entry, labels, allow) for entry in entries]
    annotated = tuple(_annotated(entry, labels) for entry in entries)
    validation = [_read(entry.val, entry, allow) for entry in entries if entry.val]
    skipped = _unreadable([*labelled, *validation], progress or Silent())
    if strict and skipped:
        raise _damaged(skipped)
    readable = [_without(found, skipped) for found in labelled]
    training = tuple(few_shot(found, recipe.shots, recipe.seed) if recipe.shots else found for found in readable)
    return RunData(training, annotated, tuple(_without(found, skipped) for found in validation), skipped)


def class_emphasis(data: RunData, recipe: Recipe) -> tuple[float, ...]:
    """(mean / count)^class_balance of each class's objects in an epoch; nothing where that is 0. See ``Recipe``."""
    if not recipe.class_balance:
        return ()
    classes = len(data.training[0].labels)
    counts = np.zeros(classes)
    for found, entry in zip(data.training, recipe.data, strict=True):
        counts += entry.repeat * sum(np.bincount(image.class_ids, minlength=classes) for image in found.images)
    factors = (counts.mean() / np.maximum(counts, 1)) ** recipe.class_balance
    return tuple(float(factor) for factor in factors.clip(1.0, MAX_EMPHASIS))


def check_outlines(data: RunData) -> Iterator[str]:
    """Read every outline of what is trained on; a line for each set that has not one of every object.

    Raises:
        DataError: An outline cannot be read, or none of the sets has any.
    """
    counts = [(found.name, *_outlined(found)) for found in data.training]
    if not any(outlined for _, outlined, _ in counts):
        raise DataError(
            "The model makes masks, and no object of the training data has an outline.",
            where=", ".join(found.name for found in data.training),
            expected="COCO segmentations or YOLO polygons",
            got="boxes alone",
            fix="add the outlines, or set boxes_only: true in the recipe to leave the masks as they are",
        )
    for name, outlined, objects in counts:
        if outlined < objects:
            yield f"{name}: {objects - outlined} of {objects} objects have no outline: they teach boxes and no masks"


def _outlined(found: DetectionSet) -> tuple[int, int]:
    """How many objects have an outline, all of which are read here, and how many there are."""
    read = [one.spans(image.size_hw) for image in found.images for one in image.outlines if one is not None]
    return len(read), sum(len(image.class_ids) for image in found.images)


def outlines_sha256(found: DetectionSet) -> str:
    """SHA-256 (hex) of a set's outlines, in the order of its images."""
    pixels = [image.size_hw for image in found.images]
    outlines = [one for image in found.images for one in image.outlines]
    return hashlib.sha256(repr((pixels, [one and one.segmentation for one in outlines])).encode()).hexdigest()


def data_sha256(found: DetectionSet) -> str:
    """SHA-256 (hex) of a set's images (their files' bytes) and boxes with labels, those held out included.

    What the files are called and in which order they come does not count.
    """
    lines = sorted(f"{sha256_of_file(image.path)} {_labels_of(image, found.labels)}" for image in found.images)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def about_run(start: About, recipe: Recipe, data: RunData, measured: Mapping[str, float]) -> About:
    """What is known of trained weights: the terms of those it began with, and the sets of both.

    Who supplies the new weights is not known here.
    """
    records = tuple(_data_records(recipe, data))
    known = {(record.role, record.sha256) for record in records}
    before = [one for one in start.data if one.role == "train" and (one.role, one.sha256) not in known]
    return start.model_copy(update={"supplier": "", "data": (*before, *records), "figures": dict(measured)})


def _data_records(recipe: Recipe, data: RunData) -> Iterator[DataRecord]:
    trained = [(entry.train, found, entry) for entry, found in zip(recipe.data, data.training, strict=True)]
    entries = [entry for entry in recipe.data if entry.val]
    measured = [(str(entry.val), found, entry) for entry, found in zip(entries, data.validation, strict=True)]
    roles: tuple[tuple[Literal["train", "val"], list[tuple[str, DetectionSet, DataEntry]]], ...]
    roles = (("train", trained), ("val", measured))
    for role, sets in roles:
        for name, found, entry in sets:
            yield DataRecord(
                name=name,
                role=role,
                images=len(found.images),
                boxes=sum(len(image.class_ids) for image in found.images),
                sha256=data_sha256(found),
                licence=entry.licence,
                source=entry.source,
            )


def _labels_of(image: LabelledImage, labels: Sequence[str]) -> str:
    named = [(labels[index], box) for index, box in zip(image.class_ids, image.boxes_xyxy, strict=True)]
    named += [("", box) for box in image.held_out_xyxy]
    return ";".join(sorted(f"{label}:{','.join(f'{side:.3f}' for side in box)}" for label, box in named))


def _read(source: str, entry: DataEntry, allow: Sequence[str]) -> DetectionSet:
    return read_detection_set(source, None if entry.images is None else Path(entry.images), allow)


def _labelled(entry: DataEntry, labels: Sequence[str], allow: Sequence[str]) -> DetectionSet:
    """The training set without its held-out categories, indexed by the prompts' labels."""
    known = {label.casefold() for label in labels}
    named = [label for label in entry.hold_out if label.casefold() in known]
    if named:
        raise DataError(
            "A class is held out, and the prompts file has phrases for it.",
            where="hold_out",
            got=", ".join(named),
            fix="take its phrases out of the prompts file, or the class out of hold_out",
        )
    return _read(entry.train, entry, allow).holding_out(entry.hold_out).relabelled(labels)


def _annotated(entry: DataEntry, labels: Sequence[str]) -> NDArray[np.bool_]:
    unknown = [label for label in entry.ignore_classes if label not in labels]
    if unknown:
        raise DataError(
            "The recipe names classes that the prompts file does not have.",
            where="ignore_classes",
            expected=", ".join(labels),
            got=", ".join(unknown),
            fix="name classes of the prompts file under ignore_classes, or add these to it",
        )
    return np.array([label not in entry.ignore_classes for label in labels])


def _unreadable(sets: Sequence[DetectionSet], progress: Progress) -> tuple[Skipped, ...]:
    paths = list({image.path: None for found in sets for image in found.images})
    progress.step("read images", len(paths))
    faults = {path: _fault(path, progress) for path in paths}
    files = {(found.name, image.path): None for found in sets for image in found.images}
    return tuple(Skipped(name, path, reason) for name, path in files if (reason := faults[path]))


def _fault(path: Path, progress: Progress) -> str:
    """Why an image cannot be read; empty where it can."""
    progress.advance()
    try:
        load_image(path)
    except ImageError as error:
        return error.problem
    return ""


def _without(found: DetectionSet, skipped: Sequence[Skipped]) -> DetectionSet:
    damaged = {entry.path for entry in skipped}
    images = tuple(image for image in found.images if image.path not in damaged)
    if not images:
        raise DataError(
            "No image of the data set can be read.",
            where=found.name,
            got=f"{len(found.images)} unreadable, such as {found.images[0].path.name}",
            fix="copy the images again",
        )
    return replace(found, images=images)


def _damaged(skipped: Sequence[Skipped]) -> DataError:
    named = [f"{entry.path} ({entry.reason.rstrip('.')})" for entry in skipped[:MAX_NAMED]]
    more = len(skipped) - len(named)
    return DataError(
        "Images of the data cannot be read.",
        expected="every image readable, as strict=True asks",
        got=f"{len(skipped)} unreadable: {'; '.join(named)}" + (f"; and {more} more" if more else ""),
        fix="copy these images again or take them out of the labels, or leave strict=True out to train without them",
    )
