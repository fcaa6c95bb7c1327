"""A small Grounding DINO or MM-Grounding DINO to train on two cores, on a backbone that knows pictures already."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from medprompt.core.outputs import replaced_whole
from medprompt.export.finetune.small_models.nano import minilm_folder
from medprompt.export.finetune.small_models.nano_backbone import BackboneName, StartBackbone, start_backbone
from medprompt.export.finetune.small_models.nano_bert import (
    CONTEXT,
    bert_config,
    bert_tokenizer,
    load_words,
    read_vocabulary,
)

SIDE = 320
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
    from transformers import GroundingDinoProcessor
    from transformers.models.grounding_dino.image_processing_pil_grounding_dino import GroundingDinoImageProcessorPil

    source = minilm_folder()
    torch.manual_seed(seed)
    eyes = start_backbone(backbone)
    model = _model(kind, eyes, len(read_vocabulary(source)))
    with torch.no_grad():
        _start(model)
        eyes.load(model.model.backbone.conv_encoder.model)
        load_words(model.model.text_backbone, source)
    images = GroundingDinoImageProcessorPil(
        size={"height": SIDE, "width": SIDE},
        rescale_factor=1 / 255,
        image_mean=[value / 255 for value in eyes.mean],
        image_std=[value / 255 for value in eyes.std],
    )
    with replaced_whole(out) as folder:
        model.save_pretrained(folder)
        GroundingDinoProcessor(images, bert_tokenizer(source)).save_pretrained(folder)
    return out


def _model(kind: str, eyes: StartBackbone, vocabulary: int) -> Any:
    import transformers

    name = "GroundingDino" if kind == "grounding-dino" else "MMGroundingDino"
    config = getattr(transformers, f"{name}Config")(
        backbone_config=eyes.config(),
        text_config=bert_config(vocabulary),
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
