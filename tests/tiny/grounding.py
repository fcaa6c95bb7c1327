"""Tiny Grounding DINO and MM-Grounding DINO checkpoints: random weights, yet spread scores and boxes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn
from transformers import (
    BertConfig,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoProcessor,
    MMGroundingDinoConfig,
    MMGroundingDinoForObjectDetection,
    PreTrainedTokenizerFast,
    SwinConfig,
)
from transformers.models.grounding_dino.image_processing_pil_grounding_dino import (
    GroundingDinoImageProcessorPil,
)

WIDTH = 32
SHORT_EDGE = 96
HARD_CODED = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, ".": 1012, "?": 1029}
"""Ids that transformers' Grounding DINO code takes for granted."""
WORDS = (
    *"abcdefghijklmnopqrstuvwxyz",
    *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"),
    *("red", "white", "blood", "cell", "platelet", "polyp", "small", "purple", "round", "nucleus", "disc"),
    *("##s", "##let", "##oid"),
)


def vocabulary() -> dict[str, int]:
    """Hard-coded ids, the words, and fillers up to the highest id."""
    free = [i for i in range(max(HARD_CODED.values()) + 1) if i not in HARD_CODED.values()]
    words = dict.fromkeys(WORDS)
    named = {**HARD_CODED, **dict(zip(words, free, strict=False))}
    rest = free[len(words) :]
    return {**named, **{f"[unused{i}]": i for i in rest}}


def bert_tokenizer() -> Any:
    """An uncased WordPiece tokenizer over ``vocabulary()``."""
    backend = Tokenizer(models.WordPiece(vocabulary(), unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", 102), ("[CLS]", 101))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=64,
    )


def tiny_config(config_class: Any) -> Any:
    """Two encoder and two decoder layers of width 32 on a four-stage Swin."""
    return config_class(
        backbone_config=SwinConfig(
            image_size=64,
            patch_size=4,
            embed_dim=8,
            depths=[1, 1, 1, 1],
            num_heads=[1, 1, 2, 2],
            window_size=4,
            out_indices=[2, 3, 4],
        ),
        text_config=BertConfig(
            vocab_size=max(HARD_CODED.values()) + 1,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=64,
        ),
        d_model=WIDTH,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        num_queries=20,
        max_text_len=64,
    )


@torch.no_grad()
def spread(model: Any, logit_scale: float) -> None:
    """Give random weights answers that differ.

    transformers starts box heads at zero, the gates between image and text at 1e-4 and the weights of
    deformable attention at zero, so that an untrained model hardly depends on its inputs; Grounding DINO's
    logits, products of two normalised vectors, saturate besides. Here gates are open, heads are random, and
    ``logit_scale`` sets the spread of the logits through the decoder's last norm.
    """
    for layer in model.model.encoder.layers:
        layer.fusion_layer.vision_param.fill_(0.5)
        layer.fusion_layer.text_param.fill_(0.5)
        _open(layer.deformable_layer.self_attn)
    for layer in model.model.decoder.layers:
        _open(layer.encoder_attn)
    for head in [*model.bbox_embed, *model.model.decoder.bbox_embed, model.model.encoder_output_bbox_embed]:
        nn.init.xavier_normal_(head.layers[-1].weight, gain=0.5)
    nn.init.normal_(model.model.query_position_embeddings.weight)
    model.model.decoder.layer_norm.weight.fill_(logit_scale)


@torch.no_grad()
def _open(attn: Any) -> None:
    nn.init.xavier_uniform_(attn.attention_weights.weight)
    nn.init.normal_(attn.sampling_offsets.weight, std=0.1)


def _save(folder: Path, model: Any, logit_scale: float) -> None:
    for module in model.modules():
        # 0.02 is made for wide layers: at a width of 32 everything would shrink to nothing.
        if isinstance(module, nn.Linear):
            nn.init.xavier_normal_(module.weight)
    spread(model, logit_scale)
    model.save_pretrained(folder)
    images = GroundingDinoImageProcessorPil(size={"shortest_edge": SHORT_EDGE, "longest_edge": 2 * SHORT_EDGE})
    GroundingDinoProcessor(images, bert_tokenizer()).save_pretrained(folder)


def tiny_grounding_dino(folder: Path) -> None:
    """Save a Grounding DINO checkpoint of some 100,000 parameters; the same bytes every time."""
    torch.manual_seed(0)
    _save(folder, GroundingDinoForObjectDetection(tiny_config(GroundingDinoConfig)), logit_scale=0.3)


def tiny_mm_grounding_dino(folder: Path) -> None:
    """Save an MM-Grounding DINO checkpoint of some 100,000 parameters; the same bytes every time."""
    torch.manual_seed(0)
    model = MMGroundingDinoForObjectDetection(tiny_config(MMGroundingDinoConfig))
    for head in [*model.class_embed, model.model.encoder_output_class_embed]:
        nn.init.zeros_(head.bias)
    _save(folder, model, logit_scale=2.0)
