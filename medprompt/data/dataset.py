"""Labelled images: the one dataclass that every format of labels ends in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medprompt.core.errors import DataError
from medprompt.core.files import sha256_of_file
from medprompt.core.masks import Masks
from medprompt.data.outlines import Outline


@dataclass(frozen=True)
class LabelledImage:
    """One image and its boxes.

    Attributes:
        path: The image file.
        size_hw: Height and width in pixels, as the labels state them.
        boxes_xyxy: float32 ``[N, 4]`` in pixels, clipped to the image, none of zero area.
        class_ids: int64 ``[N]``, index into the set's ``labels``.
        held_out_xyxy: float32 ``[M, 4]``: objects that are there and that training shall say nothing about.
        ignored_xyxy: float32 ``[K, 4]``: those among them that measuring says nothing about either: crowds and
            difficult objects. What is found on one (most of the detection, as COCO has it) is no mistake.
        ignored_ids: int64 ``[K]``, index into the set's ``labels``.
        areas: float64 ``[N]``: of the objects' masks in square pixels, as the labels state them; those of the boxes
            where None.
        outlines, ignored_outlines: Of the objects' pixels, N and K of them, each None where only the box is known;
            empty: of none. See ``masks``.
    """

    path: Path
    size_hw: tuple[int, int]
    boxes_xyxy: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    held_out_xyxy: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 4), dtype=np.float32))
    ignored_xyxy: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 4), dtype=np.float32))
    ignored_ids: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    areas: NDArray[np.float64] | None = None
    outlines: tuple[Outline | None, ...] = ()
    ignored_outlines: tuple[Outline | None, ...] = ()

    @cached_property
    def masks(self) -> Masks | None:
        """The objects' pixels, N masks of the image's size; None where one of them has no outline.

        Raises:
            DataError: An outline cannot be read.
        """
        outlines = [one for one in self.outlines if one is not None]
        if len(outlines) != len(self.boxes_xyxy):
            return None
        return Masks.of_spans((one.spans(self.size_hw) for one in outlines), self.size_hw)

    @cached_property
    def ignored_masks(self) -> Masks:
        """K masks of what is ignored: its outline, or else its whole box, for that is all that is known of it.

        Raises:
            DataError: An outline cannot be read.
        """
        boxes = Masks.of_boxes(self.ignored_xyxy.round().astype(np.int64), self.size_hw)
        outlines = self.ignored_outlines or [None] * len(boxes)
        pairs = zip(outlines, boxes.spans, strict=True)
        return Masks.of_spans((box if one is None else one.spans(self.size_hw) for one, box in pairs), self.size_hw)

    def reindexed(self, table: NDArray[np.int64]) -> LabelledImage:
        """The image with class ``i`` called ``table[i]``; boxes of a class called -1 are left out."""
        ids, ignored = table[self.class_ids], table[self.ignored_ids]
        areas = None if self.areas is None else self.areas[ids >= 0]
        return replace(
            self,
            boxes_xyxy=self.boxes_xyxy[ids >= 0],
            class_ids=ids[ids >= 0],
            ignored_xyxy=self.ignored_xyxy[ignored >= 0],
            ignored_ids=ignored[ignored >= 0],
            areas=areas,
            outlines=_of_kept(self.outlines, ids),
            ignored_outlines=_of_kept(self.ignored_outlines, ignored),
        )


def shown_label(label: str) -> str:
    """A label for a message: what cannot be seen, and letters that look like others, by their numbers too."""
    plain = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in label)
    mixed = not label.isascii() and any(letter.isascii() and letter.isalpha() for letter in label)
    return f"{plain} ({ascii(label)[1:-1]})" if mixed else plain


def _of_kept(outlines: tuple[Outline | None, ...], ids: NDArray[np.int64]) -> tuple[Outline | None, ...]:
    return tuple(one for one, index in zip(outlines, ids, strict=bool(outlines)) if index >= 0)


@dataclass(frozen=True)
class DetectionSet:
    """A labelled data set: category names, which ``class_ids`` index into, and images in file order.

    Attributes:
        name: Where it came from, for reports.
        dropped: One line for each box that was left out (zero area, outside the image).
        warnings: One line for each kind of thing that is not as it should be with the labels.
    """

    name: str
    labels: tuple[str, ...]
    images: tuple[LabelledImage, ...]
    dropped: tuple[str, ...] = field(default=())
    warnings: tuple[str, ...] = field(default=())

    @property
    def masked(self) -> bool:
        """Whether there are objects, and an outline of each: figures of masks can be computed."""
        images = [image for image in self.images if len(image.boxes_xyxy)]
        return bool(images) and all(len(one.outlines) and None not in one.outlines for one in images)

    def relabelled(self, labels: Sequence[str]) -> DetectionSet:
        """Index the boxes by another list of labels, which must hold all of this set's that it has objects of.

        Case is ignored.

        Raises:
            DataError: A category that ``labels`` does not have.
        """
        indices = {label.casefold(): index for index, label in enumerate(labels)}
        own = self.covered_by(labels).labels
        missing = [label for label in own if label.casefold() not in indices]
        if missing:
            raise DataError(
                "The data set has categories that no class of the prompts covers.",
                where=self.name,
                expected=f"a class in the prompts file for each of: {', '.join(own)}",
                got=f"no class for: {', '.join(map(shown_label, missing))}",
                fix="add the classes to the prompts file, under the label the data set uses",
            )
        table = np.array([indices.get(label.casefold(), -1) for label in self.labels], dtype=np.int64)
        return replace(self, labels=tuple(labels), images=tuple(image.reindexed(table) for image in self.images))

    def covered_by(self, labels: Sequence[str]) -> DetectionSet:
        """The set without the categories that ``labels`` does not have (case is ignored) and nothing is of.

        Exports declare some: Roboflow's category 0 is the name of the project.
        """
        known = {label.casefold() for label in labels}
        used = {int(index) for image in self.images for index in (*image.class_ids, *image.ignored_ids)}
        spare = [
            label for index, label in enumerate(self.labels) if index not in used and label.casefold() not in known
        ]
        return self.holding_out(spare) if spare else self

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
        return replace(self, labels=tuple(self.labels[index] for index in kept), images=images)

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
    held_out = np.concatenate([image.held_out_xyxy, image.boxes_xyxy[~np.isin(image.class_ids, kept)]])
    table = np.full(max([0, *kept, *image.class_ids, *image.ignored_ids]) + 1, -1, dtype=np.int64)
    table[list(kept)] = np.arange(len(kept))
    return replace(image.reindexed(table), held_out_xyxy=held_out)


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
