"""What a model family must say about itself. Everything a family does differently ends in its own file.

A family wraps one loaded Hugging Face model and its processor. Its ``core`` is the part that stays in the graph:
normalised pixels and prompt tensors in, phrase logits and boxes out. The same core is exported, trained and checked.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medprompt.core.errors import CheckpointError, InputError, PromptError
from medprompt.core.manifest import OwnSize, Postprocess, Preprocess, TensorSpec, Tolerance
from medprompt.export.families.captions import (
    clean_name,
    read_trained_rules,
    read_words,
    refuse_image_name,
    tokenizer_state,
)
from medprompt.export.families.image_processors import preprocess_of
from medprompt.prompts.bank import Layout

VOCABULARY_PADDING = 512
"""Rows a model may have more than its tokenizer has tokens: ``resize_token_embeddings`` rounds up to such multiples."""
OUTSIDE = 1e4
"""Logit of a proposal that may not be used: its sigmoid is 1, like that of transformers' infinity."""


@dataclass(frozen=True)
class RawOutputs:
    """Outputs of a detector before any decision.

    Attributes:
        logits: float ``[B, Q, P]``: each query's logit for each phrase.
        boxes_cxcywh: float ``[B, Q, 4]`` in 0 … 1 of the (padded) model image.
        centres: ``[Q, 2]`` (x, y) in 0 … 1 where the queries have a location, such as cells of a feature map.
            Only training reads it.
        levels: How many queries each level of a feature pyramid has, finest first, where each level keeps its best.
        masks: Mask logits float ``[B, K, h_m, w_m]`` of chosen queries, int64 ``[B, K]`` in 0 … Q - 1, at the model's
            own mask resolution: a function, for masks of all queries would be dearer than the model. Gradients flow.
            None: the model makes none.
    """

    logits: Tensor
    boxes_cxcywh: Tensor
    centres: Tensor | None = None
    levels: tuple[int, ...] = ()
    masks: Callable[[Tensor], Tensor] | None = None


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
    """The model's image size, and a warning where the checkpoint's own processor would choose another.

    ``own`` is what that processor would choose, where it can be another; ``follows`` says that the model's size is
    that, for every image, and ``size_hw`` that of a square one.
    """

    size_hw: tuple[int, int]
    warning: str = ""
    own: OwnSize | None = None
    follows: bool = False


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
        boxes_follow_phrases: Whether each phrase has queries, and so boxes, of its own.
        token_rule: See ``Family.token_rule``.
    """

    phrases_meet: ClassVar[bool] = True
    boxes_follow_phrases: ClassVar[bool] = False
    token_rule: Literal["max", "mean"] | None = None

    def __init__(self, model: Any = None) -> None:
        super().__init__()
        self.model = model

    @abstractmethod
    def image_features(self, pixel_values: Tensor) -> dict[str, Tensor]:
        """Compute all that no prompt changes, from normalised pixels float ``[B, 3, h, w]``.

        It can be kept while prompts are searched or tuned: tensors ``[B, …]`` by name.
        """

    @abstractmethod
    def detect(self, features: Mapping[str, Tensor], prompts: Mapping[str, Tensor]) -> RawOutputs:
        """Answer prompts, the graph's inputs by name without ``phrase_to_class``; gradients flow to them if enabled."""

    def feature_specs(self) -> tuple[TensorSpec, ...]:
        """What ``image_features`` makes, in order, of a model that is exported in two parts; nothing of others."""
        return ()

    def forward(self, pixel_values: Tensor, prompts: Mapping[str, Tensor]) -> RawOutputs:
        """Detect; see ``image_features`` and ``detect``."""
        return self.detect(self.image_features(pixel_values), prompts)

    def query_centres(self) -> Tensor | None:
        """``[Q, 2]`` (x, y) in 0 … 1 where queries have a location of their own, such as patches; else None."""
        return None

    def training_outputs(self, features: Mapping[str, Tensor], prompts: Mapping[str, Tensor]) -> list[RawOutputs]:
        """Outputs that training compares with the labels: the final one last, auxiliary ones before it."""
        return [self.detect(features, prompts)]

    def own_loss(
        self,
        features: Mapping[str, Tensor],
        prompts: Mapping[str, Tensor],
        targets: Sequence[dict[str, Tensor]],
        annotated: Tensor,
        balance: Sequence[float],
    ) -> Tensor | None:
        """Loss of a model that is trained otherwise than by set prediction; None where it is not.

        ``targets`` and ``annotated`` are those of ``medprompt.export.evaluation.losses.detection_loss``; ``balance`` is
        that of its ``LossWeights``.
        """
        return None


