"""Few-shot parts of a labelled set, by a seed: to tune on, a part held back, or to train on, each within the next."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from medprompt.core.errors import DataError
from medprompt.data import DetectionSet

HELD_BACK = 0.2
"""Share of the drawn images that are held back."""


@dataclass(frozen=True)
class Shots:
    """Indices of images in a set, in its own order: to learn from, and to stop by (none where too few were drawn)."""

    tuned_on: tuple[int, ...]
    held_back: tuple[int, ...]


def with_classes(labelled: DetectionSet, labels: Sequence[str]) -> DetectionSet:
    """Index a set by these classes alone (case is ignored); boxes of other categories are background."""
    indices = {label.casefold(): index for index, label in enumerate(labels)}
    table = np.array([indices.get(label.casefold(), -1) for label in labelled.labels], dtype=np.int64)
    return replace(labelled, labels=tuple(labels), images=tuple(image.reindexed(table) for image in labelled.images))


def part_of(labelled: DetectionSet, indices: Iterable[int], name: str) -> DetectionSet:
    """The images at ``indices``, as a set of its own."""
    return replace(labelled, name=name, images=tuple(labelled.images[index] for index in indices))


def draw_shots(labelled: DetectionSet, shots: int | None, seed: int) -> Shots:
    """Draw ``shots`` images for each class, and hold a fifth of them back.

    The rarest class is served first. An image counts for every class that it holds, so a class gets fewer images of
    its own where others brought it some, and a common one may get more than ``shots``. An image is held back only if
    every class keeps another one to learn from.

    ``shots`` None draws all images, those without a box included. Another number of shots is another draw.

    Raises:
        DataError: A class without boxes, or with fewer images than ``shots``.
    """
    holds = _holds(labelled)
    _check_classes(labelled, holds.sum(axis=0))
    _check_enough(labelled, holds.sum(axis=0), shots or 0)
    order = np.random.default_rng((seed, shots or 0)).permutation(len(holds))
    chosen = np.ones(len(holds), dtype=np.bool_) if shots is None else _chosen(holds, order, shots)
    held_back = _held_back(holds, [int(index) for index in order if chosen[index]])
    tuned_on = tuple(int(index) for index in np.flatnonzero(chosen) if int(index) not in held_back)
    return Shots(tuned_on, tuple(sorted(held_back)))


def few_shot(labelled: DetectionSet, shots: int, seed: int) -> DetectionSet:
    """A part with few images of each class; that of fewer shots lies within it.

    Images are taken in an order of the seed, and kept while a class in them is on fewer than ``shots`` of those kept.
    So each class is on ``shots`` images at least; common ones are on more, where they come with rare ones. A class on
    no image is not waited for.

    Raises:
        DataError: A class is on fewer images than that.
    """
    holds = _holds(labelled)
    _check_enough(labelled, holds.sum(axis=0), shots)
    seen, kept = np.zeros(holds.shape[1], dtype=np.int64), []
    for index in np.random.default_rng(seed).permutation(len(holds)):
        if (seen[holds[index]] < shots).any():
            seen += holds[index]
            kept.append(int(index))
    return part_of(labelled, sorted(kept), labelled.name)


def _holds(labelled: DetectionSet) -> NDArray[np.bool_]:
    """Bool ``[N, C]``: whether an image has a box of a class."""
    classes = np.arange(len(labelled.labels))
    return np.array([np.isin(classes, image.class_ids) for image in labelled.images]).reshape(-1, len(classes))


def _check_classes(labelled: DetectionSet, images: NDArray[np.int64]) -> None:
    bare = [label for label, count in zip(labelled.labels, images, strict=True) if not count]
    if bare:
        raise DataError(
            "Classes of the prompts have no box in the data, so nothing can be learned for them.",
            where=labelled.name,
            expected="a labelled box of every class that is tuned",
            got=f"no box of {', '.join(bare)}",
            fix="name the classes to tune as labels=, or give data that shows them",
        )


def _check_enough(labelled: DetectionSet, images: NDArray[np.int64], shots: int) -> None:
    """Refuse more shots than there are images (``[C]``) of a class that the set has."""
    pairs = zip(labelled.labels, images, strict=True)
    short = [f"{label} {count}" for label, count in pairs if 0 < count < shots]
    if short:
        raise DataError(
            "There are fewer images than shots.",
            where=labelled.name,
            expected=f"{shots} images of every class",
            got=", ".join(short),
            fix="choose fewer shots=, or all",
        )


def _chosen(holds: NDArray[np.bool_], order: NDArray[np.int64], shots: int) -> NDArray[np.bool_]:
    chosen = np.zeros(len(holds), dtype=np.bool_)
    for class_id in np.argsort(holds.sum(axis=0), kind="stable"):
        missing = max(0, shots - int(holds[chosen, class_id].sum()))
        free = [index for index in order if holds[index, class_id] and not chosen[index]]
        chosen[free[:missing]] = True
    return chosen


def _held_back(holds: NDArray[np.bool_], drawn: Sequence[int]) -> set[int]:
    """The last fifth (at least one) of the drawn images that the others can spare."""
    left = holds[list(drawn)].sum(axis=0)
    held: set[int] = set()
    for index in reversed(drawn):
        if len(held) == max(1, round(HELD_BACK * len(drawn))):
            break
        if holds[index].any() and (left - holds[index] >= 1).all():
            left = left - holds[index]
            held.add(index)
    return held
