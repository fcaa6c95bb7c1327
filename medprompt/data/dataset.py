"""Labelled images: the one dataclass that every format of labels ends in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medprompt.core.errors import DataError
from medprompt.core.files import sha256_of_file


@dataclass(frozen=True)
class LabelledImage:
    """One image and its boxes.

    Attributes:
        path: The image file.
        size_hw: Height and width in pixels, as the labels state them.
        boxes_xyxy: float32 ``[N, 4]`` in pixels, clipped to the image, none of zero area.
        class_ids: int64 ``[N]``, index into the set's ``labels``.
        held_out_xyxy: float32 ``[M, 4]``: objects that are there and that training shall say nothing about.
    """

    path: Path
    size_hw: tuple[int, int]
    boxes_xyxy: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    held_out_xyxy: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 4), dtype=np.float32))


@dataclass(frozen=True)
class DetectionSet:
    """A labelled data set: category names, which ``class_ids`` index into, and images in file order.

    Attributes:
        name: Where it came from, for reports.
        dropped: One line for each box that was left out (zero area, outside the image).
    """

    name: str
    labels: tuple[str, ...]
    images: tuple[LabelledImage, ...]
    dropped: tuple[str, ...] = field(default=())

    def relabelled(self, labels: Sequence[str]) -> DetectionSet:
        """Index the boxes by another list of labels, which must hold all of this set's (case is ignored).

        Raises:
            DataError: A category that ``labels`` does not have.
        """
        indices = {label.casefold(): index for index, label in enumerate(labels)}
        missing = [label for label in self.labels if label.casefold() not in indices]
        if missing:
            raise DataError(
                "The data set has categories that no class of the prompts covers.",
                where=self.name,
                expected=f"a class in the prompts file for each of: {', '.join(self.labels)}",
                got=f"no class for: {', '.join(missing)}",
                fix="add the classes to the prompts file, under the label the data set uses",
            )
        table = np.array([indices[label.casefold()] for label in self.labels], dtype=np.int64)
        images = tuple(replace(image, class_ids=table[image.class_ids]) for image in self.images)
        return DetectionSet(self.name, tuple(labels), images, self.dropped)

    def holding_out(self, labels: Sequence[str]) -> DetectionSet:
        """Take categories out of the labels; their boxes stay known as ``held_out_xyxy``.

        Raises:
            DataError: A label that the set does not have (case is ignored).
        """
        held_out = {label.casefold() for label in labels}
        unknown = held_out - {label.casefold() for label in self.labels}
        if unknown:
            raise DataError(
                "A class to hold out is not in the data set.",
                where=self.name,
                expected=", ".join(self.labels),
                got=", ".join(sorted(unknown)),
                fix="name categories of this data set under hold_out",
            )
        kept = [index for index, label in enumerate(self.labels) if label.casefold() not in held_out]
        images = tuple(_without(image, kept) for image in self.images)
        return DetectionSet(self.name, tuple(self.labels[index] for index in kept), images, self.dropped)

    def only(self, label: str) -> DetectionSet:
        """The same images with the boxes of one category alone, for measuring it by itself.

        Raises:
            DataError: The set does not have the label (case is ignored).
        """
        chosen = self.holding_out([other for other in self.labels if other.casefold() != label.casefold()])
        if not chosen.labels:
            raise DataError(
                "The data set has no such category.",
                where=self.name,
                expected=", ".join(self.labels),
                got=label,
                fix="name a label of the set",
            )
        return chosen


def _without(image: LabelledImage, kept: Sequence[int]) -> LabelledImage:
    stay = np.isin(image.class_ids, kept)
    held_out = np.concatenate([image.held_out_xyxy, image.boxes_xyxy[~stay]])
    indices = np.searchsorted(np.array(kept, dtype=np.int64), image.class_ids[stay])
    return replace(image, boxes_xyxy=image.boxes_xyxy[stay], class_ids=indices, held_out_xyxy=held_out)


def check_apart(chosen_on: DetectionSet, reported_on: DetectionSet) -> None:
    """Refuse to report on images that something was chosen or tuned on, known by their bytes: it would flatter.

    Raises:
        DataError: Naming the first image that both sets have.
    """
    seen = {sha256_of_file(image.path): image.path for image in chosen_on.images}
    pairs = [(seen.get(sha256_of_file(image.path)), image.path) for image in reported_on.images]
    shared = [(mine, other) for mine, other in pairs if mine is not None]
    if shared:
        raise DataError(
            "The two sets share images, so the report would be no proof.",
            where=f"{chosen_on.name} and {reported_on.name}",
            expected="two sets without a common image",
            got=f"{len(shared)} in both, such as {shared[0][0]} = {shared[0][1]}",
            fix="split the images, and pass one part as data= and the other as test_data=",
        )
