"""What a model family must say about itself. Everything a family does differently ends in its own file.

A family wraps one loaded Hugging Face model and its processor. Its ``core`` is the part that stays in the graph:
normalised pixels and prompt tensors in, phrase logits and boxes out. The same core is exported, trained and checked.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medprompt.core.errors import CheckpointError, PromptError
from medprompt.core.manifest import Preprocess, TensorSpec, Tolerance
from medprompt.prompts.bank import Layout


@dataclass(frozen=True)
class RawOutputs:
    """Outputs of a detector before any decision.

    Attributes:
        logits: float ``[B, Q, P]``: each query's logit for each phrase.
        boxes_cxcywh: float ``[B, Q, 4]`` in 0 … 1 of the (padded) model image.
        centres: ``[Q, 2]`` (x, y) in 0 … 1 where the queries have a location, such as cells of a feature map.
            Only training reads it.
    """

    logits: Tensor
    boxes_cxcywh: Tensor
    centres: Tensor | None = None


@dataclass(frozen=True)
class EncodedPhrases:
    """Text features in the layout of a prompt bank, as torch tensors (differentiable).

    Attributes:
        tensors: ``phrase`` tensors ``[P, …]``, ``token`` tensors ``[sum(token_counts), …]``, ``shared`` ones.
        token_counts: Tokens of each phrase, separator included; empty where no tensor is by token.
        separator_tokens: How many of a phrase's last tokens never score.
    """

    tensors: Mapping[str, Tensor]
    token_counts: tuple[int, ...] = ()
    separator_tokens: int = 0


@dataclass(frozen=True)
class ImageSize:
    """The model's image size, and a warning where the checkpoint's own processor would choose another."""

    size_hw: tuple[int, int]
    warning: str = field(default="")


TOLERANCES_UNTIL_MEASURED: Mapping[str, Tolerance] = {
    "fp32": Tolerance(min_kept=0.995),
    "bf16": Tolerance(min_kept=0.99, max_score_delta=0.02),
    "fp16": Tolerance(min_kept=0.99),
    "int8": Tolerance(min_kept=0.95, max_score_delta=0.05),
    "fp8": Tolerance(min_kept=0.95, max_score_delta=0.05),
}
"""What the trained OWL-ViT is held to (its file says how each was measured), for families of which no trained
checkpoint was at hand."""


class Core(nn.Module, ABC):
    """The part of a model that stays in the graph: what the image alone decides, then what the prompts decide.

    Attributes:
        phrases_meet: Whether a phrase's logits depend on the other phrases, as where text and image fuse.
    """

    phrases_meet: ClassVar[bool] = True

    @abstractmethod
    def image_features(self, pixel_values: Tensor) -> dict[str, Tensor]:
        """Compute all that no prompt changes, so that it can be kept while prompts are searched or tuned.

        Args:
            pixel_values: float ``[B, 3, h, w]``, normalised.

        Returns:
            Tensors ``[B, …]`` by name.
        """

    @abstractmethod
    def detect(self, features: Mapping[str, Tensor], prompts: Mapping[str, Tensor]) -> RawOutputs:
        """Answer prompts; gradients flow to them if enabled.

        Args:
            features: What ``image_features`` returned.
            prompts: The graph's prompt inputs by name, without ``phrase_to_class``.
        """

    def forward(self, pixel_values: Tensor, prompts: Mapping[str, Tensor]) -> RawOutputs:
        """Detect; see ``image_features`` and ``detect``."""
        return self.detect(self.image_features(pixel_values), prompts)

    def query_centres(self) -> Tensor | None:
        """``[Q, 2]`` (x, y) in 0 … 1 where queries have a location of their own, such as patches; else None."""
        return None

    def training_outputs(self, features: Mapping[str, Tensor], prompts: Mapping[str, Tensor]) -> list[RawOutputs]:
        """Outputs that training compares with the labels: the final one last, auxiliary ones before it."""
        return [self.detect(features, prompts)]


class Family(ABC):
    """One Hugging Face detector class on the canonical graph.

    Attributes:
        architecture: Name of the transformers class.
        layouts: The bank tensors this family's text side makes, and their layouts.
        tunable: Those of them that carry a phrase's meaning, and so may be tuned.
        text_prefixes: Parameter-name prefixes of the text side: what the encoder fingerprint covers.
        head_prefixes: Likewise of what makes detections of encoded images and phrases: decoder, box and class heads.
            What is of neither is image backbone and encoder.
        attention_projections: How the names of attention's linear maps end: what low-rank adapters are put on.
        backbone_prefixes: Parameter-name prefixes of an image backbone that may have been trained on other pictures.
        labels_per_query, token_rule: See ``medprompt.core.manifest.Postprocess``.
        tolerances: Parity demanded, by precision.
        blocks: Module-path prefix → block of the model, in the order of the data's way: the units in which precision
            is chosen; see ``medprompt.export.precision.blocks``.
    """

    architecture: ClassVar[str]
    layouts: ClassVar[Mapping[str, Layout]]
    tunable: ClassVar[tuple[str, ...]]
    text_prefixes: ClassVar[tuple[str, ...]]
    head_prefixes: ClassVar[tuple[str, ...]]
    attention_projections: ClassVar[tuple[str, ...]]
    backbone_prefixes: ClassVar[tuple[str, ...]] = ()
    labels_per_query: ClassVar[Literal["one", "many"]] = "one"
    token_rule: ClassVar[Literal["max", "mean"] | None] = None
    tolerances: ClassVar[Mapping[str, Tolerance]]
    blocks: ClassVar[Mapping[str, str]]

    def __init__(self, model: Any, processor: Any, size_hw: tuple[int, int] | None = None) -> None:
        self.model = model
        self.processor = processor
        self.image_size = self.choose_size(size_hw)

    @classmethod
    def load_processor(cls, folder: Path) -> Any:
        """Load the checkpoint's own processor, of the class that transformers chooses.

        Args:
            folder: A folder made by ``save_pretrained``.
        """
        from transformers import AutoProcessor

        return AutoProcessor.from_pretrained(folder, local_files_only=True)

    @abstractmethod
    def choose_size(self, size_hw: tuple[int, int] | None) -> ImageSize:
        """Choose the model's image size: the processor's own, or ``size_hw`` where the family allows it."""

    def resize_images(self, side: int) -> None:
        """Make the model and its processor take square images of another size, to be trained further.

        Args:
            side: Height and width.

        Raises:
            CheckpointError: This family cannot, or the side does not suit it.
        """
        raise CheckpointError(
            f"{self.architecture} cannot be trained at another image size than its processor's.",
            fix="leave image_size out of the recipe, or change the checkpoint's image processor",
        )

    def size_for_image(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        """Height and width that the checkpoint's own processor gives a source of ``size_hw``: here the fixed size."""
        return self.image_size.size_hw

    @abstractmethod
    def preprocess(self) -> Preprocess:
        """Read the preprocessing from the checkpoint's own image processor."""

    @abstractmethod
    def prompt_specs(self) -> tuple[TensorSpec, ...]:
        """The graph's prompt inputs, in order, without ``phrase_to_class``."""

    @abstractmethod
    def phrase_length(self, text: str) -> tuple[int, int]:
        """Return the tokens a phrase takes, and the most the text encoder reads."""

    @abstractmethod
    def encode(self, texts: Sequence[str], task: str | None = None) -> EncodedPhrases:
        """Compute the text features of phrases; gradients flow if enabled.

        Args:
            texts: Phrases, each within ``phrase_length``.
            task: Task sentence, for families that read one.
        """

    def task_of(self, texts: Sequence[str], task: str | None) -> str | None:
        """Return the task sentence that ``encode`` uses, for families that read one.

        A bank keeps it, so that a part of the bank is compared with PyTorch under the sentence that it serves.

        Args:
            texts: Phrases.
            task: The prompts file's own; None for the family's own.
        """
        return task

    @abstractmethod
    def core(self) -> Core:
        """The module that stays in the graph; it shares the model's parameters."""

    @abstractmethod
    def reference(self, image_rgb: NDArray[np.uint8], texts: Sequence[str], task: str | None = None) -> RawOutputs:
        """Run the checkpoint as transformers documents it: own processor, own forward, text encoder and all.

        Args:
            image_rgb: uint8 ``[H, W, 3]``.
            texts: Phrases.
            task: Task sentence, for families that read one.

        Returns:
            Outputs with ``B`` = 1, boxes in 0 … 1 of the (padded) model image.
        """

    def check_phrases(self, texts: Sequence[str]) -> None:
        """Refuse phrases that the text encoder would cut.

        Raises:
            PromptError: A phrase is longer than the text context.
        """
        for text in texts:
            length, limit = self.phrase_length(text)
            if length > limit:
                raise PromptError(
                    "A phrase is longer than the text encoder reads.",
                    where=repr(text),
                    expected=f"at most {limit} tokens",
                    got=f"{length} tokens",
                    fix="shorten the phrase, or split it into several phrases of the class",
                )

    def encoder_fingerprint(self) -> str:
        """SHA-256 (16 hex digits) over the text side's weights and the tokenizer."""
        digest = hashlib.sha256(self.architecture.encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            if name.startswith(self.text_prefixes):
                digest.update(name.encode())
                digest.update(tensor.detach().to(torch.float32).contiguous().numpy().tobytes())
        digest.update(_tokenizer_state(self.processor.tokenizer).encode())
        return digest.hexdigest()[:16]


def _tokenizer_state(tokenizer: Any) -> str:
    """A fast tokenizer as JSON, without the padding and truncation that its last call left in it."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    return json.dumps({**state, "padding": None, "truncation": None}, sort_keys=True)
