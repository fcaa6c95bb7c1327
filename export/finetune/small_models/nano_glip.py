"""A small GLIP to train on two cores, on a backbone that knows pictures already."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from medprompt.core.outputs import replaced_whole
from medprompt.export.families.glip.config import GlipConfig
from medprompt.export.families.glip.model import GlipForObjectDetection
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
WIDTH = 64


def nano_glip_checkpoint(out: Path, seed: int = 0, *, backbone: BackboneName = "resnet") -> Path:
    """Write a GLIP of about 6 M parameters (3 M its vocabulary) as a Hugging Face folder; see ``nano``.

    The vocabulary is MiniLM's, which is BERT's.
    """
    from transformers import GroundingDinoProcessor
    from transformers.models.grounding_dino.image_processing_pil_grounding_dino import GroundingDinoImageProcessorPil

    source = minilm_folder()
    torch.manual_seed(seed)
    eyes = start_backbone(backbone)
    model = _model(eyes, len(read_vocabulary(source)))
    with torch.no_grad():
        _start(model)
        eyes.load(model.backbone)
        load_words(model.text_model, source)
    images = GroundingDinoImageProcessorPil(
        size={"height": SIDE, "width": SIDE},
        rescale_factor=1.0,
        image_mean=list(eyes.mean),
        image_std=list(eyes.std),
    )
    with replaced_whole(out) as folder:
        model.save_pretrained(folder)
        GroundingDinoProcessor(images, bert_tokenizer(source)).save_pretrained(folder)
    return out


def _model(eyes: StartBackbone, vocabulary: int) -> GlipForObjectDetection:
    return GlipForObjectDetection(
        GlipConfig(
            backbone_config=eyes.config(),
            text_config=bert_config(vocabulary),
            width=WIDTH,
            tower_layers=2,
            fusion_width=WIDTH,
            fusion_heads=4,
            anchor_scale=4,
            max_text_len=CONTEXT,
        )
    )


def _start(model: GlipForObjectDetection) -> None:
    """A narrow model's linears keep the scale of what they get; GLIP's own start is for wide ones."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
