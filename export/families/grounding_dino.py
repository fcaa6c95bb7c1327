"""Grounding DINO: image and text fuse in the encoder; a phrase's logit is the best over its tokens.

Offline: tokens, BERT under a mask that is block-diagonal by phrase, projection, sinusoids of positions that
restart at every phrase. So a phrase's features do not depend on its neighbours, and banked phrases compose
to a caption.

In the graph: backbone, encoder, proposal selection, decoder, heads, as a lean forward around Hugging Face's
own submodules. It leaves out what a fixed image size and an unpadded caption make constant: pixel masks,
valid ratios, text padding. Products that Hugging Face makes for every image cell are made for the few text
tokens instead, where the result is the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers.image_transforms import get_size_with_aspect_ratio
from transformers.models.grounding_dino import modeling_grounding_dino as hf

from medprompt.errors import CheckpointError, InputError, PromptError
from medprompt.export.families.base import (
    TOLERANCES_UNTIL_MEASURED,
    Core,
    EncodedPhrases,
    Family,
    ImageSize,
    RawOutputs,
)
from medprompt.export.families.grounding_layers import (
    Levels,
    anchors,
    cell_centres,
    decoded,
    fused,
    sharpened,
)
from medprompt.manifest import Preprocess, TensorSpec, Tolerance
from medprompt.prompts.bank import Layout

RESAMPLE_NAMES = {Image.Resampling.BILINEAR: "bilinear", Image.Resampling.BICUBIC: "bicubic"}


@dataclass(frozen=True)
class Proposals:
    """The encoder's best cells: boxes as logits ``[B, Q, 4]`` (cxcywh) and token logits ``[B, Q, T]``."""

    box_logits: Tensor
    token_logits: Tensor


