"""A small Grounding DINO or MM-Grounding DINO to train on two cores, on a backbone that knows pictures already."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from medprompt.core.outputs import replaced_whole
from medprompt.export.finetune.small_models.nano import minilm_folder, token_vectors
from medprompt.export.finetune.small_models.nano_backbone import BackboneName, StartBackbone, start_backbone

SIDE = 320
CONTEXT = 256
TEXT_WIDTH = 96
WIDTH = 128


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
    from transformers import BertTokenizerFast, GroundingDinoProcessor
    from transformers.models.grounding_dino.image_processing_pil_grounding_dino import GroundingDinoImageProcessorPil

    source = minilm_folder()
    torch.manual_seed(seed)
    tokens = (source / "vocab.txt").read_text(encoding="utf-8").splitlines()
    eyes = start_backbone(backbone)
    model = _model(kind, eyes, len(tokens))
    with torch.no_grad():
        _start(model)
        eyes.load(model.model.backbone.conv_encoder.model)
        vectors = token_vectors(source, tokens, TEXT_WIDTH)[2:]  # MiniLM's own special tokens are in its table
        model.model.text_backbone.get_input_embeddings().weight[:] = vectors
    images = GroundingDinoImageProcessorPil(
        size={"height": SIDE, "width": SIDE},
        rescale_factor=1 / 255,
        image_mean=[value / 255 for value in eyes.mean],
        image_std=[value / 255 for value in eyes.std],
    )
    tokenizer = BertTokenizerFast(vocab=str(source / "vocab.txt"), model_max_length=CONTEXT)
    with replaced_whole(out) as folder:
        model.save_pretrained(folder)
        GroundingDinoProcessor(images, tokenizer).save_pretrained(folder)
    return out


def _model(kind: str, eyes: StartBackbone, vocabulary: int) -> Any:
    import transformers

    name = "GroundingDino" if kind == "grounding-dino" else "MMGroundingDino"
    config = getattr(transformers, f"{name}Config")(
        backbone_config=eyes.config(),
        text_config=transformers.BertConfig(
            vocab_size=vocabulary,
            hidden_size=TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=2 * TEXT_WIDTH,
            max_position_embeddings=CONTEXT,
        ),
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


def _start(model: Any) -> None:
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