class Family(ABC):
    """One Hugging Face detector class on the canonical graph.

    Attributes:
        architecture: Name of the transformers class.
        core_class: What ``core`` makes of the model.
        layouts: The bank tensors this family's text side makes, and their layouts.
        tunable: Those of them that carry a phrase's meaning, and so may be tuned.
        text_prefixes: Parameter-name prefixes of the text side: what the encoder fingerprint covers.
        head_prefixes: Likewise of what makes detections of encoded images and phrases: decoder, box and class heads.
            What is of neither is image backbone and encoder.
        attention_projections: How the names of attention's linear maps end: what low-rank adapters are put on.
        beside_prefixes: Name prefixes of other models that published files hold as well.
        backbone_prefixes: Parameter-name prefixes of an image backbone that may have been trained on other pictures.
        processors: Names of the classes that its processor may have, where transformers chooses one by what the folder
            says; empty where the family's own is taken.
        needs: What config.json has to say, where it says anything about it.
        own_licence: Whether its published weights come with a licence file that has to be handed on.
        top_k: Detections an image that an export keeps where it is not told.
        labels_per_query, token_rule: See ``medprompt.core.manifest.Postprocess``; what ``rules`` say goes before.
        closing_stop: Whether a caption of several phrases ends with a full stop; what ``rules`` say goes before.
        rules: Of the project that trained an imported model.
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
    beside_prefixes: ClassVar[tuple[str, ...]] = ()
    core_class: ClassVar[type[Core]]
    processors: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[Mapping[str, Any]] = {}
    top_k: ClassVar[int] = 300
    own_licence: ClassVar[bool] = False
    labels_per_query: Literal["one", "many"] = "one"
    token_rule: Literal["max", "mean"] | None = None
    closing_stop: bool = True
    tolerances: ClassVar[Mapping[str, Tolerance]]
    blocks: ClassVar[Mapping[str, str]]

    def __init__(self, model: Any, processor: Any, size_hw: tuple[int, int] | None = None) -> None:
        self.model = model
        self.processor = processor
        self.image_size = self.choose_size(size_hw)
        self.rules = read_trained_rules(model.config)
        self.labels_per_query = self.rules.labels_per_query or self.labels_per_query
        if self.token_rule is not None:
            self.token_rule = self.rules.token_rule or self.token_rule
        if self.rules.closing_stop is not None:
            self.closing_stop = self.rules.closing_stop

    @classmethod
    def check_config(cls, stated: Mapping[str, Any]) -> None:
        """Refuse a config.json of a form that is not served, before the model is built.

        Raises:
            CheckpointError: It states something else than ``needs``.
        """
        for name, value in cls.needs.items():
            if stated.get(name, value) != value:
                raise CheckpointError(
                    f"{cls.architecture} is not served in this form.",
                    where="config.json",
                    expected=f"{name}: {value}",
                    got=f"{name}: {stated[name]}",
                    fix="train from a checkpoint of the form that is served",
                )

    @classmethod
    def model_class(cls) -> Any:
        """The class that loads the weights: here transformers' own of this architecture."""
        import transformers

        return getattr(transformers, cls.architecture)

    @classmethod
    def load_processor(cls, folder: Path, **options: Any) -> Any:
        """Load a checkpoint's own processor, of the class that transformers chooses unless ``options`` say more."""
        from transformers import AutoProcessor

        return AutoProcessor.from_pretrained(folder, local_files_only=True, **options)

    def postprocess(self, post: Postprocess) -> Postprocess:
        """Rules of this family's own in place of what an export would choose; ``post.top_k`` is the most an image."""
        return post

    @abstractmethod
    def choose_size(self, size_hw: tuple[int, int] | None) -> ImageSize:
        """Choose the model's image size: the processor's own, or ``size_hw`` where the family allows it."""

    def only_size(self, own: tuple[int, int], size_hw: tuple[int, int] | None) -> ImageSize:
        """The size of a model that has no other."""
        if size_hw not in (None, own):
            raise InputError(
                f"{self.architecture} has one image size.",
                expected="{}x{}".format(*own),
                got="{}x{}".format(*size_hw or ()),
                fix="leave image_size= out",
            )
        return ImageSize(own)

    def resize_images(self, side: int) -> None:
        """Make the model and its processor take square images of another size, to be trained further.

        Raises:
            CheckpointError: This family cannot, or the side does not suit it.
        """
        raise CheckpointError(
            f"{self.architecture} cannot be trained at another image size than its processor's.",
            fix="leave image_size out of the recipe, or change the checkpoint's image processor",
        )

    def serves_any_size(self) -> bool:
        """Whether shape arithmetic of the core stays arithmetic in a trace: one graph for images of any size."""
        return False

    def follow_own_size(self) -> None:
        """Let ``reference`` give every image the size of the checkpoint's own processor, whatever the graph can do."""
        if self.image_size.own is not None:
            self.image_size = replace(self.image_size, follows=True)

    def least_pixels(self) -> int:
        """Pixels of the smallest image that the model has an answer for, where its size follows the source's."""
        return 1

    def size_for_image(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        """Height and width that the checkpoint's own processor gives a source of ``size_hw``: here the fixed size."""
        return self.image_size.size_hw

    def warnings(self, post: Postprocess) -> tuple[str, ...]:
        """What a reader of the bundle should know: where it may answer otherwise than the checkpoint's own pipeline."""
        return tuple(filter(None, [self.image_size.warning]))

    @property
    def mask_hw(self) -> tuple[int, int] | None:
        """Height and width of a mask, where the model makes masks."""
        return None

    @property
    def image_module(self) -> nn.Module:
        """The part of the model that ``reference`` hands the processor's pixels."""
        module: nn.Module = self.model
        return module

    @property
    def max_text_tokens(self) -> int | None:
        """Tokens that the model reads at once, where all phrases are one text."""
        return None

    def pad_with(self, share: float) -> None:
        """Let the checkpoint's processor pad with ``share`` of white, where it pads at all.

        Raises:
            InputError: It does not.
        """
        raise InputError(
            f"The image processor of {self.architecture} adds no border.",
            where="padding",
            fix="leave padding= out: it is for OWLv2",
        )

    @abstractmethod
    def preprocess(self) -> Preprocess:
        """Read the preprocessing from the checkpoint's own image processor."""

    def stated_preprocess(self) -> Preprocess:
        """What the image processor states, at the family's image size. Raises as ``preprocess_of``."""
        size = self.image_size
        return preprocess_of(self.processor.image_processor, size.size_hw).model_copy(
            update={
                "own_size": size.own,
                "sizes": "own" if size.follows else "one",
                "least_pixels": self.least_pixels() if size.follows else 1,
            }
        )

    @abstractmethod
    def prompt_specs(self) -> tuple[TensorSpec, ...]:
        """The graph's prompt inputs, in order, without ``phrase_to_class``."""

    @abstractmethod
    def phrase_length(self, text: str) -> tuple[int, int]:
        """Return the tokens a phrase takes, and the most the text encoder reads."""

    @abstractmethod
    def encode(self, texts: Sequence[str], task: str | None = None) -> EncodedPhrases:
        """Compute the text features of phrases, each within ``phrase_length``; gradients flow if enabled.

        ``task`` is the task sentence, for families that read one.
        """

    def task_of(self, texts: Sequence[str], task: str | None) -> str | None:
        """Return the task sentence that ``encode`` uses, for families that read one.

        A bank keeps it, so that a part of the bank is compared with PyTorch under the sentence that it serves.
        """
        return task

    def core(self) -> Core:
        """The module that stays in the graph; it shares the model's parameters."""
        core = self.core_class(self.model)
        core.token_rule = self.token_rule
        return core

    @abstractmethod
    def reference(self, image_rgb: NDArray[np.uint8], texts: Sequence[str], task: str | None = None) -> RawOutputs:
        """Run the checkpoint as transformers documents it: own processor, own forward, text encoder and all.

        The image is uint8 ``[H, W, 3]``. Outputs have ``B`` = 1, and boxes in 0 … 1 of the (padded) model image.
        """

    def words_of(self, text: str) -> str:
        """What the model is told of a phrase: names are cleaned as the project did that trained it."""
        return clean_name(text) if self.rules.names == "mmdet" else text

    def phrase_tokens(self, text: str) -> list[int]:
        """Ids of a phrase as the text encoder reads them, start and end included, uncut."""
        ids: list[int] = self.processor.tokenizer(text, truncation=False)["input_ids"]
        return ids

    def unknown_words(self, text: str) -> tuple[str, ...]:
        """Words of a phrase that the text encoder does not see: unknown to the tokenizer, or special tokens of its."""
        return self._read_words(text)[1]

    def _read_words(self, text: str) -> tuple[bool, tuple[str, ...]]:
        """Whether any letter or figure of a phrase reaches the text encoder, and the words that do not."""
        return read_words(self.processor.tokenizer, self.words_of(text))

    def check_phrases(self, texts: Sequence[str]) -> None:
        """Refuse phrases that the text encoder would cut, does not know, or cannot tell from one another.

        Raises:
            PromptError: A phrase without a known word, longer than the text context or the name of an image; or two of
                the same tokens.
        """
        first: dict[tuple[int, ...], str] = {}
        for text in texts:
            refuse_image_name(text)
            known, unknown = self._read_words(text)
            if not known:
                raise PromptError(
                    "The checkpoint's tokenizer knows no word of a phrase.",
                    where=repr(text),
                    got=f"unknown: {', '.join(map(repr, unknown)) or 'all of it'}",
                    fix="use words that the model was trained with",
                )
            self.check_length("A phrase", text, "shorten the phrase, or split it into several phrases of the class")
            tokens = tuple(self.phrase_tokens(text))
            if tokens in first:
                raise PromptError(
                    "Two phrases are the same to the checkpoint's tokenizer: no score could tell them apart.",
                    where=f"{first[tokens]!r} and {text!r}",
                    got=f"unknown: {', '.join(map(repr, unknown))}" if unknown else "the same tokens",
                    fix="take one of them out, or use words that the model was trained with",
                )
            first[tokens] = text

    def check_pooling(self, pooling: str) -> None:
        """Refuse a pooling of phrases that has no meaning in this family.

        Raises:
            PromptError: It has none.
        """
        return

    def check_length(self, what: str, text: str, fix: str) -> None:
        """Refuse one text that the text encoder would cut."""
        length, limit = self.phrase_length(text)
        if length > limit:
            raise PromptError(
                f"{what} is longer than the text encoder reads.",
                where=repr(text),
                expected=f"at most {limit} tokens",
                got=f"{length} tokens",
                fix=fix,
            )

    def check_tokenizer(self) -> None:
        """Refuse a tokenizer that is not of the text model.

        Raises:
            CheckpointError: It makes ids that the model has no rows for, far fewer than the model knows, or pads before
                the words.
        """
        rows, ids = self.model.config.text_config.vocab_size, len(self.processor.tokenizer)
        if not rows - VOCABULARY_PADDING < ids <= rows:
            raise CheckpointError(
                "The tokenizer does not fit the text model.",
                where="tokenizer files, and config.json: text_config.vocab_size",
                expected=f"{rows} tokens, as the model has",
                got=f"{ids} tokens",
                fix="save the model's own tokenizer beside it"
                if ids <= rows
                else "tokens were added: resize_token_embeddings(len(tokenizer)) and train, or save the tokenizer "
                "without them",
            )

        if self.processor.tokenizer.padding_side != "right":
            raise CheckpointError(
                "The tokenizer pads before the words: their positions would depend on how long the other phrases are.",
                where="tokenizer_config.json: padding_side",
                expected="right",
                got=str(self.processor.tokenizer.padding_side),
                fix='put "padding_side": "right" there',
            )

    def encoder_fingerprint(self) -> str:
        """SHA-256 (16 hex digits) over the text side's weights and the tokenizer."""
        digest = hashlib.sha256(self.architecture.encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            if name.startswith(self.text_prefixes):
                digest.update(name.encode())
                digest.update(tensor.detach().to(torch.float32).contiguous().numpy().tobytes())
        digest.update(tokenizer_state(self.processor.tokenizer).encode())
        return digest.hexdigest()[:16]
