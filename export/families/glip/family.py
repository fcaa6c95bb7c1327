"""GLIP: one caption holds all phrases, and the model was trained to read it whole.

Offline: BERT over the whole caption; without fusion, each token's vector and bias too. A word's features depend on all
phrases, so a bank is one caption: it can be exchanged, not merged or taken apart.

In the graph: see ``core``. The model's own image processing is Pillow's bilinear resize to a short edge of 800 (long
edge at most 1333), mean and deviation in 0 … 255, zeros at the right and bottom up to a multiple of 32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from medprompt.core.errors import PromptError
from medprompt.core.manifest import Postprocess, TensorSpec, Tolerance
from medprompt.export.families.base import (
    OUTSIDE,
    TOLERANCES_UNTIL_MEASURED,
    EncodedPhrases,
    Family,
    ImageSize,
    RawOutputs,
)
from medprompt.export.families.glip.anchors import cell_anchors, clipped_shares, decoded_boxes
from medprompt.export.families.glip.core import GlipCore
from medprompt.export.families.glip.model import DenseOutputs, GlipForObjectDetection
from medprompt.export.families.grounding_dino import GroundingDino
from medprompt.prompts.bank import Layout


@dataclass(frozen=True)
class Caption:
    """Token ids of all phrases in one text, and which of them are each phrase's own: first and end, by position."""

    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]


