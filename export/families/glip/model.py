"""GLIP as a model of transformers' kind: saved and loaded by it, answered by ``forward``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoBackbone, BertModel, PreTrainedModel

from medprompt.export.families.any_size import rounded_up
from medprompt.export.families.glip.config import GlipConfig
from medprompt.export.families.glip.tower import SCORE_LIMIT, TowerLayer

PRIOR = 0.01
"""Probability that a fresh model gives every token."""


@dataclass(frozen=True)
class DenseOutputs:
    """Answers of every cell, level by level, finest first.

    Attributes:
        token_logits: ``[B, N, T]``.
        regression: ``[B, N, 4]``: moves and scales of the cells' anchors, see ``anchors.decoded_boxes``.
        centerness: ``[B, N]`` logits.
        sizes: Height and width in cells of each level.
    """

    token_logits: Tensor
    regression: Tensor
    centerness: Tensor
    sizes: tuple[tuple[int, int], ...]


class Neck(nn.Module):
    """A feature pyramid (arXiv 1612.03144) of the backbone's maps and two coarser levels made from its last output."""

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(count, width, 1) for count in channels)
        self.output = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in channels)
        self.extra = nn.ModuleList(nn.Conv2d(width, width, 3, stride=2, padding=1) for _ in range(2))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps ``[B, C, h, w]`` to levels ``[B, c, h, w]``, finest first."""
        inner = [lateral(source) for lateral, source in zip(self.lateral, maps, strict=True)]
        for index in reversed(range(len(inner) - 1)):
            finer = inner[index]
            inner[index] = finer + functional.interpolate(inner[index + 1], size=finer.shape[-2:], mode="nearest")
        levels = [output(merged) for output, merged in zip(self.output, inner, strict=True)]
        first = self.extra[0](levels[-1])
        return [*levels, first, self.extra[1](functional.relu(first))]


class Head(nn.Module):
    """What each cell says: a logit a token, a box, and how central it is."""

    def __init__(self, width: int, text_width: int, levels: int) -> None:
        super().__init__()
        self.text_proj = nn.Linear(text_width, width)
        self.text_bias = nn.Parameter(torch.zeros(text_width))
        self.bias = nn.Parameter(torch.full((1,), -math.log((1 - PRIOR) / PRIOR)))
        self.log_scale = nn.Parameter(torch.zeros(1))
        self.box, self.centerness = nn.Conv2d(width, 4, 1), nn.Conv2d(width, 1, 1)
        self.box_scales = nn.ParameterList(torch.ones(1) for _ in range(levels))

    def tokens(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors ``[B, T, c]`` and biases ``[B, T]`` of tokens ``[B, T, d]``: all of the text that cells meet."""
        normed = functional.normalize(text, dim=-1)
        return self.text_proj(normed / 2), normed @ self.text_bias + self.bias

    def forward(self, levels: Sequence[Tensor], vectors: Tensor, biases: Tensor) -> DenseOutputs:
        """Answer ``tokens`` on levels ``[B, c, h, w]``."""
        cells = torch.cat([_cells(level) for level in levels], dim=1)
        logits = cells @ vectors.transpose(1, 2) / self.log_scale.exp() + biases[:, None]
        boxes = [_cells(self.box(level) * scale) for level, scale in zip(levels, self.box_scales, strict=True)]
        return DenseOutputs(
            logits.clamp(-SCORE_LIMIT, SCORE_LIMIT),
            torch.cat(boxes, dim=1),
            torch.cat([_cells(self.centerness(level))[..., 0] for level in levels], dim=1),
            tuple((level.shape[-2], level.shape[-1]) for level in levels),
        )


class GlipForObjectDetection(PreTrainedModel):
    """Backbone, pyramid, text encoder, tower and head."""

    config_class = GlipConfig
    base_model_prefix = "glip"
    main_input_name = "pixel_values"
    input_modalities = ("image", "text")

    def __init__(self, config: GlipConfig) -> None:
        super().__init__(config)
        self.backbone = AutoBackbone.from_config(config.backbone_config)
        if hasattr(self.backbone, "swin"):
            self.backbone.swin.layernorm = nn.Identity()  # of an output that nobody reads, and no GLIP file holds it
        self.neck = Neck(self.backbone.channels, config.width)
        self.text_model = BertModel(config.text_config, add_pooling_layer=False)
        self.tower = nn.ModuleList(TowerLayer(config) for _ in range(config.tower_layers))
        self.head = Head(config.width, config.text_config.hidden_size, len(self.backbone.channels) + 2)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: Any) -> None:
        """GLIP's own start; what is not of it starts as transformers start it."""
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)

    def padded(self, pixel_values: Tensor) -> Tensor:
        """Pixels ``[B, 3, H, W]`` with zeros at the bottom and right, up to multiples of ``size_divisor``."""
        height, width = pixel_values.shape[-2:]
        below, beside = (rounded_up(side, self.config.size_divisor) - side for side in (height, width))
        return functional.pad(pixel_values, (0, beside, 0, below))

    def answer(self, levels: Sequence[Tensor], text: Tensor) -> DenseOutputs:
        """Answer tokens ``[B, T, d]`` of the text encoder on the neck's levels."""
        for layer in self.tower:
            levels, text = layer(levels, text)
        answered: DenseOutputs = self.head(levels, *self.head.tokens(text))
        return answered

    def forward(self, pixel_values: Tensor, input_ids: Tensor) -> DenseOutputs:
        """Answer one caption ``[1, T]``, without padding, on normalised pixels ``[B, 3, H, W]``."""
        text = self.text_model(input_ids).last_hidden_state.expand(len(pixel_values), -1, -1)
        return self.answer(self.neck(self.backbone(self.padded(pixel_values)).feature_maps), text)


def _cells(level: Tensor) -> Tensor:
    """``[B, c, h, w]`` to ``[B, h · w, c]``."""
    return level.flatten(2).transpose(1, 2)
