"""Grounding DINO: image and text fuse in the encoder; a phrase's logit is the best over its tokens.

Or that of their mean score, where the project that trained the model has it so.

Offline: tokens, BERT under a mask that is block-diagonal by phrase, projection, sinusoids of positions that
restart at every phrase. So a phrase's features do not depend on its neighbours, and banked phrases compose
to a caption.

In the graph: see ``grounding_core``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers.image_transforms import get_size_with_aspect_ratio
from transformers.image_utils import get_image_size_for_max_height_width
from transformers.models.grounding_dino import modeling_grounding_dino as hf

from medprompt.core.errors import CheckpointError, PromptError
from medprompt.core.manifest import Preprocess, TensorSpec, Tolerance
from medprompt.export.families.base import (
    TOLERANCES_UNTIL_MEASURED,
    EncodedPhrases,
    Family,
    ImageSize,
    RawOutputs,
)
from medprompt.export.families.grounding_core import GroundingDinoCore
from medprompt.export.families.image_processors import own_size_of
from medprompt.export.families.swin import any_size_of, least_pixels
from medprompt.images.resize import own_size_hw
from medprompt.prompts.bank import Layout


class GroundingDino(Family):
    """``GroundingDinoForObjectDetection``."""

    architecture = "GroundingDinoForObjectDetection"
    processors = ("GroundingDinoProcessor",)
    layouts: ClassVar[Mapping[str, Layout]] = {"text_features": "token", "text_position_embedding": "token"}
    tunable = ("text_features",)
    text_prefixes: ClassVar[tuple[str, ...]] = ("model.text_backbone.", "model.text_projection.")
    head_prefixes: ClassVar[tuple[str, ...]] = (
        *("model.decoder.", "model.query_position_embeddings.", "bbox_embed.", "class_embed."),
        *("model.enc_output.", "model.enc_output_norm.", "model.encoder_output_bbox_embed."),
        "model.encoder_output_class_embed.",
    )
    attention_projections = (
        *("q_proj", "k_proj", "v_proj", "o_proj"),  # Swin
        *("query", "key", "value", "attention.output.dense", "out_proj"),  # BERT, text enhancer, decoder
        *("value_proj", "output_proj"),  # deformable attention
        # Fusion: of the image's side the core folds the weights themselves, which would pass an adapter by.
        *("text_proj", "values_text_proj", "out_text_proj"),
    )
    backbone_prefixes = ("model.backbone.",)
    token_rule: Literal["max", "mean"] | None = "max"
    needs: ClassVar[Mapping[str, Any]] = {"two_stage": True}  # one-stage models are another graph
    core_class = GroundingDinoCore
    tolerances: ClassVar[Mapping[str, Tolerance]] = {
        **TOLERANCES_UNTIL_MEASURED,
        # Swin-T at 800 × 800, random weights with spread scores, core against transformers' forward: two
        # near-tied proposals swap ranks, and with them the learned queries of those ranks; all other 898
        # queries differ by less than 1e-3 in every logit. 896 of 898 decisions (score at least 0.2) are
        # kept.
        "fp32": Tolerance(min_kept=0.995),
    }

    blocks: ClassVar[Mapping[str, str]] = {
        "core.model.model.backbone.conv_encoder.model.{any}.embeddings": "backbone.embed",
        "core.model.model.backbone.conv_encoder.model.{any}.encoder.layers.{i}": "backbone.stage{i}",
        "core.model.model.backbone": "backbone.rest",
        "core.model.model.input_proj_vision": "neck",
        "core.model.model.encoder.layers.{i}": "encoder.layer{i}",
        "core.model.model.enc_output": "proposals",
        "core.model.model.enc_output_norm": "proposals",
        "core.model.model.encoder_output_class_embed": "proposals",
        "core.model.model.encoder_output_bbox_embed": "proposals",
        "core.model.model.decoder.bbox_embed": "decoder.boxes",
        "core.model.model.decoder.reference_points_head": "decoder.positions",
        "core.model.model.decoder.layers.{i}": "decoder.layer{i}",
        "core.model.model.decoder.layer_norm": "heads",
        "core.model.class_embed": "heads",
        "core.model.bbox_embed": "heads",
    }

    def __init__(self, model: Any, processor: Any, size_hw: tuple[int, int] | None = None) -> None:
        self.check_config(model.config.to_dict())
        super().__init__(model, processor, size_hw)
        self._check_caption_rule()

    def choose_size(self, size_hw: tuple[int, int] | None) -> ImageSize:
        """The processor's fixed size, or ``size_hw``; else its own size for each image, or a square of its short edge.

        The square is for models whose graph has one size, see ``serves_any_size``.
        """
        try:
            own = own_size_of(self.processor.image_processor)
        except CheckpointError as error:
            if size_hw is None:
                raise
            return ImageSize(size_hw, f"How the checkpoint's own processor resizes ({error.got}) is not served.")
        square = own_size_hw((1, 1), own)
        if own.height is not None:
            chosen = size_hw or square
            if chosen == square:
                return ImageSize(square)
            warning = "The checkpoint's own processor resizes to {}x{}, not to {}x{}.".format(*square, *chosen)
            return ImageSize(chosen, warning, own)
        if size_hw is not None:
            return ImageSize(size_hw, own=own)
        if self.serves_any_size():
            return ImageSize(square, own=own, follows=True)
        return ImageSize(
            square,
            f"The checkpoint's own processor keeps the aspect ratio ({own}); this model sees every image as "
            "{}x{}, for its backbone is not served at any size. Choose as image size what it makes of your device's "
            "frames, as HEIGHTxWIDTH, and the two are equal.".format(*square),
            own,
        )

    def resize_images(self, side: int) -> None:
        """See ``Family.resize_images``: no weight depends on the size."""
        if not self.serves_any_size():
            super().resize_images(side)
        self.processor.image_processor.size = {"height": side, "width": side}
        self.image_size = self.choose_size(None)

    def size_for_image(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        """See ``Family.size_for_image``: where the processor keeps the aspect ratio, by transformers' own functions."""
        size = self.processor.image_processor.size
        if "shortest_edge" in size:
            height, width = get_size_with_aspect_ratio(size_hw, size["shortest_edge"], size.get("longest_edge"))
        elif "max_height" in size:
            height, width = get_image_size_for_max_height_width(size_hw, size["max_height"], size["max_width"])
        else:
            height, width = self.image_size.size_hw
        return height, width

    def serves_any_size(self) -> bool:
        """See ``Family.serves_any_size``: by the backbone, and no positions that were learned."""
        sines = self.model.config.position_embedding_type == "sine"
        return sines and any_size_of(self.model.model.backbone.conv_encoder.model)

    def least_pixels(self) -> int:
        """See ``Family.least_pixels``: the feature cells are as many as the queries, or more."""
        config = self.model.config
        if not self.serves_any_size():
            return super().least_pixels()
        return least_pixels(self.model.model.backbone.conv_encoder.model, config.num_feature_levels, config.num_queries)

    def preprocess(self) -> Preprocess:
        """See ``Family.preprocess``."""
        return self.stated_preprocess()

    @property
    def max_text_tokens(self) -> int:
        """See ``Family.max_text_tokens``."""
        config = self.model.config
        return int(min(config.max_text_len, config.text_config.max_position_embeddings))

    def prompt_specs(self) -> tuple[TensorSpec, ...]:
        """See ``Family.prompt_specs``."""
        width = self.model.config.d_model
        return (
            TensorSpec(name="text_features", dtype="float32", shape=(1, "T", width), source="token"),
            TensorSpec(name="text_position_embedding", dtype="float32", shape=(1, "T", width), source="token"),
            TensorSpec(name="text_self_bias", dtype="float32", shape=(1, "T", "T"), source="block_bias"),
            TensorSpec(name="phrase_tokens", dtype="int64", shape=("P", "L"), source="phrase_tokens"),
        )

    def check_tokenizer(self) -> None:
        """See ``Family.check_tokenizer``; transformers' code splits captions at ids of its own, not the tokenizer's."""
        super().check_tokenizer()
        tokenizer = self.processor.tokenizer
        names = (tokenizer.cls_token, tokenizer.sep_token, ".", "?")
        wanted = dict(zip(names, hf.SPECIAL_TOKENS, strict=True)) | {tokenizer.pad_token: 0}
        got = {name: None if name is None else tokenizer.convert_tokens_to_ids(name) for name in wanted}
        if got != wanted:
            raise CheckpointError(
                "The tokenizer has other ids than transformers' Grounding DINO code takes for granted; it would not "
                "tell phrases apart.",
                where="tokenizer files",
                expected=", ".join(f"{name} {number}" for name, number in wanted.items()),
                got=", ".join(f"{name} {number}" for name, number in got.items()),
                fix="train from a checkpoint whose text model has the ids of bert-base-uncased",
            )

    def phrase_length(self, text: str) -> tuple[int, int]:
        """See ``Family.phrase_length``; [CLS], "." and [SEP] count."""
        return len(self.phrase_tokens(text)), self.max_text_tokens

    def encode(self, texts: Sequence[str], task: str | None = None) -> EncodedPhrases:
        """See ``Family.encode``: tokens ``[sum(token_counts), d]`` phrase by phrase, each with its ".".

        A bank is encoded phrase by phrase, so that a subset or merge equals a fresh embedding to the last
        bit; training encodes all phrases as one padded batch, which differs by rounding only.

        Raises:
            PromptError: A phrase that transformers would cut in two.
        """
        captions = [self._ends(), *(self.phrase_tokens(text) for text in texts)]
        batches = [captions] if torch.is_grad_enabled() else [[ids] for ids in captions]
        rows = [row for batch in batches for row in self._token_rows(batch)]
        tensors: dict[str, Tensor] = {}
        for index, name in enumerate(self.layouts):
            ends, *phrases = (row[index] for row in rows)
            tensors[name] = torch.cat([phrase[1:-1] for phrase in phrases])
            tensors[f"{name}.before"], tensors[f"{name}.after"] = ends[:1], ends[1:]
        return EncodedPhrases(tensors, tuple(len(ids) - 2 for ids in captions[1:]), separator_tokens=1)

    def _check_caption_rule(self) -> None:
        if not self.closing_stop:
            raise CheckpointError(
                f"{self.architecture} ends every phrase with a full stop, the last one too.",
                where="config.json: trained_rules",
                expected="closing_stop: true, or not stated",
                got="closing_stop: false",
                fix="train from a checkpoint of the form that is served",
            )

    def _ends(self) -> list[int]:
        """[CLS] and [SEP]. They see themselves only, so their features are the same around every caption."""
        tokenizer = self.processor.tokenizer
        return [tokenizer.cls_token_id, tokenizer.sep_token_id]

    def phrase_tokens(self, text: str) -> list[int]:
        """See ``Family.phrase_tokens``; a phrase is a caption of its own: [CLS], tokens in lower case, ".", [SEP]."""
        ids: list[int] = self.processor.tokenizer(f"{_bare(self.words_of(text))}.")["input_ids"]
        if len(ids) < 4 or set(ids[1:-2]) & set(hf.SPECIAL_TOKENS):
            raise PromptError(
                "A phrase contains a full stop or question mark, where Grounding DINO splits phrases.",
                where=repr(text),
                expected="words; one full stop at the end is allowed",
                fix="write the words without the mark ('H pylori', 'half a centimetre'), or make two phrases of it",
            )
        return ids

    def _token_rows(self, captions: Sequence[list[int]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield each caption's features and position embeddings ``[tokens, d]``."""
        inner, device = self.model.model, self.model.device
        tokenizer = self.processor.tokenizer
        padded = tokenizer.pad({"input_ids": list(captions)}, return_tensors="pt")["input_ids"].to(device)
        mask, positions = hf.generate_masks_with_special_tokens_and_transfer_map(padded, inner.special_tokens)
        hidden = inner.text_backbone(padded, mask[:, None], torch.zeros_like(padded), positions).last_hidden_state
        features = inner.text_projection(hidden)
        sines = hf.encode_sinusoidal_position_embedding(
            positions[..., None].to(features.dtype), num_pos_feats=features.shape[2]
        )
        for row, ids in enumerate(captions):
            yield features[row, : len(ids)], sines[row, : len(ids)]

    def reference(self, image_rgb: NDArray[np.uint8], texts: Sequence[str], task: str | None = None) -> RawOutputs:
        """See ``Family.reference``; the processor makes its own size, or this family's where that is another.

        Raises:
            PromptError: The caption is longer than ``max_text_len``; transformers would cut it.
        """
        height, width = self.image_size.size_hw
        size = {} if self.image_size.follows else {"size": {"height": height, "width": width}}
        inputs = self.processor(
            images=Image.fromarray(image_rgb),
            text=[[_bare(self.words_of(text)) for text in texts]],
            return_tensors="pt",
            **size,
        ).to(self.model.device)
        self._check_caption(inputs["input_ids"].shape[1])
        with torch.no_grad():
            outputs = self.model(**inputs)
        (own_tokens,) = hf.build_label_maps(outputs.logits, inputs["input_ids"])
        logits = torch.stack([self._pooled(outputs.logits[..., own.bool()]) for own in own_tokens], dim=-1)
        return RawOutputs(logits, outputs.pred_boxes)

    def _pooled(self, logits: Tensor) -> Tensor:
        """One logit of a phrase's tokens on the last axis."""
        if self.token_rule == "mean":
            return torch.logit(logits.double().sigmoid().mean(dim=-1)).float()
        return logits.amax(dim=-1)

    def _check_caption(self, tokens: int) -> None:
        if tokens > self.max_text_tokens:
            raise PromptError(
                "All phrases together are longer than the model has ever read at once.",
                expected=f"at most {self.max_text_tokens} tokens (max_text_len)",
                got=f"{tokens} tokens",
                fix="export with fewer phrases, and embed the others as banks of their own (medprompt prompts embed)",
            )


def _bare(text: str) -> str:
    """A phrase in lower case without its closing full stop."""
    return text.strip().lower().removesuffix(".").rstrip()
