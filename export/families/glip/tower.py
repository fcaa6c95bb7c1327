"""GLIP's tower: text and image attend to each other, then a BERT layer, then dynamic convolutions over all levels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.bert.modeling_bert import BertLayer

from medprompt.export.families.any_size import split_axis
from medprompt.export.families.glip.deform import TAPS, deformable_conv, reread

SCORE_LIMIT = 50_000.0
"""Attention scores and logits are clamped to it, which half precision can hold."""


class Fusion(nn.Module):
    """Attention between image cells and text tokens, both ways from one matrix of scores ("VLFuse")."""

    def __init__(self, width: int, text_width: int, inner: int, heads: int, layers: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_image, self.norm_text = nn.LayerNorm(width), nn.LayerNorm(text_width)
        self.image_proj, self.text_proj = nn.Linear(width, inner), nn.Linear(text_width, inner)
        self.values_image_proj, self.values_text_proj = nn.Linear(width, inner), nn.Linear(text_width, inner)
        self.out_image_proj, self.out_text_proj = nn.Linear(inner, width), nn.Linear(inner, text_width)
        self.image_scale = nn.Parameter(torch.full((width,), 1 / layers))
        self.text_scale = nn.Parameter(torch.full((text_width,), 1 / layers))

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Fuse cells ``[B, N, c]`` and tokens ``[B, T, d]``; the sums start from the normalised ones, as in GLIP."""
        image, text = self.norm_image(image), self.norm_text(text)
        queries = self._split(self.image_proj(image))
        scores = queries * queries.shape[-1] ** -0.5 @ self._split(self.text_proj(text)).transpose(2, 3)
        scores = scores.clamp(-SCORE_LIMIT, SCORE_LIMIT)
        to_image = scores.softmax(dim=3) @ self._split(self.values_text_proj(text))
        to_text = scores.transpose(2, 3).softmax(dim=3) @ self._split(self.values_image_proj(image))
        return (
            image + self.image_scale * self.out_image_proj(_joined(to_image)),
            text + self.text_scale * self.out_text_proj(_joined(to_text)),
        )

    def _split(self, values: Tensor) -> Tensor:
        return split_axis(values, 2, (self.heads, -1)).transpose(1, 2)


class TextLayer(BertLayer):
    """A BERT layer whose attention scores are clamped."""

    def forward(self, hidden: Tensor) -> Tensor:
        """Tokens ``[B, T, d]``, none of them padding."""
        attention = self.attention.self
        query, key, value = (
            split_axis(part(hidden), 2, (attention.num_attention_heads, -1)).transpose(1, 2)
            for part in (attention.query, attention.key, attention.value)
        )
        scores = (query @ key.transpose(2, 3) * query.shape[-1] ** -0.5).clamp(-SCORE_LIMIT, SCORE_LIMIT)
        attended = self.attention.output(_joined(attention.dropout(scores.softmax(dim=3)) @ value), hidden)
        output: Tensor = self.output(self.intermediate(attended), attended)
        return output


class NormedConv(nn.Module):
    """A deformable convolution and its group norm."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.GroupNorm(groups, width)

    def forward(self, features: Tensor, offsets: Tensor, mask: Tensor, stride: int = 1) -> Tensor:
        """See ``deformable_conv``."""
        normed: Tensor = self.norm(deformable_conv(features, self.conv, offsets, mask, stride))
        return normed


class DynamicReLU(nn.Module):
    """The greater of two lines, whose slopes and heights the global mean decides (arXiv 2003.10027)."""

    def __init__(self, width: int, reduction: int = 4) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, width // reduction), nn.Linear(width // reduction, 4 * width)

    def forward(self, features: Tensor) -> Tensor:
        """``[B, c, h, w]`` to the same."""
        mean = features.mean(dim=(2, 3))
        parts = hard_sigmoid(self.fc2(functional.relu(self.fc1(mean)))) - 0.5
        slope1, height1, slope2, height2 = parts[..., None, None].chunk(4, dim=1)
        return torch.maximum(features * (2 * slope1 + 1) + height1, features * (2 * slope2) + height2)


class DynamicConv(nn.Module):
    """Each level from itself and its neighbours, all at the taps that it chose itself (arXiv 2106.08322)."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.from_coarser, self.from_own, self.from_finer = (NormedConv(width, groups) for _ in range(3))
        self.offset = nn.Conv2d(width, 3 * TAPS, 3, padding=1)
        self.attention = nn.Conv2d(width, 1, 1)
        self.activation = DynamicReLU(width)

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Levels ``[B, c, h, w]``, finest first; all are read before any is replaced."""
        return [self.activation(self._mixed(self._terms(levels, index))) for index in range(len(levels))]

    def _terms(self, levels: Sequence[Tensor], index: int) -> list[Tensor]:
        own = levels[index]
        moved = self.offset(own)
        offsets, mask = moved[:, : 2 * TAPS], moved[:, 2 * TAPS :].sigmoid()
        terms = [self.from_own(own, offsets, mask)]
        if index > 0:
            terms.append(self.from_finer(levels[index - 1], offsets, mask, stride=2))
        if index < len(levels) - 1:
            coarser = levels[index + 1]
            size_hw = (coarser.shape[-2], coarser.shape[-1])
            made = self.from_coarser(coarser, reread(offsets, size_hw), reread(mask, size_hw))
            terms.append(functional.interpolate(made, size=own.shape[-2:], mode="bilinear", align_corners=True))
        return terms

    def _mixed(self, terms: Sequence[Tensor]) -> Tensor:
        weights = (hard_sigmoid(functional.relu(self.attention(term.mean(dim=(2, 3), keepdim=True)))) for term in terms)
        weighted = [term * weight for term, weight in zip(terms, weights, strict=True)]
        return torch.stack(weighted).sum(dim=0) / len(terms)


class TowerLayer(nn.Module):
    """One round of the tower; of text and image only the latter where they do not meet."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        if config.fused:
            self.fusion = Fusion(
                config.width,
                config.text_config.hidden_size,
                config.fusion_width,
                config.fusion_heads,
                config.tower_layers,
            )
            self.text_layer = TextLayer(config.text_config)
        self.convs = DynamicConv(config.width, config.norm_groups)

    def forward(self, levels: Sequence[Tensor], text: Tensor) -> tuple[list[Tensor], Tensor]:
        """Levels ``[B, c, h, w]`` and tokens ``[B, T, d]``."""
        if hasattr(self, "fusion"):
            levels, text = self._fused(levels, text)
            text = self.text_layer(text)
        return self.convs(levels), text

    def _fused(self, levels: Sequence[Tensor], text: Tensor) -> tuple[list[Tensor], Tensor]:
        cells, text = self.fusion(torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1), text)
        parts = cells.split([level.shape[-2] * level.shape[-1] for level in levels], dim=1)
        shaped = zip(parts, levels, strict=True)
        return [split_axis(part.transpose(1, 2), 2, level.shape[-2:]) for part, level in shaped], text


def hard_sigmoid(values: Tensor) -> Tensor:
    """relu6(x + 3) / 6."""
    return functional.relu6(values + 3) / 6


def _joined(values: Tensor) -> Tensor:
    return values.transpose(1, 2).flatten(2)
