"""A tiny GLIP checkpoint: three levels, one round of the tower, random weights, yet spread scores and boxes."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from transformers import BertConfig, GroundingDinoProcessor, ResNetConfig
from transformers.models.grounding_dino.image_processing_pil_grounding_dino import GroundingDinoImageProcessorPil

from medprompt.export.families.glip.config import GlipConfig
from medprompt.export.families.glip.model import GlipForObjectDetection
from tests.tiny.grounding import HARD_CODED, bert_tokenizer

WIDTH = 16
SHORT_EDGE = 64


def tiny_glip_config(*, fused: bool = True) -> GlipConfig:
    """All sizes as small as they go."""
    return GlipConfig(
        backbone_config=ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", out_features=["stage2"]
        ),
        text_config=BertConfig(
            vocab_size=max(HARD_CODED.values()) + 1,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=64,
        ),
        width=WIDTH,
        tower_layers=1,
        fused=fused,
        fusion_width=16,
        fusion_heads=2,
        norm_groups=4,
        anchor_scale=4,
        max_text_len=64,
        level_top_k=40,
    )


@torch.no_grad()
def spread(model: GlipForObjectDetection) -> None:
    """Give random weights answers that differ: GLIP's own start is next to nothing everywhere."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(module.weight, gain=1.5)
    for layer in model.tower:
        nn.init.normal_(layer.convs.offset.bias, std=1.0)
    nn.init.xavier_uniform_(model.head.text_proj.weight, gain=14.0)
    nn.init.normal_(model.head.text_bias, std=0.5)
    model.head.bias.fill_(-1.0)
    nn.init.normal_(model.head.box.weight, std=1.0)
    model.head.centerness.bias.fill_(2.0)


def tiny_glip(folder: Path) -> None:
    """Write the checkpoint."""
    torch.manual_seed(0)
    model = GlipForObjectDetection(tiny_glip_config())
    spread(model)
    model.save_pretrained(folder)
    images = GroundingDinoImageProcessorPil(
        size={"shortest_edge": SHORT_EDGE, "longest_edge": 2 * SHORT_EDGE},
        rescale_factor=1.0,
        image_mean=[123.675, 116.28, 103.53],
        image_std=[58.395, 57.12, 57.375],
    )
    GroundingDinoProcessor(images, bert_tokenizer()).save_pretrained(folder)
