"""OmDet-Turbo: each phrase is one vector; a task sentence's tokens join the decoder's queries.

Offline: CLIP's text model over phrases and task sentence. In the graph: backbone, encoder, proposal
selection and decoder, as a lean forward around Hugging Face's own submodules. It leaves out their caches:
one of language features, which depends on the order of calls, and one of anchors, which keeps the tensors
of whoever called first. And it sends only the chosen cells through the box head, not all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers.models.omdet_turbo import modeling_omdet_turbo as hf
from transformers.models.omdet_turbo.processing_omdet_turbo import OmDetTurboProcessor

from medprompt.core.errors import CheckpointError
from medprompt.core.manifest import Postprocess, Preprocess, TensorSpec, Tolerance
from medprompt.export.families.base import (
    OUTSIDE,
    TOLERANCES_UNTIL_MEASURED,
    Core,
    EncodedPhrases,
    Family,
    ImageSize,
    RawOutputs,
)
from medprompt.prompts.assemble import MASKED
from medprompt.prompts.bank import Layout


@dataclass(frozen=True)
class Cells:
    """The feature maps, flattened level by level to N cells.

    ``features`` is float ``[B, N, d]``; ``shapes``, height and width of each level.
    """

    features: Tensor
    shapes: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Queries:
    """What the decoder starts from, and what the encoder found.

    ``content`` is float ``[B, Q, d]``; ``output``, the encoder's logits and boxes of the chosen cells.
    """

    content: Tensor
    output: RawOutputs


class OmDetTurboCore(Core):
    """Image side and decoder of OmDet-Turbo."""

    def image_features(self, pixel_values: Tensor) -> dict[str, Tensor]:
        """See ``Core.image_features``: ``level0`` … ``[B, d, h, w]``, finest first."""
        maps = self.model.encoder(self.model.vision_backbone(pixel_values), return_dict=True).extracted_states
        projections = self.model.decoder.channel_projection_layers
        pairs = zip(projections, maps, strict=True)
        return {f"level{index}": project(level) for index, (project, level) in enumerate(pairs)}

    def detect(self, features: Mapping[str, Tensor], prompts: Mapping[str, Tensor]) -> RawOutputs:
        """See ``Core.detect`` and ``OmDetTurbo.prompt_specs``."""
        cells = _cells(features)
        queries = self._queries(cells, prompts["class_features"])
        *_, (index, hidden, boxes) = self._decode(cells, queries, prompts)
        return self._output(index, hidden, boxes, prompts["class_features"])

    def training_outputs(self, features: Mapping[str, Tensor], prompts: Mapping[str, Tensor]) -> list[RawOutputs]:
        """See ``Core.training_outputs``: the output of every cell, then every decoder layer's.

        Cells that are not chosen learn too: a choice by scores that mean nothing yet would teach the same few.
        """
        cells = _cells(features)
        queries = self._queries(cells, prompts["class_features"])
        steps = self._decode(cells, queries, prompts)
        return [
            self._every_cell(cells, prompts["class_features"]),
            *(self._output(*step, prompts["class_features"]) for step in steps),
        ]

    def _every_cell(self, cells: Cells, class_features: Tensor) -> RawOutputs:
        """Outputs of the encoder only, of the cells that may be used."""
        decoder = self.model.decoder
        anchors, usable = self._anchors(cells)
        kept = usable[0, :, 0]
        content = decoder.encoder_vision_features(cells.features[:, kept])
        logits = self._logits(decoder.encoder_class_head, content, class_features)
        boxes = torch.sigmoid(decoder.encoder_bbox_head(content) + anchors[:, kept])
        return RawOutputs(logits, boxes, anchors[0, kept, :2].sigmoid())

    def _queries(self, cells: Cells, class_features: Tensor) -> Queries:
        """Choose the cells that look most like any phrase."""
        decoder = self.model.decoder
        anchors, usable = self._anchors(cells)
        content = decoder.encoder_vision_features(cells.features.masked_fill(~usable, 0.0))
        logits = self._logits(decoder.encoder_class_head, content, class_features)
        best = torch.topk(logits.amax(dim=2), decoder.num_queries, dim=1).indices[..., None]
        content = _picked(content, best)
        boxes = torch.sigmoid(decoder.encoder_bbox_head(content) + _picked(anchors, best))
        output = RawOutputs(_picked(logits, best), boxes)
        if decoder.learn_initial_query:
            content = decoder.tgt_embed.weight[None].expand(content.shape[0], -1, -1)
        # Detached as in transformers: the decoder's loss ends at the chosen cells.
        return Queries(content.detach(), output)

    def _anchors(self, cells: Cells) -> tuple[Tensor, Tensor]:
        """Each cell's proposal as logits ``[B, N, 4]``, and whether it may be used, bool ``[1, N, 1]``."""
        features = cells.features
        # __wrapped__: without the cache, which would hand the tensors of a trace to the next caller.
        anchors, usable = hf.OmDetTurboDecoder.generate_anchors.__wrapped__(
            self.model.decoder, cells.shapes, device=features.device, dtype=features.dtype
        )
        return anchors.clamp(max=OUTSIDE).expand(features.shape[0], -1, -1), usable

    def _decode(
        self, cells: Cells, queries: Queries, prompts: Mapping[str, Tensor]
    ) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yield each layer's index, its queries ``[B, Q, d]`` and its boxes ``[B, Q, 4]``."""
        decoder = self.model.decoder
        hidden, reference = queries.content, queries.output.boxes_cxcywh.detach()
        batch = hidden.shape[0]
        task = decoder.task_project(decoder.task_encoder(prompts["task_features"]))
        # The decoder's layers take task tokens sequence first.
        task = task.expand(batch, -1, -1).transpose(0, 1)
        bias = _task_bias(prompts["task_mask"], hidden.shape[1])
        shapes = torch.tensor(cells.shapes, device=hidden.device)
        for index, layer in enumerate(decoder.layers):
            hidden, task, _, _ = layer(
                hidden,
                task,
                reference.detach(),
                cells.features,
                shapes,
                cells.shapes,
                attention_mask=bias,
                query_position=decoder.query_position_head(reference.detach()),
            )
            delta = decoder.decoder_bbox_head[index](hidden)
            yield index, hidden, _moved(reference, delta)
            # As transformers' training mode: a layer's boxes teach the layer before, and no further.
            reference = _moved(reference.detach(), delta)

    def _output(self, index: int, hidden: Tensor, boxes: Tensor, class_features: Tensor) -> RawOutputs:
        head = self.model.decoder.decoder_class_head[index]
        return RawOutputs(self._logits(head, hidden, class_features), boxes)

    def _logits(self, head: Any, hidden: Tensor, class_features: Tensor) -> Tensor:
        """Logits ``[B, Q, P]`` of queries ``[B, Q, d]`` for phrases ``[1, P, D]``."""
        phrases = head(class_features).transpose(1, 2).expand(hidden.shape[0], -1, -1)
        logits: Tensor = hf.get_class_similarity(self.model.decoder.class_distance_type, hidden, phrases)
        return logits


