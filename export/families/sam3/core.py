"""The part of SAM 3 that stays in the graph.

The image alone decides the backbone, its pyramid and the first self-attention of the DETR encoder: computed once for
any number of phrases. The rest is computed for each (image, phrase) pair, folded into one batch axis: phrases never
meet. The queries of all phrases then compete, each with its own phrase's logit; masks are made of the chosen ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface
from transformers.models.sam3.modeling_sam3 import inverse_sigmoid

from medprompt.core.manifest import TensorSpec
from medprompt.export.families.base import OUTSIDE, Core, RawOutputs
from medprompt.export.families.sam3.loss import PhraseOutputs, phrase_loss
from medprompt.prompts.assemble import MASKED

SLICED = "medprompt-sliced"
SLICE = 2**21
"""Scores of one head that are in memory at once. Of 5,184 patches each to each they are 27 million, 107 MB a head."""


class Sam3Core(Core):
    """Image side, phrase encoder, decoder and mask head of SAM 3."""

    phrases_meet = False
    boxes_follow_phrases = True

    def image_features(self, pixel_values: Tensor) -> dict[str, Tensor]:
        """See ``Core.image_features``.

        ``level0`` … ``[B, d, h, w]`` are the maps of the pyramid, finest first, without the last that nothing reads;
        ``patches`` ``[B, N, d]`` those of the coarsest after the encoder's first self-attention.
        """
        with _sliced(self.model.config):
            *levels, _ = self.model.vision_encoder(pixel_values).fpn_hidden_states
            patches = levels[-1].flatten(2).transpose(1, 2)
            attended = _self_attended(self.model.detr_encoder.layers[0], patches, self._positions(levels[-1]))
        return {"patches": attended} | {f"level{index}": level for index, level in enumerate(levels)}

    def feature_specs(self) -> tuple[TensorSpec, ...]:
        """See ``Core.feature_specs``; by the config, for to compute them takes a minute at full size."""
        vision = self.model.config.vision_config
        cells, width = vision.image_size // vision.backbone_config.patch_size, vision.fpn_hidden_size
        sides = [int(cells * scale) for scale in vision.scale_factors[:-1]]
        shapes = {f"level{index}": (width, side, side) for index, side in enumerate(sides)}
        return tuple(
            TensorSpec(name=name, dtype="float32", shape=("B", *shape))
            for name, shape in {"patches": (sides[-1] ** 2, width), **shapes}.items()
        )

    def detect(self, features: Mapping[str, Tensor], prompts: Mapping[str, Tensor]) -> RawOutputs:
        """See ``Core.detect`` and ``Sam3.prompt_specs``. Queries are those of the first phrase, then of the next."""
        with _sliced(self.model.config):
            return self._detect(features, prompts)

    def _detect(self, features: Mapping[str, Tensor], prompts: Mapping[str, Tensor]) -> RawOutputs:
        batch, phrases = features["patches"].shape[0], prompts["phrase_features"].shape[1]
        text, mask = (_folded(prompts[name], batch, 0) for name in ("phrase_features", "phrase_mask"))
        bias = ((1 - mask) * MASKED)[:, None, None]
        levels = _levels(features)
        patches = self._encode(features["patches"], levels[-1], text, bias, phrases)
        hidden, boxes, presence = self._decode(patches, levels[-1], text, bias)
        logits = self.model.dot_product_scoring(hidden[None], text, mask.bool())[0, ..., 0]
        by_phrase = (batch, phrases)
        return RawOutputs(
            outputs_of_phrases(_logit_of_product(logits, presence).unflatten(0, by_phrase)),
            boxes.unflatten(0, by_phrase).flatten(1, 2),
            masks=lambda rows: self._masks(rows, hidden.unflatten(0, by_phrase), patches, levels, text, bias),
        )

    def own_loss(
        self,
        features: Mapping[str, Tensor],
        prompts: Mapping[str, Tensor],
        targets: Sequence[dict[str, Tensor]],
        annotated: Tensor,
        balance: Sequence[float],
    ) -> Tensor:
        """See ``Core.own_loss`` and ``sam3_loss``."""
        outputs = self._phrase_outputs(features, prompts)
        with torch.autocast(annotated.device.type, enabled=False):  # distances of boxes need more than eight bits
            return phrase_loss(outputs, targets, annotated, balance)

    def _phrase_outputs(self, features: Mapping[str, Tensor], prompts: Mapping[str, Tensor]) -> PhraseOutputs:
        batch, phrases = features["patches"].shape[0], prompts["phrase_features"].shape[1]
        text, mask = (_folded(prompts[name], batch, 0) for name in ("phrase_features", "phrase_mask"))
        bias, levels = ((1 - mask) * MASKED)[:, None, None], _levels(features)
        patches = self._encode(features["patches"], levels[-1], text, bias, phrases)
        layers = [*self.decoder_steps(patches, levels[-1], text, bias)]
        hidden, boxes, presence = (torch.stack(steps) for steps in zip(*layers, strict=True))
        decoder, pixels = self.model.mask_decoder, self._pixels(patches, levels, text, bias, phrases)
        return PhraseOutputs(
            self.model.dot_product_scoring(hidden, text, mask.bool())[..., 0].float(),
            boxes.float(),
            presence[..., 0].float(),
            decoder.mask_embedder(hidden[-1]).float(),
            decoder.instance_projection(pixels).float(),
            decoder.semantic_projection(pixels)[:, 0].float(),
        )

    def _positions(self, level: Tensor) -> Tensor:
        """Sinusoids ``[1, N, d]`` of a map's cells."""
        made = self.model.vision_encoder.neck.position_encoding
        # __wrapped__: without the cache, which would hand the tensors of a trace to the next caller.
        positions: Tensor = made.build_sine_position_embedding.__wrapped__(
            (1, *level.shape[1:]),
            level.device,
            level.dtype,
            made.num_position_features,
            made.normalize,
            made.scale,
            made.temperature,
        )
        return positions.flatten(2).transpose(1, 2)

    def _encode(self, patches: Tensor, level: Tensor, text: Tensor, bias: Tensor, phrases: int) -> Tensor:
        """Patches ``[B · P, N, d]`` that each phrase conditioned."""
        positions, hidden = self._positions(level), _folded(patches, phrases, 1)
        for index, layer in enumerate(self.model.detr_encoder.layers):
            hidden = _conditioned(layer, hidden if index == 0 else _self_attended(layer, hidden, positions), text, bias)
        return hidden

    def _decode(self, patches: Tensor, level: Tensor, text: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries ``[B · P, Q, d]``, their boxes (cxcywh in 0 … 1) and the logit ``[B · P, 1]`` that any is there."""
        *_, last = self.decoder_steps(patches, level, text, bias)
        return last

    def decoder_steps(
        self, patches: Tensor, level: Tensor, text: Tensor, bias: Tensor
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """See ``_decode``: each layer's, the final one last."""
        decoder, pairs = self.model.detr_decoder, patches.shape[0]
        positions, size_hw = self._positions(level), (level.shape[2], level.shape[3])
        reference = decoder.reference_points.weight.sigmoid().expand(pairs, -1, -1)
        queries = torch.cat([decoder.presence_token.weight, decoder.query_embed.weight])
        hidden = queries.expand(pairs, -1, -1)
        for layer in decoder.layers:
            hidden = layer(
                hidden,
                query_pos=decoder.ref_point_head(decoder.position_encoding.encode_boxes(reference)),
                text_features=text,
                vision_features=patches,
                vision_pos_encoding=positions,
                text_cross_attn_mask=bias,
                # The presence token, which is first, attends to all patches alike.
                vision_cross_attn_mask=functional.pad(decoder._get_rpb_matrix(reference, size_hw), (0, 0, 1, 0)),
            )
            normed = decoder.output_layer_norm(hidden[:, 1:])
            boxes = (decoder.box_head(normed) + inverse_sigmoid(reference)).sigmoid()
            presence = decoder.presence_head(decoder.presence_layer_norm(hidden[:, :1])).squeeze(-1)
            most = decoder.clamp_presence_logit_max_val
            yield normed, boxes, presence.clamp(-most, most)
            # As in transformers: a layer's boxes teach the layer before, and no further.
            reference = boxes.detach()

    def _masks(
        self, rows: Tensor, hidden: Tensor, patches: Tensor, levels: list[Tensor], text: Tensor, bias: Tensor
    ) -> Tensor:
        """Mask logits ``[B, K, h, w]`` of chosen queries ``[B, K]``; ``hidden`` is ``[B, P, Q, d]``."""
        decoder, (batch, phrases, queries, width) = self.model.mask_decoder, hidden.shape
        chosen = torch.gather(hidden.flatten(1, 2), 1, rows[..., None].expand(-1, -1, width))
        embedded = decoder.mask_embedder(chosen)
        pixels = decoder.instance_projection(self._pixels(patches, levels, text, bias, phrases))
        # Each row's embedding in its own phrase's place, zeros elsewhere: a product, where to gather pixels by row
        # would copy a map of d · h · w for each.
        own = (rows // queries)[..., None] == torch.arange(phrases, device=rows.device)
        placed = (own[..., None].to(embedded.dtype) * embedded[:, :, None]).flatten(2)
        maps = pixels.unflatten(0, (batch, phrases)).flatten(1, 2)
        return (placed @ maps.flatten(2)).unflatten(2, maps.shape[2:])

    def _pixels(self, patches: Tensor, levels: list[Tensor], text: Tensor, bias: Tensor, phrases: int) -> Tensor:
        """Pixel embeddings ``[B · P, d, h, w]`` of the finest map."""
        decoder = self.model.mask_decoder
        attended, _ = decoder.prompt_cross_attn(
            decoder.prompt_cross_attn_norm(patches), key=text, value=text, attention_mask=bias
        )
        prompted = patches + decoder.prompt_cross_attn_dropout(attended)
        pixels = prompted.transpose(1, 2).unflatten(2, levels[-1].shape[2:])
        stages = decoder.pixel_decoder
        for level, convolve, norm in zip(reversed(levels[:-1]), stages.conv_layers, stages.norms, strict=False):
            larger = functional.interpolate(pixels, size=level.shape[2:], mode="nearest")
            summed = (larger.unflatten(0, (level.shape[0], phrases)) + level[:, None]).flatten(0, 1)
            pixels = functional.relu(norm(convolve(summed)))
        return pixels


def outputs_of_phrases(logits: Tensor) -> Tensor:
    """Logits ``[B, P, Q]`` of each phrase's own queries as ``[B, P · Q, P]``: no other phrase scores them."""
    phrases = logits.shape[1]
    index = torch.arange(phrases, device=logits.device)
    own = (index[:, None] == index)[:, None]
    return torch.where(own, logits[..., None], -OUTSIDE).flatten(1, 2)


def _logit_of_product(first: Tensor, second: Tensor) -> Tensor:
    """The logit of σ(first) · σ(second): -log(e^-a + e^-b + e^-(a+b)), by its greatest term, so that none overflows."""
    terms = torch.stack([-first, (-second).expand_as(first), -(first + second)])
    most = terms.amax(dim=0)
    return -(most + (terms - most).exp().sum(dim=0).log())


def _folded(tensor: Tensor, times: int, place: int) -> Tensor:
    """Repeat ``[B, …]`` along a new axis at ``place`` and fold it in; with ``place`` 0, ``[1, P, …]`` for each image.

    Not ``repeat_interleave``: its export fails for more than one phrase.
    """
    if place == 0:
        return tensor.expand(times, *(-1 for _ in tensor.shape[1:])).flatten(0, 1)
    return tensor[:, None].expand(-1, times, *(-1 for _ in tensor.shape[1:])).flatten(0, 1)


def _levels(features: Mapping[str, Tensor]) -> list[Tensor]:
    return [features[f"level{index}"] for index in range(len(features) - 1)]


def _self_attended(layer: Any, patches: Tensor, positions: Tensor) -> Tensor:
    """The first third of transformers' ``Sam3DetrEncoderLayer``, which no phrase reaches."""
    normed = layer.layer_norm1(patches)
    placed = normed + positions
    attended, _ = layer.self_attn(query=placed, key=placed, value=normed)
    return patches + layer.dropout(attended)


def _conditioned(layer: Any, patches: Tensor, text: Tensor, bias: Tensor) -> Tensor:
    """The rest of it."""
    attended, _ = layer.cross_attn(query=layer.layer_norm2(patches), key=text, value=text, attention_mask=bias)
    patches = patches + layer.dropout(attended)
    return patches + layer.dropout(layer.mlp(layer.layer_norm3(patches)))


def _sliced_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention (``[B, heads, N, d]`` each) some queries at a time: the scores of all at once would be gigabytes.

    Plain products, for PyTorch's fused attention does not export with a batch of any size.
    """
    rows, keys = query.shape[2], key.transpose(2, 3)
    some = math.ceil(rows / math.ceil(rows * key.shape[2] / SLICE))
    parts = []
    for first in range(0, rows, some):
        scores = (query[:, :, first : first + some] * scaling) @ keys
        if attention_mask is not None:
            one = attention_mask.shape[2] == 1
            scores = scores + (attention_mask if one else attention_mask[:, :, first : first + some])
        parts.append(scores.softmax(dim=-1) @ value)
    return torch.cat(parts, dim=2).transpose(1, 2), None


def _sliced(config: Any) -> AbstractContextManager[None]:
    """Let a model attend by ``_sliced_attention``, where it learns nothing: the graph is made without gradients."""
    if torch.is_grad_enabled():
        return nullcontext()
    image = config.vision_config.backbone_config
    return attending(SLICED, image, config.detr_encoder_config, config.detr_decoder_config, config.mask_decoder_config)


@contextmanager
def attending(how: str, *parts: Any) -> Iterator[None]:
    """Let parts of a model, by their configs, attend in another of transformers' ways as long as the block lasts."""
    own = [part._attn_implementation for part in parts]
    try:
        for part in parts:
            part._attn_implementation = how
        yield
    finally:
        for part, name in zip(parts, own, strict=True):
            part._attn_implementation = name


AttentionInterface.register(SLICED, _sliced_attention)
