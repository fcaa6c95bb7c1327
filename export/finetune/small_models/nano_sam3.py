"""A small SAM 3 to train from scratch on two cores: config, processor, tokenizer and initial weights.

A DETR whose queries must first learn where to look, and masks that must first learn to be blobs, take hundreds of
epochs. So both start with a place: the first ``PLACE`` channels of patches, pixels and queries are waves of their
position. A query attends to the patch in its middle at first, whose place the box head can compare with the query's
own, and its mask starts as a spot around it. Vocabulary and token vectors: see ``nano``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medprompt.core.outputs import replaced_whole
from medprompt.export.finetune.small_models.nano import (
    clip_style_tokenizer,
    minilm_folder,
    nano_vocabulary,
    text_sizes,
    token_vectors,
)

SIDE = 192
PATCH = 8
WINDOW = 8
CONTEXT = 32
"""transformers' processor pads to this length, whatever the model."""
VISION_WIDTH = 128
TEXT_WIDTH = 96
WIDTH = 96
HEADS = 4
GRID = SIDE // PATCH
"""Queries a side: one a patch."""
BOX = 0.08
"""Side of the boxes that queries start with."""
RATES = (0.5, 1.0, 2.0, 3.0, 5.0, 7.0)
"""Waves an image, of a position."""
PLACE = 4 * len(RATES)
SPOT, BACKGROUND = 0.6, -6.3
"""Gain and bias of a mask's logits at the start: above 0 where a spot's waves agree, well below elsewhere."""
STRONG = 2.0
"""Scale of a query's place, so that it outlasts what the decoder's layers add before each norm."""
QUIET = 0.3
"""Scale of what attention and perceptrons add at the start, so that places are not drowned."""
TERMS = """Initial weights that `medprompt init-small` made: random numbers, and token vectors of all-MiniLM-L6-v2.
They are under the Apache License 2.0, as those vectors are: https://www.apache.org/licenses/LICENSE-2.0
"""
"""A bundle of SAM 3 carries on the terms of its weights."""