def _cells(features: Mapping[str, Tensor]) -> Cells:
    """Flatten the levels that ``image_features`` returned."""
    levels = [features[f"level{index}"] for index in range(len(features))]
    shapes = tuple((level.shape[2], level.shape[3]) for level in levels)
    return Cells(torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1), shapes)


def _picked(rows: Tensor, best: Tensor) -> Tensor:
    """Rows ``[B, N, d]`` at indices ``[B, Q, 1]``: ``[B, Q, d]``."""
    return torch.gather(rows, 1, best.expand(-1, -1, rows.shape[2]))


def _moved(reference: Tensor, delta: Tensor) -> Tensor:
    """Boxes (cxcywh in 0 … 1) moved by ``delta`` in logit space."""
    return torch.sigmoid(delta + hf._inverse_sigmoid(reference))


def _task_bias(task_mask: Tensor, queries: int) -> Tensor:
    """``[1, 1, 1, Q + L]``: 0 for queries and task tokens, ``MASKED`` for the task's padding."""
    bias = torch.cat([task_mask.new_zeros(1, queries), (1 - task_mask) * MASKED], dim=1)
    return bias[:, None, None]


class OmDetTurbo(Family):
    """``OmDetTurboForObjectDetection``."""

    architecture = "OmDetTurboForObjectDetection"
    core_class = OmDetTurboCore
    layouts: ClassVar[Mapping[str, Layout]] = {
        "class_features": "phrase",
        "task_features": "shared",
        "task_mask": "shared",
    }
    tunable = ("class_features",)
    text_prefixes = ("language_backbone.",)
    head_prefixes = ("decoder.",)
    attention_projections = (
        *("q_proj", "k_proj", "v_proj", "o_proj", "out_proj"),  # Swin, CLIP
        *("query", "key", "value", "value_proj", "output_proj"),  # encoder, decoder
    )
    backbone_prefixes = ("vision_backbone.",)
    # transformers' post-processing takes the best (query, class) pairs, so a query may report several classes.
    labels_per_query = "many"
    tolerances: ClassVar[Mapping[str, Tolerance]] = TOLERANCES_UNTIL_MEASURED

    blocks: ClassVar[Mapping[str, str]] = {
        "core.model.vision_backbone.vision_backbone.{any}.embeddings": "backbone.embed",
        "core.model.vision_backbone.vision_backbone.{any}.encoder.layers.{i}": "backbone.stage{i}",
        "core.model.vision_backbone": "backbone.rest",
        "core.model.encoder.channel_projection_layers": "encoder.projection",
        "core.model.encoder.encoder": "encoder.attention",
        "core.model.encoder": "encoder.pyramid",
        "core.model.decoder.channel_projection_layers": "decoder.projection",
        "core.model.decoder.encoder_vision_features": "proposals",
        "core.model.decoder.encoder_class_head": "proposals",
        "core.model.decoder.encoder_bbox_head": "proposals",
        "core.model.decoder.task_encoder": "task",
        "core.model.decoder.task_project": "task",
        "core.model.decoder.decoder_bbox_head": "decoder.boxes",
        "core.model.decoder.query_position_head": "decoder.positions",
        "core.model.decoder.layers.{i}": "decoder.layer{i}",
        "core.model.decoder.decoder_class_head": "heads",
    }

    @classmethod
    def load_processor(cls, folder: Path, **options: Any) -> Any:
        """See ``Family.load_processor``.

        transformers' auto class refuses this processor without torchvision, which only its NMS needs.
        """
        return OmDetTurboProcessor.from_pretrained(folder, local_files_only=True, **options)

    def choose_size(self, size_hw: tuple[int, int] | None) -> ImageSize:
        """The processor's fixed size; another one is refused."""
        size = self.processor.image_processor.size
        if "height" not in size or "width" not in size:
            raise CheckpointError(
                "The image processor's size is of a kind that is not served.",
                where="processor_config.json: size",
                expected="height and width",
                got=", ".join(f"{name}: {value}" for name, value in dict(size).items()),
                fix="set the size in the processor's config",
            )
        return self.only_size((size["height"], size["width"]), size_hw)

    def preprocess(self) -> Preprocess:
        """See ``Family.preprocess``; the published checkpoints do not rescale: their mean and std are in 0 … 255."""
        return self.stated_preprocess()

    def warnings(self, post: Postprocess) -> tuple[str, ...]:
        """See ``Family.warnings``; suppression is the default of transformers' post-processing of this family alone."""
        if post.nms_iou is not None:
            return super().warnings(post)
        return (
            *super().warnings(post),
            "transformers' post-processing of OmDet-Turbo drops a box that overlaps a better one of its class (IoU "
            "over 0.5) and clips boxes to the image; this bundle does neither. Exporting with an NMS IoU of 0.5 does "
            "the first.",
        )

    def prompt_specs(self) -> tuple[TensorSpec, ...]:
        """See ``Family.prompt_specs``."""
        config = self.model.config
        width, task = config.text_projection_out_dim, config.class_embed_dim
        return (
            TensorSpec(name="class_features", dtype="float32", shape=(1, "P", width), source="phrase"),
            TensorSpec(name="task_features", dtype="float32", shape=(1, "L", task), source="shared"),
            TensorSpec(name="task_mask", dtype="float32", shape=(1, "L"), source="shared"),
        )

    def phrase_length(self, text: str) -> tuple[int, int]:
        """See ``Family.phrase_length``."""
        limit = min(self.processor.text_kwargs["max_length"], self.model.config.text_config.max_position_embeddings)
        return len(self.phrase_tokens(text)), limit

    def encode(self, texts: Sequence[str], task: str | None = None) -> EncodedPhrases:
        """See ``Family.encode``: phrase vectors ``[P, D]``, task tokens ``[L, D]`` and their mask ``[L]``.

        Without ``task`` the sentence is transformers' own, "Detect a, b, c.", and depends on all phrases;
        where it is longer than the text context it is cut, as transformers cuts it.

        Raises:
            PromptError: ``task`` is longer than the text context.
        """
        # Not through get_language_embedding: its cache would keep features of weights that have moved on.
        backbone = self.model.language_backbone
        classes, sentence = self._tokenize(texts), self._tokenize([self._sentence(texts, task)])
        features = backbone(classes["input_ids"], encode_type="class")
        tokens, mask = backbone(sentence["input_ids"], mask=sentence["attention_mask"], encode_type="task")
        return EncodedPhrases(
            {"class_features": features, "task_features": tokens[:, 0], "task_mask": mask[0].to(features.dtype)}
        )

    def _tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Ids and mask ``[n, longest]``; the text model is causal, so padding changes nothing before it."""
        _, limit = self.phrase_length("")
        tokens = self.processor.tokenizer(
            list(texts), padding="longest", truncation=True, max_length=limit, return_tensors="pt"
        )
        return {name: tokens[name].to(self.model.device) for name in ("input_ids", "attention_mask")}

    def _sentence(self, texts: Sequence[str], task: str | None) -> str:
        if task is None:
            return f"Detect {', '.join(texts)}."
        self.check_length("The task sentence", task, "shorten 'task:' in the prompts file")
        return task

    def task_of(self, texts: Sequence[str], task: str | None) -> str | None:
        """See ``Family.task_of``; None where transformers' own sentence is longer than the context, and cut."""
        sentence = self._sentence(texts, task)
        length, limit = self.phrase_length(sentence)
        return sentence if length <= limit else None

    def reference(self, image_rgb: NDArray[np.uint8], texts: Sequence[str], task: str | None = None) -> RawOutputs:
        """See ``Family.reference``; transformers' language cache is empty before and after."""
        inputs = self.processor(images=Image.fromarray(image_rgb), text=list(texts), task=task, return_tensors="pt").to(
            self.model.device
        )
        self._forget()
        try:
            with torch.no_grad():
                outputs = self.model(**inputs)
        finally:
            self._forget()
        return RawOutputs(outputs.decoder_class_logits, outputs.decoder_coord_logits)

    def _forget(self) -> None:
        """Empty the language caches: cached task features depend on what was encoded beside them."""
        capacity = self.model.config.cache_size
        self.model.language_cache_class = hf.OmDetTurboLRUCache(capacity)
        self.model.language_cache_prompt = hf.OmDetTurboLRUCache(capacity)
