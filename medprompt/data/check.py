"""Is a labelled set fit to train or to measure on? What is wrong is found before an hour of training is."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from medprompt.core.errors import DataError, ImageError
from medprompt.core.files import sha256_of_file
from medprompt.core.progress import Progress, Silent
from medprompt.data.annotations import AnnotatedImage, Annotations
from medprompt.data.faults import findings_of_labels
from medprompt.data.findings import DataCheck, Finding, FindingKind, SetSummary
from medprompt.data.read import annotations_from_source
from medprompt.images.read import load_image
from medprompt.prompts.schema import Prompts

OF_FILES = ("empty_split", "missing_image", "ambiguous_image")
"""What is looked for in the sets that the first is compared with."""

Hashes = dict[str, list[AnnotatedImage]]

LOST_IMAGE = "put it there, name its folder as images, or leave out strict"
"""What to do about an image that is missing."""


def check_data(
    source: str,
    against: Sequence[str] = (),
    prompts: Prompts | None = None,
    *,
    images: Path | None = None,
    strict: bool = False,
    progress: Progress | None = None,
) -> DataCheck:
    """Look at every image and box of a labelled set, and for its images in other sets.

    Sets are named as for ``medprompt.data.read_detection_set``; ``images`` is where those of the first lie. Of those
    that it is checked ``against`` the images are decoded and compared, the boxes not looked at. ``prompts`` shall cover
    the set's classes. With ``strict``, the first image that is missing or cannot be read stops the check, instead of
    being listed.

    Raises:
        DataError: Label files that cannot be read; with ``strict`` an image that is missing.
        ImageError: With ``strict``, an image that cannot be read.
    """
    listener = progress or Silent()
    sets = [annotations_from_source(source, images), *map(annotations_from_source, against)]
    findings = [*findings_of_labels(sets[0]), *(_uncovered(sets[0], prompts) if prompts else [])]
    for other in sets[1:]:
        findings += [one for one in findings_of_labels(other) if one.kind in OF_FILES]
    hashes: list[Hashes] = []
    for found in sets:
        listener.step(found.name, len(found.images))
        seen, faults = _hashes(found, strict, listener.advance)
        hashes.append(seen)
        findings.extend(faults)
    findings.extend(_repeated(sets[0], hashes[0]))
    for other, seen in zip(sets[1:], hashes[1:], strict=True):
        findings.extend(_shared(hashes[0], other, seen))
    return DataCheck(tuple(_summary(found) for found in sets), tuple(findings))


def _summary(found: Annotations) -> SetSummary:
    boxes = {
        label: int(sum(((image.class_ids == index) & ~image.ignored).sum() for image in found.images))
        for index, label in enumerate(found.labels)
    }
    bare = sum(not len(image.class_ids) for image in found.images)
    ignored = sum(int(image.ignored.sum()) for image in found.images)
    return SetSummary(found.name, len(found.images), boxes, bare, ignored)


def _uncovered(found: Annotations, prompts: Prompts) -> Iterator[Finding]:
    covered = {entry.label.casefold() for entry in prompts.classes}
    used = {int(index) for image in found.images for index in image.class_ids}
    for index, label in enumerate(found.labels):
        if label.casefold() not in covered:
            kind: FindingKind = "class_without_phrase" if index in used else "unused_category"
            yield Finding(kind, found.name, f"{label}: no class of the prompts has this label")


def _hashes(found: Annotations, strict: bool, advance: Callable[[], None]) -> tuple[Hashes, list[Finding]]:
    """The images by content, and what is wrong with their files."""
    seen: Hashes = {}
    faults = []
    for image in found.images:
        if image.path is None and strict:
            raise DataError(
                "An image that the labels list is missing.", where=found.name, got=image.name, fix=LOST_IMAGE
            )
        if image.path is not None:
            try:
                key, _ = content_of_image(image.path)
            except ImageError as error:
                if strict:
                    raise
                faults.append(Finding("unreadable_image", str(image.path), error.got or error.problem))
                key = sha256_of_file(image.path)
            seen.setdefault(key, []).append(image)
        advance()
    return seen, faults


def content_of_image(path: Path) -> tuple[str, tuple[int, int]]:
    """SHA-256 of an image's pixels, which a copy in another lossless format shares, and its height and width.

    Raises:
        ImageError: It cannot be read.
    """
    pixels = load_image(path)
    digest = hashlib.sha256(f"{pixels.shape} ".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    height, width = pixels.shape[:2]
    return digest.hexdigest(), (height, width)


def _repeated(found: Annotations, hashes: Hashes) -> Iterator[Finding]:
    for images in hashes.values():
        if len({image.path for image in images}) > 1:
            yield Finding("repeated_image", found.name, " = ".join(image.name for image in images))


def _shared(mine: Hashes, other: Annotations, theirs: Hashes) -> Iterator[Finding]:
    for key, images in mine.items():
        if key in theirs:
            yield Finding("shared_image", other.name, f"{images[0].name} = {theirs[key][0].name}")
