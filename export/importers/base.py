"""What a format of another project must say about itself. Everything that one does differently ends in its own file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from medprompt.core.errors import CheckpointError
from medprompt.core.manifest import TrainedRules
from medprompt.export.importers.mapping import Rules, matching
from medprompt.export.importers.stated import Stated


@dataclass(frozen=True)
class Weights:
    """Tensors by name, asked for their sizes.

    Attributes:
        tensors: By name.
        where: The file, for messages.
    """

    tensors: Mapping[str, Tensor]
    where: str

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor.

        Raises:
            CheckpointError: It is not there.
        """
        if name not in self.tensors:
            raise CheckpointError(
                "A weight that this format has is missing.",
                where=self.where,
                expected=name,
                got="no such weight",
                fix="take a whole checkpoint; if the model code was changed, it cannot be imported",
            )
        return tuple(self.tensors[name].shape)

    def count(self, source: str) -> int:
        """How many numbers stand at the field ``{i}`` of a name, such as ``layers.{i}.norm1.weight``."""
        return len({fields["i"] for fields in matching(self.tensors, source)})


@dataclass(frozen=True)
class Foreign:
    """A checkpoint file of another project, read without running it.

    Attributes:
        path: The file.
        weights: Its weights by the project's names, ``module.`` taken off.
        top_level: Names of all that the file holds, such as ``optimizer``.
        stated: The project's config: from the file itself, or from one beside it.
        tokenizer: The tokenizer of transformers that was handed in.
        text: What config.json beside that tokenizer says; empty where there is none.
    """

    path: Path
    weights: Weights
    top_level: frozenset[str]
    stated: Stated
    tokenizer: Any
    text: Stated


class Importer(ABC):
    """One format. It reads sizes off the weights, and the rest off the project's config.

    Attributes:
        name: Of the format, as the manifest has it.
        marks: Forms of tensor names that all files of this format hold.
        needs_config: Whether the project's config says what the weights do not show.
        states: What every config of the project states, as dotted paths: what one is silent of has the default of the
            project's code, so another project's config would pass for one that is silent of everything.
    """

    name: ClassVar[str]
    marks: ClassVar[tuple[str, ...]]
    needs_config: ClassVar[bool] = True
    states: ClassVar[tuple[str, ...]] = ()

    def recognises(self, foreign: Foreign) -> bool:
        """Whether a file is of this format, by its names."""
        return all(matching(foreign.weights.tensors, mark) for mark in self.marks)

    @abstractmethod
    def rules(self, foreign: Foreign) -> Rules:
        """The table from the project's names to those of the family; see ``medprompt.export.importers.mapping``.

        A model that was trained on blue, green, red has its first convolution turned (``rgb_from_bgr``), so that all
        that follows is in RGB.
        """

    @abstractmethod
    def config(self, foreign: Foreign, weights: Weights) -> dict[str, Any]:
        """What config.json says of ``weights``, which have the family's names.

        ``model_type`` and ``architectures`` are in it; ``trained_rules`` is added to it.

        Raises:
            CheckpointError: A form of the model that is not served, or a config that contradicts the weights.
        """

    @abstractmethod
    def processor(self, foreign: Foreign) -> Any:
        """The processor, with ``save_pretrained(folder)``: the image processor's settings and ``foreign.tokenizer``."""

    @abstractmethod
    def trained_rules(self, foreign: Foreign) -> TrainedRules:
        """How the project that trained the model makes scores of its outputs, and phrases of class names."""

    def warnings(self, foreign: Foreign) -> tuple[str, ...]:
        """Where the project's own pipeline may answer otherwise than the folder that is made."""
        return ()
