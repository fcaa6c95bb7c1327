"""Tiny SAM 3 checkpoints: random weights, yet spread scores, boxes and masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.models.sam3.configuration_sam3 import Sam3Config
from transformers.models.sam3.modeling_sam3 import Sam3Model
from transformers.models.sam3.processing_sam3 import Sam3Processor
from transformers.models.sam3_lite_text.configuration_sam3_lite_text import Sam3LiteTextConfig
from transformers.models.sam3_lite_text.modeling_sam3_lite_text import Sam3LiteTextModel

from medprompt.export.families.sam3.family import Sam3ImageProcessorPil
from tests.tiny.clip import clip_tokenizer

SIDE = 64
WIDTH = 32
CONTEXT = 32
QUERIES = 20
LICENCE = "A licence that the weights of this checkpoint would carry.\n"


def tiny_config(config_class: Any, text: dict[str, Any]) -> Any:
    """A grid of 8 × 8 patches in windows of 4 × 4, masks of 32 × 32."""
    layers = {"hidden_size": WIDTH, "num_attention_heads": 4}
    detr = {**layers, "intermediate_size": 2 * WIDTH, "num_layers": 2}
    vit = {
        "model_type": "sam3_vit_model",
        **{"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2},
        **{"image_size": SIDE, "patch_size": 8, "pretrain_image_size": 32, "window_size": 4},
        "global_attn_indexes": [1],
        "layer_scale_init_value": 1.0,
    }
    return config_class(
        vision_config={
            "model_type": "sam3_vision_model",
            "backbone_config": vit,
            "fpn_hidden_size": WIDTH,
            "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
        },
        text_config={"num_attention_heads": 4, "num_hidden_layers": 2, **text},
        geometry_encoder_config={**detr, "num_layers": 1},
        detr_encoder_config=detr,
        detr_decoder_config={**detr, "num_queries": QUERIES},
        mask_decoder_config=layers,
    )


@torch.no_grad()
def spread(model: Any) -> None:
    """Give random weights answers that differ, as trained ones do: 0.02 is made for wide layers."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_normal_(module.weight.flatten(1))
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight)
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    decoder = model.detr_decoder
    nn.init.xavier_normal_(decoder.box_head.layer3.weight, gain=0.5)
    for perceptron in (decoder.box_rpb_embed_x, decoder.box_rpb_embed_y):
        nn.init.normal_(perceptron.layer2.weight)
    nn.init.normal_(decoder.query_embed.weight, std=4.0)
    nn.init.normal_(model.dot_product_scoring.query_proj.weight, std=0.7)
    nn.init.constant_(decoder.presence_head.layer3.bias, 1.5)


def _save(folder: Path, model: Any, tokenizer: Any) -> None:
    spread(model)
    model.save_pretrained(folder)
    size = {"height": SIDE, "width": SIDE}
    images = Sam3ImageProcessorPil(size=size, resample=2, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    Sam3Processor(images, tokenizer).save_pretrained(folder)
    (folder / "LICENSE").write_text(LICENCE, encoding="utf-8")


def tiny_sam3(folder: Path) -> None:
    """Save a SAM 3 of some 200,000 parameters; the same bytes every time."""
    torch.manual_seed(0)
    tokenizer = clip_tokenizer(CONTEXT, pad_token="<|endoftext|>")
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    text = {"hidden_size": WIDTH, "intermediate_size": 64, "projection_dim": 16, "max_position_embeddings": CONTEXT}
    config = tiny_config(Sam3Config, {"model_type": "clip_text_model", "vocab_size": len(tokenizer), **ids, **text})
    _save(folder, Sam3Model(config), tokenizer)


def tiny_sam3_lite_text(folder: Path) -> None:
    """Save a SAM 3 with a light text encoder; the same bytes every time."""
    torch.manual_seed(0)
    tokenizer = clip_tokenizer(CONTEXT, pad_token="<|endoftext|>")
    text = {"hidden_size": WIDTH, "intermediate_size": 64, "projection_dim": 16, "max_position_embeddings": CONTEXT}
    kind = {"model_type": "sam3_lite_text_text_model", "vocab_size": len(tokenizer), "num_hidden_layers": 3}
    _save(folder, Sam3LiteTextModel(tiny_config(Sam3LiteTextConfig, {**text, **kind})), tokenizer)
