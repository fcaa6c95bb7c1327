"""transformers' Swin backbone for images of any size: its submodules, without branches on sizes.

transformers pads where a side is no multiple of the patch, of two cells or of the window, and asks so in Python: a
trace would keep the answer of one image. Here padding is always there, and may be of no cells.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.models.resnet.modeling_resnet import ResNetBackbone
from transformers.models.swin.modeling_swin import SwinBackbone

from medprompt.export.families.any_size import rounded_up, split_axis

RESNET_STEM = (4, 4)
"""Pixels of a cell of its first stage: a convolution and a pooling of stride 2."""


def backbone_maps(backbone: Any, pixel_values: Tensor) -> list[Tensor]:
    """A backbone's maps ``[B, C, h, w]`` of pixels ``[B, 3, H, W]``; of any size where ``any_size_of`` says so."""
    if _is_swin(backbone):
        return swin_feature_maps(backbone, pixel_values)
    return list(backbone(pixel_values).feature_maps)


def any_size_of(backbone: Any) -> bool:
    """Whether ``backbone_maps`` is one graph for images of any size: a ResNet's is as it is, a Swin's is made here."""
    return _is_swin(backbone) or isinstance(backbone, ResNetBackbone)


def least_pixels(backbone: Any, levels: int, cells: int) -> int:
    """Pixels of an image whose ``levels`` feature maps have so many cells for certain.

    Both backbones halve a side from stage to stage, rounding up, as the convolutions do that make the coarser maps.
    """
    stages = [max(0, backbone.stage_names.index(name) - 1) for name in backbone.out_features]
    stages += range(stages[-1] + 1, stages[-1] + 1 + levels - len(stages))
    sides = backbone.swin.embeddings.patch_embeddings.patch_size if _is_swin(backbone) else RESNET_STEM
    patch = math.prod(int(side) for side in sides)
    cells_a_pixel: float = sum(0.25**stage / patch for stage in stages)
    return math.ceil(cells / cells_a_pixel)


def _is_swin(backbone: Any) -> bool:
    return isinstance(backbone, SwinBackbone) and backbone.swin.embeddings.position_embeddings is None


def swin_feature_maps(backbone: Any, pixel_values: Tensor) -> list[Tensor]:
    """The maps ``[B, C, h, w]`` of ``SwinBackbone``'s ``out_features``, of pixels float ``[B, 3, H, W]``."""
    cells = _embedded(backbone.swin.embeddings, pixel_values)
    maps = {"stem": cells}
    for name, stage in zip(backbone.stage_names[1:], backbone.swin.encoder.layers, strict=True):
        for layer in stage.blocks:
            cells = _layer(layer, cells)
        maps[name] = cells
        if stage.downsample is not None:
            cells = _merged(stage.downsample, cells)
    # In order of channels, as transformers has them: of maps in order of cells PyTorch's GroupNorm takes the variance
    # as a difference of two sums, which leaves three digits where a channel hardly varies.
    return [
        backbone.hidden_states_norms[name](maps[name]).permute(0, 3, 1, 2).contiguous()
        for name in backbone.stage_names
        if name in backbone.out_features
    ]


def _embedded(embeddings: Any, pixel_values: Tensor) -> Tensor:
    """Patches ``[B, h, w, C]`` of pixels."""
    patches = embeddings.patch_embeddings
    height, width = pixel_values.shape[2:]
    tall, wide = (rounded_up(side, unit) for side, unit in zip((height, width), patches.patch_size, strict=True))
    padded = functional.pad(pixel_values, (0, wide - width, 0, tall - height))
    cells: Tensor = embeddings.dropout(embeddings.norm(patches.projection(padded).permute(0, 2, 3, 1)))
    return cells


def _padded(cells: Tensor, unit: int) -> Tensor:
    """Cells ``[B, h, w, C]`` with zeros at the bottom and right, up to multiples of ``unit``."""
    height, width = cells.shape[1:3]
    below, beside = rounded_up(height, unit) - height, rounded_up(width, unit) - width
    return functional.pad(cells, (0, 0, 0, beside, 0, below))


