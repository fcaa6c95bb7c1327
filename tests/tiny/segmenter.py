"""A tiny SAM 3 tracker: random weights, yet masks that differ from box to box."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from transformers.models.sam3_tracker.configuration_sam3_tracker import Sam3TrackerConfig
from transformers.models.sam3_tracker.modeling_sam3_tracker import Sam3TrackerModel
from transformers.models.sam3_tracker.processing_sam3_tracker import Sam3TrackerProcessor

from medprompt.export.families.sam3.family import Sam3ImageProcessorPil

SIDE = 64
WIDTH = 32
LICENCE = "A licence that the weights of this checkpoint would carry.\n"


@torch.no_grad()
def tiny_sam3_tracker(folder: Path) -> None:
    """Save a tracker of some 100,000 parameters; the same bytes every time."""
    torch.manual_seed(0)
    vit = {
        "model_type": "sam3_vit_model",
        **{"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2},
        **{"image_size": SIDE, "patch_size": 8, "pretrain_image_size": 32, "window_size": 4},
        **{"global_attn_indexes": [1], "layer_scale_init_value": 1.0},
    }
    config = Sam3TrackerConfig(
        vision_config={
            "model_type": "sam3_vision_model",
            **{"backbone_config": vit, "fpn_hidden_size": WIDTH, "scale_factors": [4.0, 2.0, 1.0]},
            "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
        },
        prompt_encoder_config={"hidden_size": WIDTH, "image_size": SIDE, "patch_size": 8, "mask_input_channels": 8},
        mask_decoder_config={
            **{"hidden_size": WIDTH, "mlp_dim": 2 * WIDTH, "num_attention_heads": 4, "iou_head_hidden_dim": WIDTH},
        },
    )
    model = Sam3TrackerModel(config)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_normal_(module.weight.flatten(1))
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight)
    model.save_pretrained(folder)
    size = {"height": SIDE, "width": SIDE}
    images = Sam3ImageProcessorPil(size=size, resample=2, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    Sam3TrackerProcessor(images).save_pretrained(folder)
    (folder / "LICENSE").write_text(LICENCE, encoding="utf-8")
