"""Grounding DINO in the graph: image and text fuse in the encoder; a phrase's logit is the best over its tokens.

Or that of their mean score, where the project that trained the model has it so.

Backbone, encoder, proposal selection, decoder, heads, as a lean forward around Hugging Face's
own submodules. It leaves out what an image and a caption without padding make constant: pixel masks, valid ratios,
text masks. Products that Hugging Face makes for every image cell are made for the few text
tokens instead, where the result is the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.models.grounding_dino import modeling_grounding_dino as hf

from medprompt.core.errors import InputError
from medprompt.export.families.any_size import split_axis
from medprompt.export.families.base import Core, RawOutputs
from medprompt.export.families.grounding_layers import (
    Levels,
    anchors,
    cell_centres,
    decoded,
    every_place,
    fused,
    sharpened,
)
from medprompt.export.families.swin import backbone_maps


@dataclass(frozen=True)
class Proposals:
    """The encoder's best cells: boxes as logits ``[B, Q, 4]`` (cxcywh) and token logits ``[B, Q, T]``."""

    box_logits: Tensor
    token_logits: Tensor


class GroundingDinoCore(Core):
    """Image side, fusion and decoder of Grounding DINO."""

    def image_features(self, pixel_values: Tensor) -> dict[str, Tensor]:
        """See ``Core.image_features``: ``level0`` … ``[B, d, h, w]``, finest first."""
        return {f"level{index}": level for index, level in enumerate(self._feature_maps(pixel_values))}

    def detect(self, features: Mapping[str, Tensor], prompts: Mapping[str, Tensor]) -> RawOutputs:
        """See ``Core.detect`` and ``GroundingDino.prompt_specs``."""
        vision, text, levels = self._encode(features, prompts)
        proposals = self._proposals(vision, text, levels)
        *_, (index, hidden, reference) = self._decode(vision, text, levels, proposals)
        return self._output(index, hidden, reference, text, prompts["phrase_tokens"])

    def training_outputs(self, features: Mapping[str, Tensor], prompts: Mapping[str, Tensor]) -> list[RawOutputs]:
        """See ``Core.training_outputs``: the output of every cell, then every decoder layer's.

        Cells that are not chosen learn too: a choice by scores that mean nothing yet would teach the same few.
        """
        vision, text, levels = self._encode(features, prompts)
        proposals = self._proposals(vision, text, levels)
        tokens = prompts["phrase_tokens"]
        first = self._every_cell(vision, text, levels, tokens)
        steps = self._decode(vision, text, levels, proposals)
        return [first, *(self._output(index, hidden, point, text, tokens) for index, hidden, point in steps)]

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
        sources = backbone_maps(inner.backbone.conv_encoder.model, pixel_values)
        maps = [project(source) for project, source in zip(inner.input_proj_vision, sources, strict=False)]
        source = sources[-1]
        for project in inner.input_proj_vision[len(sources) :]:
            source = project(source)
            maps.append(source)
        return maps

    def _levels(self, maps: Sequence[Tensor]) -> Levels:
        inner = self.model.model
        shapes = tuple((feature_map.shape[-2], feature_map.shape[-1]) for feature_map in maps)
        positions = [self._positions(level) + place for level, place in zip(maps, inner.level_embed, strict=True)]
        return Levels(shapes, cell_centres(shapes, maps[0]), torch.cat(positions, dim=1))

    def _positions(self, feature_map: Tensor) -> Tensor:
        """Position embedding ``[1, h · w, d]`` of a map's cells."""
        embedding = self.model.model.backbone.position_embedding
        if self.model.config.position_embedding_type != "sine":
            learned: Tensor = embedding(feature_map[:1]).flatten(2).transpose(1, 2)
            return learned
        # Every cell counts, as of an image without padding: 1 … h, with transformers' epsilon.
        axes = (torch.arange(1, side + 1, dtype=torch.float32) / (side + 1e-6) for side in feature_map.shape[2:])
        places = every_place(*(axis.to(feature_map) for axis in axes))[None]
        sines: Tensor = hf.encode_sinusoidal_position_embedding(places, embedding.embedding_dim, embedding.temperature)
        return sines

    def _proposals(self, vision: Tensor, text: Tensor, levels: Levels) -> Proposals:
        """Keep the cells with the best logit over all tokens of the caption, [CLS], [SEP] and "." included.

        transformers takes the maximum over all of them, so this does too.
        """
        inner = self.model.model
        boxes, usable = anchors(levels)
        # Zeroed and not removed, as in transformers: the choice below may still take such a cell.
        cells = inner.enc_output_norm(inner.enc_output(vision.masked_fill(~usable, 0.0)))
        logits = self.token_logits(inner.encoder_output_class_embed, cells, text)
        best = torch.topk(logits.amax(dim=2), self._queries(levels), dim=1).indices[..., None]
        # transformers runs the box head on every cell and gathers afterwards: the same numbers for more work.
        delta = inner.encoder_output_bbox_embed(torch.gather(cells, 1, best.expand(-1, -1, cells.shape[2])))
        chosen = torch.gather(boxes.expand(cells.shape[0], -1, -1), 1, best.expand(-1, -1, 4))
        return Proposals(delta + chosen, torch.gather(logits, 1, best.expand(-1, -1, logits.shape[2])))

    def _every_cell(self, vision: Tensor, text: Tensor, levels: Levels, phrase_tokens: Tensor) -> RawOutputs:
        """Outputs of the encoder only, of the cells that may be used."""
        inner = self.model.model
        boxes, usable = anchors(levels)
        kept = usable[0, :, 0]
        cells = inner.enc_output_norm(inner.enc_output(vision[:, kept]))
        logits = self.token_logits(inner.encoder_output_class_embed, cells, text)
        boxes_cxcywh = (inner.encoder_output_bbox_embed(cells) + boxes[:, kept]).sigmoid()
        return RawOutputs(self._pooled(logits, phrase_tokens), boxes_cxcywh, levels.centres[0, kept])

    def _queries(self, levels: Levels) -> int:
        queries, cells = int(self.model.config.num_queries), sum(levels.sizes)
        if isinstance(cells, int) and cells < queries:
            raise InputError(
                "The image size is too small for the model's number of queries.",
                expected=f"at least {queries} feature cells",
                got=f"{cells} cells",
                fix="choose a larger image_size=",
            )
        return queries

    def _decode(
        self, vision: Tensor, text: Tensor, levels: Levels, proposals: Proposals
    ) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yield each layer's index, its normalised queries ``[B, Q, d]`` and the boxes it started from."""
        inner = self.model.model
        decoder = inner.decoder
        # Detached as in transformers: the decoder's loss does not reach the proposals' boxes.
        reference = proposals.box_logits.detach().sigmoid()
        hidden = inner.query_position_embeddings.weight[None].expand(vision.shape[0], -1, -1)
        for index, layer in enumerate(decoder.layers):
            sine = hf.encode_sinusoidal_position_embedding(reference, num_pos_feats=hidden.shape[2] // 2)
            hidden = decoded(layer, hidden, decoder.reference_points_head(sine), reference, vision, text, levels)
            yield index, decoder.layer_norm(hidden), reference
            reference = _moved(reference, decoder.bbox_embed[index](hidden)).detach()

    def _output(self, index: int, hidden: Tensor, reference: Tensor, text: Tensor, phrase_tokens: Tensor) -> RawOutputs:
        logits = self.token_logits(self.model.class_embed[index], hidden, text)
        boxes = _moved(reference, self.model.bbox_embed[index](hidden))
        return RawOutputs(self._pooled(logits, phrase_tokens), boxes)

    def _pooled(self, token_logits: Tensor, phrase_tokens: Tensor) -> Tensor:
        """Logits ``[B, Q, P]`` of phrases by the model's token rule, given ``[B, Q, T]`` and ``[P, L]``."""
        pool = mean_logits if self.token_rule == "mean" else phrase_logits
        return pool(token_logits, phrase_tokens)


def phrase_logits(token_logits: Tensor, phrase_tokens: Tensor) -> Tensor:
    """Best logit ``[B, Q, P]`` over each phrase's own tokens ``[P, L]``, given ``[B, Q, T]``."""
    picked = token_logits.index_select(2, phrase_tokens.flatten())
    return split_axis(picked, 2, phrase_tokens.shape).amax(dim=3)


def mean_logits(token_logits: Tensor, phrase_tokens: Tensor) -> Tensor:
    """Logit ``[B, Q, P]`` of the mean score over each phrase's own tokens ``[P, L]``, given ``[B, Q, T]``.

    A short row of ``phrase_tokens`` repeats its first token; those count as one.
    """
    first = (phrase_tokens == phrase_tokens[:, :1]).to(token_logits.dtype)
    weights = 1 - first + first / first.sum(dim=1, keepdim=True)
    weights = weights / weights.sum(dim=1, keepdim=True)
    picked = split_axis(token_logits.index_select(2, phrase_tokens.flatten()), 2, phrase_tokens.shape)
    # Of the means of score and of its complement: the logit of a score near 1 would lose its digits.
    yes, no = ((sign.sigmoid() * weights).sum(dim=3) for sign in (picked, -picked))
    return yes.log() - no.log()


def _moved(reference: Tensor, delta: Tensor) -> Tensor:
    """Boxes (cxcywh in 0 … 1) moved by ``delta`` in logit space."""
    # The eps of transformers: a box on the border would have an infinite logit.
    return (delta + torch.special.logit(reference, eps=1e-5)).sigmoid()