def nano_sam3_checkpoint(out: Path, words: Iterable[str] = (), seed: int = 0) -> Path:
    """Write a SAM 3 of about 2.3 M parameters as a Hugging Face folder; see ``nano``."""
    from transformers.models.sam3.modeling_sam3 import Sam3Model
    from transformers.models.sam3.processing_sam3 import Sam3Processor

    from medprompt.export.families.sam3.family import Sam3ImageProcessorPil

    source = minilm_folder()
    torch.manual_seed(seed)
    tokens = nano_vocabulary(source, words)
    tokenizer = clip_style_tokenizer(tokens, CONTEXT)
    model = Sam3Model(_config(tokenizer))
    with torch.no_grad():
        _start(model)
        vectors = token_vectors(source, tokens, TEXT_WIDTH)
        model.text_encoder.get_input_embeddings().weight[: len(vectors)] = vectors
    size = {"height": SIDE, "width": SIDE}
    images = Sam3ImageProcessorPil(size=size, resample=2, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    with replaced_whole(out) as folder:
        model.save_pretrained(folder)
        Sam3Processor(images, tokenizer).save_pretrained(folder)
        (folder / "LICENSE").write_text(TERMS, encoding="utf-8")
    return out


def _config(tokenizer: Any) -> Any:
    """Patches of 8 pixels, since objects are small, and masks of a quarter of the side."""
    from transformers.models.sam3.configuration_sam3 import Sam3Config

    text = text_sizes(tokenizer, TEXT_WIDTH, CONTEXT)
    part = {"hidden_size": WIDTH, "num_attention_heads": HEADS}
    layers = {**part, "intermediate_size": 2 * WIDTH, "num_layers": 2, "dropout": 0.0}
    patches = SIDE // PATCH
    vision = {
        "model_type": "sam3_vit_model",
        **{"hidden_size": VISION_WIDTH, "intermediate_size": 2 * VISION_WIDTH, "num_attention_heads": HEADS},
        **{"image_size": SIDE, "pretrain_image_size": SIDE, "patch_size": PATCH, "window_size": WINDOW},
        **{"num_hidden_layers": 3, "global_attn_indexes": [2]},
    }
    return Sam3Config(
        vision_config={
            "backbone_config": vision,
            "fpn_hidden_size": WIDTH,
            "scale_factors": [2.0, 1.0, 0.5],
            "backbone_feature_sizes": [[2 * patches] * 2, [patches] * 2],
        },
        text_config={"model_type": "clip_text_model", "projection_dim": TEXT_WIDTH, **text},
        geometry_encoder_config={**layers, "num_layers": 1, "roi_size": 1},
        detr_encoder_config=layers,
        detr_decoder_config={**layers, "num_queries": GRID**2},
        mask_decoder_config={**part, "num_upsampling_stages": 1},
    )


def _start(model: Any) -> None:
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_uniform_(module.weight)
        if name.endswith((".o_proj", ".fc2")):
            module.weight.mul_(QUIET)
    _place_pixels(model)
    _place_queries(model.detr_decoder)
    for layer in model.detr_decoder.layers:
        _compare_places(layer)
    _start_box_head(model.detr_decoder)
    _start_masks(model.mask_decoder)


def _places(side: int) -> Tensor:
    """Waves ``[side², PLACE]`` of column and row."""
    centres = (torch.arange(side) + 0.5) / side
    rows, columns = torch.meshgrid(centres, centres, indexing="ij")
    angles = [axis.flatten()[:, None] * torch.tensor(RATES) * 2 * math.pi for axis in (columns, rows)]
    return torch.cat([wave(angle) for angle in angles for wave in (torch.cos, torch.sin)], dim=1)


def _centre(convolution: Any) -> Tensor:
    """The weights ``[out, in]`` of a convolution's middle."""
    height, width = convolution.kernel_size
    weights: Tensor = convolution.weight[:, :, height // 2, width // 2]
    return weights


def _place_pixels(model: Any) -> None:
    """Patches start as their places and keep them up to the encoder; the finer map has none of its own."""
    embeddings, neck = model.vision_encoder.backbone.embeddings, model.vision_encoder.neck
    nn.init.xavier_uniform_(embeddings.patch_embeddings.projection.weight.flatten(1))
    embeddings.patch_embeddings.projection.weight[:PLACE].mul_(0.1)
    embeddings.position_embeddings.mul_(0.1)
    embeddings.position_embeddings[0, :, :PLACE] = _places(SIDE // PATCH)
    for level, share in ((neck.fpn_layers[0], 0.0), (neck.fpn_layers[1], 1.0)):
        for convolution in (level.proj1, level.proj2):
            convolution.weight[:PLACE] = 0
            _centre(convolution)[:PLACE, :PLACE] = share * torch.eye(PLACE)


def _place_queries(decoder: Any) -> None:
    """A grid of boxes, each of which attends to the patch in its middle."""
    centres = (torch.arange(GRID) + 0.5) / GRID
    rows, columns = torch.meshgrid(centres, centres, indexing="ij")
    boxes = torch.stack([columns.flatten(), rows.flatten(), *torch.full((2, GRID**2), BOX)], dim=1)
    decoder.reference_points.weight[:] = torch.logit(boxes)
    decoder.query_embed.weight.mul_(0.1)
    decoder.query_embed.weight[:, :PLACE] = STRONG * _places(GRID)
    for perceptron in (decoder.box_rpb_embed_x, decoder.box_rpb_embed_y):
        perceptron.layer1.weight[:2] = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])  # how far off the middle, either way
        perceptron.layer1.bias[:2] = 0
        perceptron.layer2.weight.mul_(0.1)
        perceptron.layer2.weight[:, :2] = -15.0


def _compare_places(layer: Any) -> None:
    """A query's own place stays, and that of what it sees comes into the next channels."""
    for linear in (layer.self_attn.o_proj, layer.text_cross_attn.o_proj, layer.mlp.fc2):
        linear.weight[: 2 * PLACE] = 0
    seen = layer.vision_cross_attn
    seen.v_proj.weight[:PLACE] = torch.eye(PLACE, WIDTH)
    seen.o_proj.weight.div_(QUIET)
    seen.o_proj.weight[: 2 * PLACE] = 0
    seen.o_proj.weight[PLACE : 2 * PLACE] = torch.eye(PLACE, WIDTH)


def _start_box_head(decoder: Any) -> None:
    """It gets the difference of the two places, of either sign, and starts at the query's own box."""
    first, second, last = decoder.box_head.layer1, decoder.box_head.layer2, decoder.box_head.layer3
    own, seen = torch.eye(PLACE, WIDTH), torch.eye(PLACE, WIDTH).roll(PLACE, dims=1)
    first.weight[: 2 * PLACE] = torch.cat([seen - own, own - seen])
    second.weight[: 2 * PLACE] = torch.eye(2 * PLACE, WIDTH)
    last.weight.mul_(0.1)
    last.bias.zero_()


def _start_masks(decoder: Any) -> None:
    """A mask's logit starts as the agreement of two places; a ReLU on the way lets them through as two signs."""
    both, channel = torch.eye(2 * PLACE, WIDTH), torch.eye(PLACE, WIDTH)
    signs = torch.cat([channel, -channel])
    convolution, projection = decoder.pixel_decoder.conv_layers[0], decoder.instance_projection
    convolution.weight[: 2 * PLACE] = 0
    _centre(convolution)[: 2 * PLACE] = signs
    sum_of_signs = both[:PLACE] - both[PLACE:]
    projection.weight[: PLACE + 1] = 0
    _centre(projection)[:PLACE] = sum_of_signs
    projection.bias[PLACE] = 1.0
    first, second, last = decoder.mask_embedder.layers
    first.weight[: 2 * PLACE] = signs
    second.weight[: 2 * PLACE] = both
    last.weight.mul_(0.1)
    last.weight[: PLACE + 1] = 0
    last.weight[:PLACE] = SPOT * sum_of_signs
    last.bias[PLACE] = BACKGROUND
