"""Modulated deformable convolution 3 × 3 as one bilinear sampling and one matrix product.

ONNX has an operator for it since opset 19, but OpenVINO's front end and TensorRT-RTX read none; all of them read
GridSample.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from medprompt.export.families.any_size import split_axis

TAPS = 9


def deformable_conv(features: Tensor, conv: nn.Conv2d, offsets: Tensor, mask: Tensor, stride: int) -> Tensor:
    """Convolve ``[B, C, H, W]`` at moved taps, padded by 1, to ``[B, O, h, w]``.

    ``offsets`` ``[B, 18, h, w]`` are (dy, dx) of each tap in input pixels, taps row by row; ``mask`` ``[B, 9, h, w]``
    weighs the taps.
    """
    height, width = mask.shape[-2:]
    grid = _sampling_grid(offsets, (features.shape[-2], features.shape[-1]), stride)
    sampled = functional.grid_sample(
        features.to(grid.dtype), grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    taps = split_axis(sampled, 2, (TAPS, height)) * mask[:, None]
    product = conv.weight.flatten(1) @ taps.flatten(1, 2).flatten(2)
    convolved = product if conv.bias is None else product + conv.bias[:, None]
    return split_axis(convolved, 2, (height, width))


def _sampling_grid(offsets: Tensor, source_hw: tuple[int, int], stride: int) -> Tensor:
    """``[B, 9 · h, w, 2]``: where each tap reads (x, y), as GridSample counts: -1 … 1 from edge to edge."""
    height, width = offsets.shape[-2:]
    tap = torch.arange(TAPS, device=offsets.device)
    rows = torch.arange(height, device=offsets.device) * stride - 1
    columns = torch.arange(width, device=offsets.device) * stride - 1
    moved = split_axis(offsets.float(), 1, (TAPS, 2))  # half precision does not hold a place to a part of a pixel
    y = moved[:, :, 0] + (rows[None, :] + tap[:, None] // 3)[:, :, None].to(moved.dtype)
    x = moved[:, :, 1] + (columns[None, :] + tap[:, None] % 3)[:, None, :].to(moved.dtype)
    grid = torch.stack([(2 * x + 1) / source_hw[1] - 1, (2 * y + 1) / source_hw[0] - 1], dim=-1)
    return grid.flatten(1, 2)


def reread(values: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Read the first values of ``[B, C, H, W]``, flat, as if they were ``[B, C, h, w]`` of a smaller map.

    GLIP's kernel (and mmcv's) does so where offsets of a finer map meet a coarser one; every published weight was
    trained with it, so neither resizing nor cutting gives the model's answers.
    """
    channels, (height, width) = values.shape[1], size_hw
    return split_axis(values.flatten(1)[:, : channels * height * width], 1, (channels, height, width))