def _windows(cells: Tensor, size: int) -> Tensor:
    """Cells ``[B, h, w, C]``, sides multiples of ``size``, as windows ``[B, n, size², C]``."""
    batch, height, width, channels = cells.shape
    rows, columns = height // size, width // size
    cut = cells.reshape(batch, rows, size, columns, size, channels).transpose(2, 3)
    return cut.reshape(batch, rows * columns, size * size, channels)


def _cells(windows: Tensor, size: int, height: int, width: int) -> Tensor:
    """The other way round: ``[B, n, size², C]`` to ``[B, height, width, C]``."""
    batch, _, _, channels = windows.shape
    cut = windows.reshape(batch, height // size, width // size, size, size, channels).transpose(2, 3)
    return cut.reshape(batch, height, width, channels)


def _merged(merging: Any, cells: Tensor) -> Tensor:
    """Each two by two cells as one of twice the channels."""
    even = _padded(cells, 2)
    batch, height, width, channels = even.shape
    four = even.reshape(batch, height // 2, 2, width // 2, 2, channels)
    # Column by column, as transformers orders the four.
    four = four.permute(0, 1, 3, 4, 2, 5).flatten(3)
    merged: Tensor = merging.reduction(merging.norm(four))
    return merged


def _layer(layer: Any, cells: Tensor) -> Tensor:
    """One layer: cells ``[B, h, w, C]`` look at those of their own window."""
    size, shift = layer.window_size, layer.shift_size
    height, width = cells.shape[1:3]
    padded = _padded(layer.layernorm_before(cells), size)
    tall, wide = padded.shape[1:3]
    if shift:
        padded = torch.roll(padded, (-shift, -shift), (1, 2))
    mask = _shift_mask(tall, wide, size, shift, cells.device) if shift else None
    attended = _cells(_attended(layer.attention, _windows(padded, size), mask), size, tall, wide)
    if shift:
        attended = torch.roll(attended, (shift, shift), (1, 2))
    cells = cells + layer.drop_path(layer.dropout(attended[:, :height, :width]))
    hidden: Tensor = cells + layer.dropout(layer.mlp(layer.layernorm_after(cells)))
    return hidden


def _attended(attn: Any, windows: Tensor, mask: Tensor | None) -> Tensor:
    """Attention within windows ``[B, n, s, C]``, under a mask ``[n, 1, s, s]``."""
    query, key, value = (
        split_axis(project(windows), 3, (attn.num_attention_heads, attn.head_dim)).transpose(2, 3)
        for project in (attn.q_proj, attn.k_proj, attn.v_proj)
    )
    bias = attn.relative_position_bias()
    scores = query @ key.transpose(3, 4) * attn.scaling + (bias if mask is None else bias + mask)
    weights = functional.dropout(scores.softmax(dim=4), p=attn.attention_dropout, training=attn.training)
    attended: Tensor = attn.o_proj((weights @ value).transpose(2, 3).flatten(3))
    return attended


def _shift_mask(tall: int, wide: int, size: int, shift: int, device: torch.device) -> Tensor:
    """What keeps cells apart that only the shift made neighbours, ``[n, 1, s, s]`` in 0 and -100."""
    rows, columns = (_bands(side, size, shift, device) for side in (tall, wide))
    regions = _windows((3 * rows[:, None] + columns)[None, :, :, None], size)[0, :, :, 0]
    apart = regions[:, None, :, None] != regions[:, None, None, :]
    return torch.where(apart, -100.0, 0.0)


def _bands(side: int, size: int, shift: int, device: torch.device) -> Tensor:
    """Which of the three bands that a shift makes of an axis each of its cells is in."""
    index = torch.arange(side, device=device)
    return (index >= side - size).long() + (index >= side - shift).long()
