"""One anchor a cell, and boxes from what the cells say of it; pixels are counted inclusively, as GLIP does."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

FINEST_STRIDE = 8
CENTRE_WEIGHT, SIZE_WEIGHT = 10.0, 5.0
LARGEST_SCALE = math.log(62.5)


def cell_anchors(sizes: Sequence[tuple[int, int]], scale: int, like: Tensor) -> Tensor:
    """Centres and sides ``[N, 3]`` (x, y, side) in pixels of every cell's square anchor, level by level."""
    levels = []
    for index, (height, width) in enumerate(sizes):
        stride = FINEST_STRIDE * 2**index
        y, x = (
            torch.arange(n, device=like.device, dtype=like.dtype) * stride + (stride - 1) / 2 for n in (height, width)
        )
        side = torch.full((height, width), float(scale * stride), device=like.device, dtype=like.dtype)
        levels.append(torch.stack([x.expand(height, width), y[:, None].expand(height, width), side], -1).flatten(0, 1))
    return torch.cat(levels)


def decoded_boxes(regression: Tensor, anchors: Tensor, limits_shrinking: bool) -> Tensor:
    """Boxes xyxy ``[…, N, 4]`` in pixels, from ``regression`` ``[…, N, 4]`` (dx, dy, dw, dh)."""
    least = -LARGEST_SCALE if limits_shrinking else None
    centres, sides = anchors[:, :2], anchors[:, 2:]
    centre = centres + sides * regression[..., :2] / CENTRE_WEIGHT
    size = sides * (regression[..., 2:] / SIZE_WEIGHT).clamp(least, LARGEST_SCALE).exp()
    reach = (size - 1) / 2
    return torch.cat([centre - reach, centre + reach], dim=-1)


def clipped_shares(boxes: Tensor, image_hw: Tensor) -> Tensor:
    """Boxes ``[B, N, 4]`` (xyxy, pixels) clipped to the last pixel of images ``[B, 2]``, cxcywh as shares of them."""
    extent = image_hw.flip(1)[:, None]
    least, most = boxes[..., :2], boxes[..., 2:]
    corners = [torch.minimum(corner.clamp(min=0), extent - 1) / extent for corner in (least, most)]
    return torch.cat([(corners[0] + corners[1]) / 2, corners[1] - corners[0]], dim=-1)
