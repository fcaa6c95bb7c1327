"""The layers of Grounding DINO for an image without padding: Hugging Face's submodules, without masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from medprompt.export.families.any_size import split_axis
from medprompt.export.families.base import OUTSIDE


@dataclass(frozen=True)
class Levels:
    """The feature maps, flattened level by level to N cells.

    Attributes:
        shapes: Height and width of each level.
        centres: float ``[1, N, 2]``, cell centres (x, y) in 0 … 1.
        position: float ``[1, N, d]``, position and level embedding of each cell.
    """

    shapes: tuple[tuple[int, int], ...]
    centres: Tensor
    position: Tensor

    @property
    def sizes(self) -> list[int]:
        """Cells of each level."""
        return [height * width for height, width in self.shapes]

    def split(self, cells: Tensor) -> Sequence[Tensor]:
        """The levels of ``[B, N, d]``, ``[B, h · w, d]`` each."""
        parts: Sequence[Tensor] = cells.split(self.sizes, dim=1)
        return parts


def cell_centres(shapes: Sequence[tuple[int, int]], like: Tensor) -> Tensor:
    """Centres ``[1, N, 2]`` (x, y) of all cells, level by level."""
    centres = [
        every_place(*((torch.arange(side, dtype=like.dtype, device=like.device) + 0.5) / side for side in shape))
        for shape in shapes
    ]
    return torch.cat(centres)[None]


def every_place(rows: Tensor, columns: Tensor) -> Tensor:
    """All pairs (x, y) ``[h · w, 2]`` of the places ``[h]`` and ``[w]`` along the axes, row by row."""
    height, width = rows.shape[0], columns.shape[0]
    return torch.stack([columns.expand(height, -1), rows[:, None].expand(-1, width)], dim=-1).flatten(0, 1)


def anchors(levels: Levels) -> tuple[Tensor, Tensor]:
    """Each cell's proposal as logits ``[1, N, 4]``, and whether it may be used, bool ``[1, N, 1]``.

    A cell of level i proposes a square of 0.05 · 2^i at its centre; those too near the border are not used
    (Deformable DETR, two-stage).
    """
    sides = [levels.centres.new_full((size, 2), 0.05 * 2.0**level) for level, size in enumerate(levels.sizes)]
    boxes = torch.cat([levels.centres, torch.cat(sides)[None]], dim=-1)
    usable = ((boxes > 0.01) & (boxes < 0.99)).all(-1, keepdim=True)
    return torch.log(boxes / (1 - boxes)).masked_fill(~usable, OUTSIDE), usable


def fused(layer: Any, vision: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    """Let image cells ``[B, N, d]`` and text tokens ``[B, T, d]`` attend to each other (fusion layer).

    transformers projects all N cells to queries, values and outputs of width 4 d. Here those projections
    are multiplied onto the T tokens instead, by associativity: the same result for a quarter less
    arithmetic of the whole model at 800 × 800. The global maximum and clamp before transformers' softmax
    are left out: softmax subtracts its own maximum, and a global one couples the images of a batch.
    """
    vision, text = layer.layer_norm_vision(vision), layer.layer_norm_text(text)
    attn = layer.attn
    batch, tokens, width = text.shape
    keys = _heads(attn.text_proj(text) * attn.scale, attn)
    seen = _folded(keys, attn.vision_proj.weight.unflatten(0, (attn.num_heads, attn.head_dim)))
    # The projection's bias meets every cell alike, so it becomes one number a token and head.
    offset = (keys @ attn.vision_proj.bias.unflatten(0, (attn.num_heads, attn.head_dim, 1))).flatten(1)
    scores = vision @ seen.transpose(1, 2) + offset[:, None]
    to_vision = _dropped(split_axis(scores, 2, (attn.num_heads, tokens)).softmax(dim=3), attn).flatten(2)
    to_text = _dropped(scores.transpose(1, 2).softmax(dim=2), attn)
    spoken = _heads(attn.values_text_proj(text), attn)
    said = _folded(spoken, attn.out_vision_proj.weight.t().unflatten(0, (attn.num_heads, attn.head_dim)))
    delta_vision = to_vision @ said + attn.out_vision_proj.bias
    shown = (to_text @ vision).view(batch, attn.num_heads, tokens, width)
    values = shown @ attn.values_vision_proj.weight.unflatten(0, (attn.num_heads, attn.head_dim)).transpose(1, 2)
    # Attention weights sum to 1, so the bias of the values passes through them unchanged.
    delta_text = attn.out_text_proj(values.transpose(1, 2).flatten(2) + attn.values_vision_proj.bias)
    vision = vision + layer.drop_path(layer.vision_param * delta_vision)
    return vision, text + layer.drop_path(layer.text_param * delta_text)


def _heads(states: Tensor, attn: Any) -> Tensor:
    """``[B, T, heads · k]`` to ``[B, heads, T, k]``."""
    return split_axis(states, 2, (attn.num_heads, attn.head_dim)).transpose(1, 2)


def _folded(states: Tensor, weight: Tensor) -> Tensor:
    """Per-head states ``[B, heads, T, k]`` times weights ``[heads, k, d]``: ``[B, heads · T, d]``."""
    return (states @ weight).flatten(1, 2)


def _dropped(weights: Tensor, attn: Any) -> Tensor:
    return functional.dropout(weights, p=attn.dropout, training=attn.training)


def sharpened(layer: Any, vision: Tensor, levels: Levels) -> Tensor:
    """Let image cells ``[B, N, d]`` look around themselves at every level."""
    sampled = deformed(layer.self_attn, vision + levels.position, vision, levels.centres, levels)
    vision = layer.self_attn_layer_norm(vision + _residual(sampled, layer))
    return _transformed(layer, vision)


def decoded(
    layer: Any, hidden: Tensor, position: Tensor, reference: Tensor, vision: Tensor, text: Tensor, levels: Levels
) -> Tensor:
    """One decoder layer: queries ``[B, Q, d]`` look at each other, at the text and at the image."""
    placed = hidden + position
    (seen,) = layer.self_attn(queries=placed, keys=placed, values=hidden)
    hidden = layer.self_attn_layer_norm(hidden + _residual(seen, layer))
    (seen,) = layer.encoder_attn_text(queries=hidden + position, keys=text, values=text)
    hidden = layer.encoder_attn_text_layer_norm(hidden + _residual(seen, layer))
    seen = deformed(layer.encoder_attn, hidden + position, vision, reference, levels)
    return _transformed(layer, layer.encoder_attn_layer_norm(hidden + _residual(seen, layer)))


def _transformed(layer: Any, hidden: Tensor) -> Tensor:
    """The feed-forward half of a layer."""
    inner = layer.activation_fn(layer.fc1(hidden))
    inner = layer.fc2(functional.dropout(inner, p=layer.activation_dropout, training=layer.training))
    normed: Tensor = layer.final_layer_norm(hidden + _residual(inner, layer))
    return normed


def _residual(states: Tensor, layer: Any) -> Tensor:
    return functional.dropout(states, p=layer.dropout, training=layer.training)


def deformed(attn: Any, queries: Tensor, vision: Tensor, reference: Tensor, levels: Levels) -> Tensor:
    """Multi-scale deformable attention (Deformable DETR), one level after the other.

    Args:
        attn: transformers' attention module; its four linear layers are used.
        queries: ``[B, Q, d]``, positions added.
        vision: ``[B, N, d]``.
        reference: Points ``[1, Q, 2]`` or boxes ``[B, Q, 4]`` in 0 … 1.
        levels: What the cells are of.
    """
    # grid_sample counts from -1 to 1.
    grids = 2 * _sampling_points(attn, queries, reference, levels) - 1
    weights = split_axis(attn.attention_weights(queries), 2, (attn.n_heads, -1)).softmax(dim=3)
    weights = weights.permute(0, 2, 3, 1).flatten(0, 1)[:, None].split(attn.n_points, dim=2)
    values = levels.split(attn.value_proj(vision))
    # Summing level by level keeps one sampled level in memory, where transformers stacks all before it sums.
    # Queries are innermost, where transformers has the points: a sixth faster in OpenVINO.
    total = queries.new_zeros(())
    for level, (height, width) in enumerate(levels.shapes):
        cells = values[level].transpose(1, 2).reshape(-1, attn.d_model // attn.n_heads, height, width)
        grid = grids[:, :, :, level].permute(0, 2, 3, 1, 4).flatten(0, 1)
        sampled = functional.grid_sample(cells, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        total = total + (sampled * weights[level]).sum(dim=2)
    summed: Tensor = attn.output_proj(total.reshape(queries.shape[0], attn.d_model, -1).transpose(1, 2))
    return summed


def _sampling_points(attn: Any, queries: Tensor, reference: Tensor, levels: Levels) -> Tensor:
    """Where each query samples, ``[B, Q, heads, levels, points, 2]`` (x, y) in 0 … 1."""
    offsets = split_axis(attn.sampling_offsets(queries), 2, (attn.n_heads, attn.n_levels, attn.n_points, 2))
    centres = reference[:, :, None, None, None, :2]
    if reference.shape[-1] == 4:
        return centres + offsets / attn.n_points * reference[:, :, None, None, None, 2:] * 0.5
    # Offsets are in cells of their level; the first cell's centre lies half a cell from the corner.
    half_cells = torch.stack([level[0, 0] for level in levels.split(levels.centres)])
    return centres + offsets * (2 * half_cells[:, None])
