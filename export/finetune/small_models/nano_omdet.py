"""A small OmDet-Turbo to train on two cores: its image backbone knows pictures already, the rest starts fresh.

The backbone: see ``nano_backbone``; vocabulary and token vectors: see ``nano``.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from medprompt.export.finetune.small_models.nano import (
    clip_style_tokenizer,
    minilm_folder,
    nano_vocabulary,
    save_start,
    text_sizes,
    token_vectors,
)
from medprompt.export.finetune.small_models.nano_backbone import BackboneName, StartBackbone, start_backbone

SIDE = 416
CONTEXT = 77
"""transformers' processor pads to this length, whatever the model."""
TEXT_WIDTH = 96
"""Not ``WIDTH``: where both are the same transformers 5.24 makes no ``task_project``, and then asks for it."""
WIDTH = 128


def nano_omdet_checkpoint(
    out: Path, words: Iterable[str] = (), seed: int = 0, *, backbone: BackboneName = "resnet", side: int = SIDE
) -> Path:
    """Write an OmDet-Turbo of about 5.3 M parameters as a Hugging Face folder; see ``nano``."""
    from transformers import OmDetTurboForObjectDetection
    from transformers.models.detr.image_processing_pil_detr import DetrImageProcessorPil
    from transformers.models.omdet_turbo.processing_omdet_turbo import OmDetTurboProcessor

    source = minilm_folder()
    torch.manual_seed(seed)
    tokens = nano_vocabulary(source, words)
    tokenizer = clip_style_tokenizer(tokens, CONTEXT)
    eyes = start_backbone(backbone)
    model = OmDetTurboForObjectDetection(_config(tokenizer, eyes, side))
    with torch.no_grad():
        eyes.load(model.vision_backbone.vision_backbone)
        vectors = token_vectors(source, tokens, TEXT_WIDTH)
        model.language_backbone.model.get_input_embeddings().weight[: len(vectors)] = vectors
    images = DetrImageProcessorPil(
        size={"height": side, "width": side},
        do_rescale=False,
        do_pad=False,
        image_mean=list(eyes.mean),
        image_std=list(eyes.std),
    )
    return save_start(model, OmDetTurboProcessor(images, tokenizer), out)


def _config(tokenizer: Any, eyes: StartBackbone, side: int) -> Any:
    from transformers import CLIPTextConfig, OmDetTurboConfig

    return OmDetTurboConfig(
        backbone_config=eyes.config(),
        text_config=CLIPTextConfig(**text_sizes(tokenizer, TEXT_WIDTH, CONTEXT)),
        apply_layernorm_after_vision_backbone=False,
        text_projection_in_dim=TEXT_WIDTH,
        text_projection_out_dim=TEXT_WIDTH,
        class_embed_dim=TEXT_WIDTH,
        task_encoder_hidden_dim=2 * TEXT_WIDTH,
        encoder_in_channels=eyes.channels,
        encoder_hidden_dim=WIDTH,
        encoder_attention_heads=4,
        encoder_dim_feedforward=4 * WIDTH,
        encoder_projection_indices=[1],
        vision_features_channels=(WIDTH, WIDTH),
        d_model=WIDTH,
        decoder_hidden_dim=WIDTH,
        decoder_num_heads=4,
        decoder_num_layers=3,
        decoder_dim_feedforward=4 * WIDTH,
        num_queries=200,
        num_feature_levels=2,
        image_size=side,
    )
