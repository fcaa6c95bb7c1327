"""Small image backbones that know pictures already: what a start checkpoint sees with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from medprompt.export.finetune.small_models import nano_lcnet, nano_resnet

BackboneName = Literal["resnet", "pp-lcnet"]


@dataclass(frozen=True)
class StartBackbone:
    """A trained image backbone.

    Attributes:
        channels: Of its two maps, of stride 8 and 16.
        mean: What RGB in 0 … 255 is reduced by.
        std: What it is divided by then.
        config: Makes transformers' config of it.
        load: Fills a model of that config from a wheel; an ``EngineError`` where that is missing or another.
    """

    channels: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    config: Callable[[], Any]
    load: Callable[[nn.Module], None]


def start_backbone(name: BackboneName) -> StartBackbone:
    """The backbone of that name."""
    if name == "pp-lcnet":
        lcnet = nano_lcnet
        return StartBackbone(lcnet.CHANNELS, lcnet.MEAN, lcnet.STD, lcnet.lcnet_config, lcnet.load_lcnet)
    resnet = nano_resnet
    return StartBackbone(resnet.CHANNELS, resnet.MEAN, (1.0, 1.0, 1.0), resnet.resnet_config, resnet.load_resnet)
