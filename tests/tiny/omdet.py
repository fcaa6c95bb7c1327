"""A tiny OmDet-Turbo checkpoint: random weights, yet spread scores and boxes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import CLIPTextConfig, OmDetTurboConfig, OmDetTurboForObjectDetection, SwinConfig
from transformers.models.detr.image_processing_pil_detr import DetrImageProcessorPil
from transformers.models.omdet_turbo.processing_omdet_turbo import OmDetTurboProcessor

from tests.tiny.clip import clip_tokenizer

SIZE_HW = (64, 96)
CONTEXT = 77
"""transformers' processor pads to this length, whatever the model."""
WIDTH = 16
TEXT_WIDTH = 24
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
"""As in the published checkpoints: in 0 … 255, without rescaling."""


def tiny_config(tokenizer: Any) -> Any:
    """One encoder and two decoder layers of width 16 on a four-stage Swin."""
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    return OmDetTurboConfig(
        backbone_config=SwinConfig(
            image_size=list(SIZE_HW),
            patch_size=4,
            embed_dim=8,
            depths=[1, 1, 1, 1],
            num_heads=[1, 1, 2, 2],
            window_size=4,
            out_indices=[2, 3, 4],
        ),
        text_config=CLIPTextConfig(
            **ids,
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=2 * TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=CONTEXT,
        ),
        # transformers' own Swin norms its maps itself, and with channels where this norm wants the width.
        apply_layernorm_after_vision_backbone=False,
        text_projection_in_dim=TEXT_WIDTH,
        text_projection_out_dim=TEXT_WIDTH,
        class_embed_dim=TEXT_WIDTH,
        task_encoder_hidden_dim=2 * TEXT_WIDTH,
        encoder_in_channels=(16, 32, 64),
        encoder_hidden_dim=WIDTH,
        encoder_attention_heads=2,
        encoder_dim_feedforward=2 * WIDTH,
        vision_features_channels=(WIDTH, WIDTH, WIDTH),
        decoder_hidden_dim=WIDTH,
        decoder_num_heads=2,
        decoder_num_layers=2,
        decoder_dim_feedforward=2 * WIDTH,
        num_queries=20,
    )


@torch.no_grad()
def spread(model: Any) -> None:
    """Give random weights answers that differ.

    transformers starts box heads at zero, and narrow layers so small that they hardly depend on their input.
    Here every linear and convolution keeps the scale of what it gets, the box heads are random, and the batch
    norms hold statistics as a trained model's would.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.xavier_normal_(module.weight.flatten(1))
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    nn.init.normal_(model.language_backbone.model.embeddings.token_embedding.weight)
    for layer in model.decoder.layers:
        nn.init.normal_(layer.cross_attn.sampling_offsets.weight, std=0.1)
    for head in [model.decoder.encoder_class_head, *model.decoder.decoder_class_head]:
        nn.init.zeros_(head.bias)  # it is the same for all phrases
    for head in [model.decoder.encoder_bbox_head, *model.decoder.decoder_bbox_head]:
        nn.init.xavier_normal_(head.layers[-1].weight, gain=0.5)


def tiny_omdet_turbo(folder: Path) -> None:
    """Save an OmDet-Turbo checkpoint of some 200,000 parameters; the same bytes every time."""
    torch.manual_seed(0)
    tokenizer = clip_tokenizer(CONTEXT, pad_token="<|endoftext|>")
    model = OmDetTurboForObjectDetection(tiny_config(tokenizer))
    spread(model)
    model.save_pretrained(folder)
    images = DetrImageProcessorPil(
        size={"height": SIZE_HW[0], "width": SIZE_HW[1]},
        do_rescale=False,
        do_pad=False,
        image_mean=list(MEAN),
        image_std=list(STD),
    )
    OmDetTurboProcessor(images, tokenizer).save_pretrained(folder)
