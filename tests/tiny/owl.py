"""Tiny OWL-ViT and OWLv2 checkpoints: random weights, yet spread scores and boxes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    Owlv2Config,
    Owlv2ForObjectDetection,
    Owlv2Processor,
    OwlViTConfig,
    OwlViTForObjectDetection,
    OwlViTProcessor,
)
from transformers.models.owlv2.image_processing_pil_owlv2 import Owlv2ImageProcessorPil
from transformers.models.owlvit.image_processing_pil_owlvit import OwlViTImageProcessorPil

from tests.tiny.clip import clip_tokenizer

SIDE = 64
CONTEXT = 16
WIDTH = 32
LAYERS = {
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def tiny_config(config_class: Any, tokenizer: Any) -> Any:
    """Two layers of width 32 on each side; 8 × 8 patches, each a query."""
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    text = {**LAYERS, **ids, "vocab_size": len(tokenizer), "max_position_embeddings": CONTEXT}
    vision = {**LAYERS, "image_size": SIDE, "patch_size": 8}
    return config_class(text_config=text, vision_config=vision, projection_dim=WIDTH)


@torch.no_grad()
def spread(model: Any, backbone: Any) -> None:
    """Give random weights answers that differ.

    transformers starts narrow layers so small that they hardly depend on their input, and the heads'
    linears so large (a standard deviation of 1) that every box saturates. Here every linear keeps the
    scale of what it gets, and the heads spread scores over 0.05 … 0.95 and boxes around their patches.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.xavier_normal_(module.weight.flatten(1))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.normal_(backbone.text_model.embeddings.token_embedding.weight)
    nn.init.normal_(backbone.vision_model.embeddings.position_embedding.weight, std=0.5)
    # logit = (cosine + shift) · (elu(scale) + 1): mostly the cosine, which is what phrases differ in.
    model.class_head.logit_shift.weight.mul_(0.02)
    model.class_head.logit_scale.weight.mul_(0.3)
    model.class_head.logit_scale.bias.fill_(9.0)


def _save(folder: Path, model: Any, processor: Any) -> None:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def tiny_owlvit(folder: Path) -> None:
    """Save an OWL-ViT checkpoint of some 60,000 parameters; the same bytes every time."""
    torch.manual_seed(0)
    tokenizer = clip_tokenizer(CONTEXT, pad_token="!")
    model = OwlViTForObjectDetection(tiny_config(OwlViTConfig, tokenizer))
    spread(model, model.owlvit)
    size = {"height": SIDE, "width": SIDE}
    images = OwlViTImageProcessorPil(size=size, crop_size=size, do_center_crop=False)
    _save(folder, model, OwlViTProcessor(images, tokenizer))


def tiny_owlv2(folder: Path) -> None:
    """Save an OWLv2 checkpoint of some 60,000 parameters; the same bytes every time."""
    torch.manual_seed(0)
    tokenizer = clip_tokenizer(CONTEXT, pad_token="!")
    model = Owlv2ForObjectDetection(tiny_config(Owlv2Config, tokenizer))
    spread(model, model.owlv2)
    images = Owlv2ImageProcessorPil(size={"height": SIDE, "width": SIDE})
    _save(folder, model, Owlv2Processor(images, tokenizer))
