"""Small models of Grounding DINO's kind to train on two cores, GLIP among them, on a backbone that knows pictures.

Their text side is two layers of BERT, with MiniLM's vocabulary, which is BERT's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from medprompt.export.families.glip.config import GlipConfig
from medprompt.export.families.glip.model import GlipForObjectDetection
from medprompt.export.families.image_processors import grounding_processor
from medprompt.export.finetune.small_models.nano import minilm_folder, save_start, token_vectors
from medprompt.export.finetune.small_models.nano_backbone import BackboneName, StartBackbone, start_backbone

SIZE = {"height": 320, "width": 320}
WIDTH, GLIP_WIDTH = 128, 64
CONTEXT = 256
"""Tokens that it reads at once."""

TEXT_WIDTH = 96


def nano_grounding_checkpoint(
    out: Path,
    kind: Literal["grounding-dino", "mm-grounding-dino"],
    seed: int = 0,
    *,
    backbone: BackboneName = "resnet",
) -> Path:
    """Write a Grounding DINO of about 7 M parameters (3 M its vocabulary) as a Hugging Face folder; see ``nano``.

    The vocabulary is MiniLM's, which is BERT's: transformers' code takes the ids of [CLS], [SEP], "." and "?" in it
    for granted.
    """
    source, eyes = minilm_folder(), start_backbone(backbone)
    torch.manual_seed(seed)
    model = _grounding_model(kind, eyes, len(_vocabulary(source)))
    with torch.no_grad():
        _start_grounding(model)
        eyes.load(model.model.backbone.conv_encoder.model)
        _load_words(model.model.text_backbone, source)
    mean, std = ([value / 255 for value in values] for values in (eyes.mean, eyes.std))
    return save_start(model, grounding_processor(_tokenizer(source), SIZE, mean, std), out)


def _grounding_model(kind: str, eyes: StartBackbone, vocabulary: int) -> Any:
    import transformers

    name = "GroundingDino" if kind == "grounding-dino" else "MMGroundingDino"
    config = getattr(transformers, f"{name}Config")(
        backbone_config=eyes.config(),
        text_config=_bert_config(vocabulary),
        d_model=WIDTH,
        encoder_layers=2,
        decoder_layers=3,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=2 * WIDTH,
        decoder_ffn_dim=2 * WIDTH,
        num_feature_levels=2,
        num_queries=200,
        max_text_len=CONTEXT,
    )
    return getattr(transformers, f"{name}ForObjectDetection")(config)


def _start_grounding(model: Any) -> None:
    """Weights that a narrow model learns from: transformers' are for wide ones.

    A linear keeps the scale of what it gets; image and text see each other from the start; and the logits, products
    of two normed vectors, start small: unscaled, those of plain Grounding DINO have a standard deviation of 11.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear) and module.weight.abs().max() > 0:
            nn.init.xavier_uniform_(module.weight)
    for layer in model.model.encoder.layers:
        layer.fusion_layer.vision_param.fill_(0.1)
        layer.fusion_layer.text_param.fill_(0.1)
    model.model.level_embed.mul_(0.1)
    if model.config.model_type == "grounding-dino":
        model.model.decoder.layer_norm.weight.fill_(0.1)
        model.model.enc_output_norm.weight.fill_(0.1)


def nano_glip_checkpoint(out: Path, seed: int = 0, *, backbone: BackboneName = "resnet") -> Path:
    """Write a GLIP of about 6 M parameters (3 M its vocabulary) as a Hugging Face folder; see ``nano``."""
    source, eyes = minilm_folder(), start_backbone(backbone)
    torch.manual_seed(seed)
    model = _glip_model(eyes, len(_vocabulary(source)))
    with torch.no_grad():
        _start_glip(model)
        eyes.load(model.backbone)
        _load_words(model.text_model, source)
    return save_start(model, grounding_processor(_tokenizer(source), SIZE, eyes.mean, eyes.std, 1.0), out)


def _glip_model(eyes: StartBackbone, vocabulary: int) -> GlipForObjectDetection:
    return GlipForObjectDetection(
        GlipConfig(
            backbone_config=eyes.config(),
            text_config=_bert_config(vocabulary),
            width=GLIP_WIDTH,
            tower_layers=2,
            fusion_width=GLIP_WIDTH,
            fusion_heads=4,
            anchor_scale=4,
            max_text_len=CONTEXT,
        )
    )


def _start_glip(model: GlipForObjectDetection) -> None:
    """A narrow model's linears keep the scale of what they get; GLIP's own start is for wide ones."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)


def _vocabulary(minilm: Path) -> list[str]:
    """The word pieces of MiniLM's folder, by id."""
    return (minilm / "vocab.txt").read_text(encoding="utf-8").splitlines()


def _bert_config(vocabulary: int) -> Any:
    """The ``BertConfig`` of a vocabulary of so many word pieces."""
    from transformers import BertConfig

    return BertConfig(
        vocab_size=vocabulary,
        hidden_size=TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=2 * TEXT_WIDTH,
        max_position_embeddings=CONTEXT,
    )


def _tokenizer(minilm: Path) -> Any:
    """The tokenizer of MiniLM's folder."""
    from transformers import BertTokenizerFast

    return BertTokenizerFast(vocab=str(minilm / "vocab.txt"), model_max_length=CONTEXT)


@torch.no_grad()
def _load_words(text_model: nn.Module | Any, minilm: Path) -> None:
    """Let a BERT of ``_bert_config`` start from MiniLM's token vectors."""
    vectors = token_vectors(minilm, _vocabulary(minilm), TEXT_WIDTH)
    text_model.get_input_embeddings().weight[:] = vectors[2:]  # MiniLM's own special tokens are in its table
