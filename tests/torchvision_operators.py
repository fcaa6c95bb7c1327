"""A pytest plugin (``-p tests.torchvision_operators``) for a torchvision whose compiled operators do not load.

PyPI's wheels are built for CUDA and miss its libraries beside a CPU build of torch; importing them then fails where
their Python code describes operators that nobody defined. No image processor uses one, so their names are enough.
"""

from __future__ import annotations

import torch

NMS = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
OPERATORS = torch.library.Library("torchvision", "FRAGMENT")

for name in ("nms", "qnms"):
    OPERATORS.define(name + NMS)