class GroundingDinoCore(Core):
    """Image side, fusion and decoder of Grounding DINO."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def image_features(self, pixel_values: Tensor) -> dict[str, Tensor]:
        """See ``Core.image_features``: ``level0`` … ``[B, d, h, w]``, finest first."""
        return {f"level{index}": level for index, level in enumerate(self._feature_maps(pixel_values))}

    def detect(self, features: Mapping[str, Tensor], prompts: Mapping[str, Tensor]) -> RawOutputs:
        """See ``Core.detect`` and ``GroundingDino.prompt_specs``."""
        vision, text, levels = self._encode(features, prompts)
        proposals = self._proposals(vision, text, levels)
        *_, (index, hidden, reference) = self._decode(vision, text, levels, proposals)
        return self._answer(index, hidden, reference, text, prompts["phrase_tokens"])

    def training_outputs(self, features: Mapping[str, Tensor], prompts: Mapping[str, Tensor]) -> list[RawOutputs]:
        """See ``Core.training_outputs``: every cell's own answer, then every decoder layer's.

        Cells that are not chosen learn too: a choice by scores that mean nothing yet would teach the same few.
        """
        vision, text, levels = self._encode(features, prompts)
        proposals = self._proposals(vision, text, levels)
        tokens = prompts["phrase_tokens"]
        first = self._every_cell(vision, text, levels, tokens)
        steps = self._decode(vision, text, levels, proposals)
        return [first, *(self._answer(index, hidden, point, text, tokens) for index, hidden, point in steps)]

    def token_logits(self, head: Any, hidden: Tensor, text: Tensor) -> Tensor:
        """Logits ``[B, Q, T]`` of queries ``[B, Q, d]`` for text tokens ``[B, T, d]``."""
        return hidden @ text.transpose(1, 2)

    def _encode(self, features: Mapping[str, Tensor], prompts: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Levels]:
        maps = [features[f"level{index}"] for index in range(len(features))]
        levels = self._levels(maps)
        vision = torch.cat([feature_map.flatten(2).transpose(1, 2) for feature_map in maps], dim=1)
        text = prompts["text_features"].expand(vision.shape[0], -1, -1)
        position, bias = prompts["text_position_embedding"], prompts["text_self_bias"][:, None]
        for layer in self.model.model.encoder.layers:
            vision, text = fused(layer.fusion_layer, vision, text)
            text, _ = layer.text_enhancer_layer(text, attention_masks=bias, position_embeddings=position)
            vision = sharpened(layer.deformable_layer, vision, levels)
        return vision, text, levels

    def _feature_maps(self, pixel_values: Tensor) -> list[Tensor]:
        """Backbone maps projected to ``[B, d, h, w]``, and the coarser ones made from the last."""
        inner = self.model.model
        sources = inner.backbone.conv_encoder.model(pixel_values).feature_maps
        maps = [project(source) for project, source in zip(inner.input_proj_vision, sources, strict=False)]
        source = sources[-1]
        for project in inner.input_proj_vision[len(sources) :]:
            source = project(source)
            maps.append(source)
        return maps

    def _levels(self, maps: Sequence[Tensor]) -> Levels:
        inner = self.model.model
        shapes = tuple((feature_map.shape[-2], feature_map.shape[-1]) for feature_map in maps)
        positions = []
        for (height, width), embedding in zip(shapes, inner.level_embed, strict=True):
            mask = torch.ones(1, height, width, dtype=torch.bool, device=maps[0].device)
            sine = inner.backbone.position_embedding(maps[0].new_zeros(1, 1, height, width), mask)
            positions.append(sine.flatten(2).transpose(1, 2) + embedding)
        return Levels(shapes, cell_centres(shapes, maps[0]), torch.cat(positions, dim=1))

    def _proposals(self, vision: Tensor, text: Tensor, levels: Levels) -> Proposals:
        """Keep the cells with the best logit over all tokens of the caption, [CLS], [SEP] and "." included.

        transformers takes the maximum over all of them, so this does too.
        """
        inner = self.model.model
        boxes, usable = anchors(levels)
        cells = inner.enc_output_norm(inner.enc_output(vision.masked_fill(~usable, 0.0)))
        logits = self.token_logits(inner.encoder_output_class_embed, cells, text)
        best = torch.topk(logits.amax(dim=2), self._queries(levels), dim=1).indices[..., None]
        # transformers runs the box head on every cell and gathers afterwards: the same numbers for more work.
        delta = inner.encoder_output_bbox_embed(torch.gather(cells, 1, best.expand(-1, -1, cells.shape[2])))
        chosen = torch.gather(boxes.expand(cells.shape[0], -1, -1), 1, best.expand(-1, -1, 4))
        return Proposals(delta + chosen, torch.gather(logits, 1, best.expand(-1, -1, logits.shape[2])))

    def _every_cell(self, vision: Tensor, text: Tensor, levels: Levels, phrase_tokens: Tensor) -> RawOutputs:
        """What the encoder alone answers, of the cells that may be used."""
        inner = self.model.model
        boxes, usable = anchors(levels)
        kept = usable[0, :, 0]
        cells = inner.enc_output_norm(inner.enc_output(vision[:, kept]))
        logits = self.token_logits(inner.encoder_output_class_embed, cells, text)
        answered = (inner.encoder_output_bbox_embed(cells) + boxes[:, kept]).sigmoid()
        return RawOutputs(phrase_logits(logits, phrase_tokens), answered, levels.centres[0, kept])

    def _queries(self, levels: Levels) -> int:
        queries, cells = int(self.model.config.num_queries), sum(levels.sizes)
        if cells < queries:
            raise InputError(
                "The image size is too small for the model's number of queries.",
                expected=f"at least {queries} feature cells",
                got=f"{cells} cells",
                fix="choose a larger --image-size",
            )
        return queries

    def _decode(
        self, vision: Tensor, text: Tensor, levels: Levels, proposals: Proposals
    ) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yield each layer's index, its normalised queries ``[B, Q, d]`` and the boxes it started from."""
        inner = self.model.model
        decoder = inner.decoder
        reference = proposals.box_logits.detach().sigmoid()
        hidden = inner.query_position_embeddings.weight[None].expand(vision.shape[0], -1, -1)
        for index, layer in enumerate(decoder.layers):
            sine = hf.encode_sinusoidal_position_embedding(reference, num_pos_feats=hidden.shape[2] // 2)
            hidden = decoded(layer, hidden, decoder.reference_points_head(sine), reference, vision, text, levels)
            yield index, decoder.layer_norm(hidden), reference
            reference = _moved(reference, decoder.bbox_embed[index](hidden)).detach()

    def _answer(self, index: int, hidden: Tensor, reference: Tensor, text: Tensor, phrase_tokens: Tensor) -> RawOutputs:
        logits = self.token_logits(self.model.class_embed[index], hidden, text)
        boxes = _moved(reference, self.model.bbox_embed[index](hidden))
        return RawOutputs(phrase_logits(logits, phrase_tokens), boxes)


def phrase_logits(token_logits: Tensor, phrase_tokens: Tensor) -> Tensor:
    """Best logit ``[B, Q, P]`` over each phrase's own tokens ``[P, L]``, given ``[B, Q, T]``."""
    picked = token_logits.index_select(2, phrase_tokens.flatten())
    return picked.unflatten(2, phrase_tokens.shape).amax(dim=3)


def _moved(reference: Tensor, delta: Tensor) -> Tensor:
    """Boxes (cxcywh in 0 … 1) moved by ``delta`` in logit space."""
    return (delta + torch.special.logit(reference, eps=1e-5)).sigmoid()


class GroundingDino(Family):
    """``GroundingDinoForObjectDetection``."""

    architecture = "GroundingDinoForObjectDetection"
    layouts: ClassVar[Mapping[str, Layout]] = {"text_features": "token", "text_position_embedding": "token"}
    tunable = ("text_features",)
    text_prefixes = ("model.text_backbone.", "model.text_projection.")
    head_prefixes = (
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
    token_rule = "max"
    core_class: ClassVar[type[GroundingDinoCore]] = GroundingDinoCore
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
        if not model.config.two_stage:
            raise CheckpointError(
                f"{self.architecture} is served in its two-stage form only.",
                where="config.json",
                expected="two_stage: true",
                got="two_stage: false",
            )
        super().__init__(model, processor, size_hw)

    def choose_size(self, size_hw: tuple[int, int] | None) -> ImageSize:
        """The processor's fixed size; else ``size_hw``, or a square of its short edge."""
        size = self.processor.image_processor.size
        if "height" in size and "width" in size:
            return self._fixed_size((size["height"], size["width"]), size_hw)
        if size_hw is not None:
            return ImageSize(size_hw)
        if "shortest_edge" not in size:
            raise CheckpointError(
                "The image processor's size is of a kind that is not served.",
                where="processor_config.json: size",
                expected="height and width, or shortest_edge and longest_edge",
                got=", ".join(f"{name}: {value}" for name, value in dict(size).items()),
                fix="set the size in the processor's config, or choose --image-size H,W",
            )
        short = size["shortest_edge"]
        return ImageSize(
            (short, short),
            f"The checkpoint's own processor keeps the aspect ratio (short edge {short}, long edge at most "
            f"{size.get('longest_edge')}); this model sees every image as {short}x{short}. "
            "Choose --image-size H,W to match your device's frames, and the two are equal.",
        )

    def _fixed_size(self, own: tuple[int, int], chosen: tuple[int, int] | None) -> ImageSize:
        if chosen is None or chosen == own:
            return ImageSize(own)
        return ImageSize(
            chosen,
            f"The checkpoint's own processor resizes to {own[0]}x{own[1]}, not to {chosen[0]}x{chosen[1]}.",
        )

    def size_for_image(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        """Height and width that the checkpoint's own processor gives a source of ``size_hw``.

        Args:
            size_hw: Height and width of the source in pixels.
        """
        size = self.processor.image_processor.size
        if "shortest_edge" not in size:
            return self.image_size.size_hw
        height, width = get_size_with_aspect_ratio(size_hw, size["shortest_edge"], size.get("longest_edge"))
        return height, width

    def preprocess(self) -> Preprocess:
        """See ``Family.preprocess``."""
        processor = self.processor.image_processor
        steps = [name for name in ("do_resize", "do_rescale", "do_normalize") if not getattr(processor, name)]
        if steps or processor.resample not in RESAMPLE_NAMES:
            raise CheckpointError(
                "The image processor does something else than resize, rescale and normalise.",
                where="processor_config.json",
                expected="do_resize, do_rescale and do_normalize on; bilinear or bicubic resampling",
                got=f"off: {', '.join(steps) or 'none'}; resample {processor.resample}",
                fix="save the processor that the model was trained with",
            )
        return Preprocess(
            size_hw=self.image_size.size_hw,
            resample=RESAMPLE_NAMES[Image.Resampling(processor.resample)],
            rescale_factor=processor.rescale_factor,
            mean=tuple(processor.image_mean),
            std=tuple(processor.image_std),
        )

    def prompt_specs(self) -> tuple[TensorSpec, ...]:
        """See ``Family.prompt_specs``."""
        width = self.model.config.d_model
        return (
            TensorSpec(name="text_features", dtype="float32", shape=(1, "T", width), source="token"),
            TensorSpec(name="text_position_embedding", dtype="float32", shape=(1, "T", width), source="token"),
            TensorSpec(name="text_self_bias", dtype="float32", shape=(1, "T", "T"), source="block_bias"),
            TensorSpec(name="phrase_tokens", dtype="int64", shape=("P", "L"), source="phrase_tokens"),
        )

    def phrase_length(self, text: str) -> tuple[int, int]:
        """See ``Family.phrase_length``; [CLS], "." and [SEP] count."""
        config = self.model.config
        most = min(config.max_text_len, config.text_config.max_position_embeddings)
        return len(self._token_ids(text)), most

    def encode(self, texts: Sequence[str], task: str | None = None) -> EncodedPhrases:
        """See ``Family.encode``: tokens ``[sum(token_counts), d]`` phrase by phrase, each with its ".".

        A bank is encoded phrase by phrase, so that a subset or merge equals a fresh embedding to the last
        bit; training encodes all phrases as one padded batch, which differs by rounding only.

        Raises:
            PromptError: A phrase that transformers would cut in two.
        """
        captions = [self._ends(), *(self._token_ids(text) for text in texts)]
        batches = [captions] if torch.is_grad_enabled() else [[ids] for ids in captions]
        rows = [row for batch in batches for row in self._token_rows(batch)]
        tensors: dict[str, Tensor] = {}
        for index, name in enumerate(self.layouts):
            ends, *phrases = (row[index] for row in rows)
            tensors[name] = torch.cat([phrase[1:-1] for phrase in phrases])
            tensors[f"{name}.before"], tensors[f"{name}.after"] = ends[:1], ends[1:]
        return EncodedPhrases(tensors, tuple(len(ids) - 2 for ids in captions[1:]), separator_tokens=1)

    def _ends(self) -> list[int]:
        """[CLS] and [SEP]. They see themselves only, so their features are the same around every caption."""
        tokenizer = self.processor.tokenizer
        return [tokenizer.cls_token_id, tokenizer.sep_token_id]

    def _token_ids(self, text: str) -> list[int]:
        """Ids of a phrase as a caption of its own: [CLS], tokens in lower case, ".", [SEP]."""
        ids: list[int] = self.processor.tokenizer(f"{_bare(text)}.")["input_ids"]
        if len(ids) < 4 or set(ids[1:-2]) & set(hf.SPECIAL_TOKENS):
            raise PromptError(
                "A phrase contains a full stop or question mark, where Grounding DINO splits phrases.",
                where=repr(text),
                expected="words; one full stop at the end is allowed",
                fix="reword the phrase, or make two phrases of it",
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

    def core(self) -> Core:
        """See ``Family.core``."""
        return self.core_class(self.model)

    def reference(self, image_rgb: NDArray[np.uint8], texts: Sequence[str], task: str | None = None) -> RawOutputs:
        """See ``Family.reference``; the processor is asked for this family's image size.

        Raises:
            PromptError: The caption is longer than ``max_text_len``; transformers would cut it.
        """
        height, width = self.image_size.size_hw
        inputs = self.processor(
            images=Image.fromarray(image_rgb),
            text=[[_bare(text) for text in texts]],
            size={"height": height, "width": width},
            return_tensors="pt",
        ).to(self.model.device)
        self._check_caption(inputs["input_ids"].shape[1])
        with torch.no_grad():
            outputs = self.model(**inputs)
        (own_tokens,) = hf.build_label_maps(outputs.logits, inputs["input_ids"])
        logits = torch.stack([outputs.logits[..., own.bool()].amax(dim=-1) for own in own_tokens], dim=-1)
        return RawOutputs(logits, outputs.pred_boxes)

    def _check_caption(self, tokens: int) -> None:
        most = self.model.config.max_text_len
        if tokens > most:
            raise PromptError(
                "All phrases together are longer than transformers reads.",
                expected=f"at most {most} tokens (max_text_len)",
                got=f"{tokens} tokens",
                fix="compare with fewer phrases; the exported model itself serves more",
            )


def _bare(text: str) -> str:
    """A phrase in lower case without its closing full stop."""
    return text.strip().lower().removesuffix(".").rstrip()