class Glip(GroundingDino):
    """GLIP-T, GLIP-L and GLIP-A: ``GlipForObjectDetection`` of this package.

    Image sizes, image processor and the limit of a caption are those of Grounding DINO.
    """

    architecture = "GlipForObjectDetection"
    core_class = GlipCore
    layouts: ClassVar[Mapping[str, Layout]] = {
        "text_features": "caption",
        "token_vectors": "caption",
        "token_bias": "caption",
    }
    text_prefixes = ("text_model.", "head.text_proj.", "head.text_bias", "head.bias")
    head_prefixes = ("neck.", "tower.", "head.")
    attention_projections = (
        *("q_proj", "k_proj", "v_proj", "o_proj"),  # Swin
        *("query", "key", "value", "attention.output.dense"),  # BERT
        *("image_proj", "text_proj", "values_image_proj", "values_text_proj", "out_image_proj", "out_text_proj"),
    )
    backbone_prefixes = ("backbone.",)
    needs: ClassVar[Mapping[str, Any]] = {}
    labels_per_query: Literal["one", "many"] = "many"
    token_rule: Literal["max", "mean"] | None = "mean"
    tolerances: ClassVar[Mapping[str, Tolerance]] = TOLERANCES_UNTIL_MEASURED

    blocks: ClassVar[Mapping[str, str]] = {
        "core.model.backbone.{any}.embeddings": "backbone.embed",
        "core.model.backbone.{any}.encoder.layers.{i}": "backbone.stage{i}",
        "core.model.backbone": "backbone.rest",
        "core.model.neck": "neck",
        "core.model.tower.{i}.fusion": "tower{i}.fusion",
        "core.model.tower.{i}.text_layer": "tower{i}.text",
        "core.model.tower.{i}.convs": "tower{i}.convs",
        "core.model.head": "heads",
    }

    @property
    def tunable(self) -> tuple[str, ...]:  # type: ignore[override]
        """See ``Family``."""
        return ("text_features",) if self.model.config.fused else ("token_vectors",)

    @classmethod
    def model_class(cls) -> Any:
        """See ``Family.model_class``."""
        return GlipForObjectDetection

    @classmethod
    def load_processor(cls, folder: Path, backend: str = "pil", **options: Any) -> Any:
        """Load tokenizer and image processor: unless asked otherwise the one that resizes with Pillow, as GLIP does."""
        from transformers import AutoImageProcessor, AutoTokenizer, GroundingDinoProcessor

        images = AutoImageProcessor.from_pretrained(folder, backend=backend, local_files_only=True)
        return GroundingDinoProcessor(images, AutoTokenizer.from_pretrained(folder, local_files_only=True))

    def choose_size(self, size_hw: tuple[int, int] | None) -> ImageSize:
        """See ``Family.choose_size``: the graph has one size, by default a square of the processor's short edge."""
        size = self.processor.image_processor.size
        if size_hw is not None or "shortest_edge" not in size:
            return super().choose_size(size_hw)
        short = size["shortest_edge"]
        warning = (
            f"The checkpoint's own processor keeps the aspect ratio; this model sees every image as {short}x{short}. "
            "Choose as image size what it makes of your device's frames, as HEIGHTxWIDTH, and the two are equal."
        )
        return replace(super().choose_size((short, short)), warning=warning)

    def resize_images(self, side: int) -> None:
        """See ``Family.resize_images``: no weight depends on the size."""
        self.processor.image_processor.size = {"height": side, "width": side}
        self.image_size = self.choose_size(None)

    def postprocess(self, post: Postprocess) -> Postprocess:
        """See ``Family.postprocess``: GLIP's rules, whose numbers are in config.json."""
        config = self.model.config
        return post.model_copy(
            update={
                "top_k": config.level_top_k * (len(self.model.backbone.channels) + 2),
                "level_top_k": config.level_top_k,
                "score_rule": "centerness",
                "least_probability": config.least_probability,
                "labels_per_query": self.labels_per_query,
                "nms_iou": post.nms_iou or config.nms_iou,
                "nms_pixels": "inclusive",
                "max_detections": min(post.top_k, config.max_detections),
            }
        )

    def prompt_specs(self) -> tuple[TensorSpec, ...]:
        """See ``Family.prompt_specs``."""
        config = self.model.config
        tokens = TensorSpec(name="phrase_tokens", dtype="int64", shape=("P", "L"), source="phrase_tokens")
        if config.fused:
            width = config.text_config.hidden_size
            return (TensorSpec(name="text_features", dtype="float32", shape=(1, "T", width), source="token"), tokens)
        return (
            TensorSpec(name="token_vectors", dtype="float32", shape=(1, "T", config.width), source="token"),
            TensorSpec(name="token_bias", dtype="float32", shape=(1, "T"), source="token"),
            tokens,
        )

    def phrase_tokens(self, text: str) -> list[int]:
        """See ``Family.phrase_tokens``, of the phrase as the caption has it."""
        return Family.phrase_tokens(self, self.words_of(text))

    def encode(self, texts: Sequence[str], task: str | None = None) -> EncodedPhrases:
        """See ``Family.encode``: rows of the caption's tokens, each phrase's with the separator after it.

        Raises:
            PromptError: See ``caption``.
        """
        caption = self.caption(texts)
        firsts, last = [first for first, _ in caption.spans], caption.spans[-1][1] + 1
        hidden = self.model.text_model(self._ids(caption)).last_hidden_state
        tensors: dict[str, Tensor] = {}
        for name, rows in self._text_tensors(hidden).items():
            tensors[name] = rows[firsts[0] : last]
            tensors[f"{name}.before"], tensors[f"{name}.after"] = rows[: firsts[0]], rows[last:]
        counts = np.diff([*firsts, last])
        return EncodedPhrases(tensors, tuple(int(count) for count in counts), separator_tokens=1)

    def _text_tensors(self, hidden: Tensor) -> dict[str, Tensor]:
        if self.model.config.fused:
            return {"text_features": hidden[0]}
        vectors, biases = self.model.head.tokens(hidden)
        return {"token_vectors": vectors[0], "token_bias": biases[0]}

    def caption(self, texts: Sequence[str]) -> Caption:
        """Join the phrases as the model was trained to read them.

        A phrase's separator is one token: the mark between phrases, or what follows the last one, be it the closing
        mark or [SEP].

        Raises:
            PromptError: The caption is longer than the model reads, or its marks do not stand alone.
        """
        config = self.model.config
        names = [self.words_of(text) for text in texts]
        text = config.separator.join(names) + config.closing
        coded = self.processor.tokenizer(text, return_offsets_mapping=True, truncation=False)
        self._check_caption(len(coded["input_ids"]))
        spans, start = [], 0
        for name in names:
            own = [n for n, (a, b) in enumerate(coded["offset_mapping"]) if a < b and start <= a < start + len(name)]
            spans.append((own[0], own[-1] + 1))
            start += len(name) + len(config.separator)
        caption = Caption(tuple(coded["input_ids"]), tuple(spans))
        self._check_marks(caption, texts)
        return caption

    def _check_marks(self, caption: Caption, texts: Sequence[str]) -> None:
        """One token between two phrases: the graph is told that each phrase's last token never scores."""
        for (_, end), (first, _), text in zip(caption.spans, caption.spans[1:], texts, strict=False):
            if first != end + 1:
                raise PromptError(
                    "A phrase runs into the next one, or the mark between them is not one token.",
                    where=repr(text),
                    expected=f"one token for the separator {self.model.config.separator!r}",
                    got=f"{first - end} tokens",
                    fix="word the phrase without a closing mark, or set the separator right in config.json",
                )

    def _ids(self, caption: Caption) -> Tensor:
        return torch.tensor([caption.ids], device=self.model.device)

    @torch.no_grad()
    def reference(self, image_rgb: NDArray[np.uint8], texts: Sequence[str], task: str | None = None) -> RawOutputs:
        """See ``Family.reference``: the model's own forward on the caption; the processor makes this family's size."""
        size = (
            {}
            if self.image_size.follows
            else {"size": dict(zip(("height", "width"), self.image_size.size_hw, strict=True))}
        )
        pixels = self.processor.image_processor(images=Image.fromarray(image_rgb), return_tensors="pt", **size)[
            "pixel_values"
        ].to(self.model.device)
        height, width = pixels.shape[-2:]
        caption = self.caption(texts)
        outputs: DenseOutputs = self.model(pixel_values=pixels, input_ids=self._ids(caption))
        scores = torch.stack([self._score(outputs, first, end) for first, end in caption.spans], dim=-1)
        anchors = cell_anchors(outputs.sizes, self.model.config.anchor_scale, pixels)
        boxes = clipped_shares(decoded_boxes(outputs.regression, anchors), torch.tensor([[height, width]]).to(pixels))
        logits = torch.where(scores > 0, scores.double().logit(), -OUTSIDE).float()
        return RawOutputs(logits, boxes, levels=tuple(h * w for h, w in outputs.sizes))

    def _score(self, outputs: DenseOutputs, first: int, end: int) -> Tensor:
        """``[B, N]``: √(mean probability of a phrase's tokens · centerness), 0 where the mean is too small."""
        mean = outputs.token_logits[..., first:end].sigmoid().mean(dim=-1)
        score = (mean * outputs.centerness.sigmoid()).sqrt()
        return torch.where(mean > self.model.config.least_probability, score, 0.0)
