"""The medical data sets that medprompt knows: terms, where to ask for them, how they lie on disk."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, StrictInt, StrictStr

from medprompt.core.errors import DataError
from medprompt.core.models import FrozenModel

FILE = Path(__file__).with_name("registry.yaml")

Native = Literal["masks", "instances", "voc", "coco", "csv", "nodules", "volumes"]
Split = Literal["train", "val", "test"]


class Part(FrozenModel):
    """Where a split lies, from the folder that is prepared.

    Attributes:
        images: Folder of images or volumes; several where the split is several folders.
        labels: Folder or file of labels.
        names: A list of the split's images, where a folder holds several splits: text with a stem a line, or
            ``FILE.json#KEY``, a list of stems or numbers.
        count: Images that a source states; None: not verified here.
    """

    images: StrictStr | tuple[StrictStr, ...]
    labels: StrictStr
    names: StrictStr | None = None
    count: StrictInt | None = None

    @property
    def folders(self) -> tuple[str, ...]:
        """The folders of images."""
        return (self.images,) if isinstance(self.images, str) else self.images


class KnownSet(FrozenModel):
    """A data set.

    Attributes:
        name: Its name here, which is that of its pack of prompts.
        labels: Classes, as the pack of prompts has them.
        merged: Classes as the files name them, and the label that each becomes.
        native: Format that it is published in.
        terms: What its use is bound to.
        split: Which split it has, or is given here.
        source: Where the counts, the terms and the layout are from, and what of it was not verified.
        layouts: Ways the files may lie; the first that is there is read.
        min_pixels: Pieces of a mask with fewer pixels are no objects.
    """

    name: StrictStr
    title: StrictStr
    modality: StrictStr
    labels: tuple[StrictStr, ...] = Field(min_length=1)
    merged: Mapping[StrictStr, StrictStr] = Field(default_factory=dict)
    native: Native
    terms: StrictStr
    home: StrictStr
    obtain: StrictStr
    split: StrictStr
    source: StrictStr
    layouts: tuple[Mapping[Split, Part], ...] = Field(min_length=1)
    min_pixels: StrictInt = 1

    @property
    def counts(self) -> str:
        """Images of each split of the first layout, in words."""
        counts = {split: part.count for split, part in self.layouts[0].items()}
        if None in counts.values():
            return "not verified here"
        return ", ".join(f"{split} {count}" for split, count in counts.items())

    def with_own_categories(self) -> KnownSet:
        """The set with its classes as they are published, not merged.

        Raises:
            DataError: None are merged.
        """
        if not self.merged:
            raise DataError(
                "The data set has no classes that are merged.", where=self.name, fix="leave out keep_categories=True"
            )
        return self.model_copy(update={"labels": tuple(self.merged), "merged": {}})


@cache
def known_sets() -> tuple[KnownSet, ...]:
    """All known data sets, in the order of the registry."""
    return tuple(KnownSet.model_validate(entry) for entry in yaml.safe_load(FILE.read_text(encoding="utf-8")))


def known_set(name: str) -> KnownSet:
    """A data set by its name.

    Raises:
        DataError: No such data set.
    """
    for known in known_sets():
        if known.name == name:
            return known
    raise DataError(
        "No data set of this name is known.",
        expected=", ".join(known.name for known in known_sets()),
        got=name,
        fix="`medprompt data list` shows them; data that is COCO, VOC or YOLO already needs no preparing",
    )
