"""A small GLIP to train on two cores, on a backbone that knows pictures already."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from medprompt.core.outputs import replaced_whole
from medprompt.export.families.glip.config import GlipConfig
from medprompt.export.families.glip.model import GlipForObjectDetection
from medprompt.export.finetune.small_models.nano import minilm_folder, token_vectors
from medprompt.export.finetune.small_models.nano_backbone import BackboneName, StartBackbone, start_backbone

SIDE = 320
CONTEXT = 256
TEXT_WIDTH = 96
WIDTH = 64


def nano_glip_checkpoint(out: Path, seed: int = 0, *, backbone: BackboneName = "resnet") -> Path:
    """Write a GLIP of about 6 M parameters (3 M its vocabulary) as a Hugging Face folder; see ``nano``.

    The vocabulary is MiniLM's, which is BERT's.
    """
    from transformers import BertTokenizerFast, GroundingDinoProcessor
    from transformers.models.grounding_dino.image_processing_pil_grounding_dino import GroundingDinoImageProcessorPil

    source = minilm_folder()
    torch.manual_seed(seed)
    tokens = (source / "vocab.txt").read_text(encoding="utf-8").splitlines()
    eyes = start_backbone(backbone)
    model = _model(eyes, len(tokens))
    with torch.no_grad():
        _start(model)
        eyes.load(model.backbone)
        # MiniLM's own special tokens are in its table.
        model.text_model.get_input_embeddings().weight[:] = token_vectors(source, tokens, TEXT_WIDTH)[2:]
    images = GroundingDinoImageProcessorPil(
        size={"height": SIDE, "width": SIDE},
        rescale_factor=1.0,
        image_mean=list(eyes.mean),
        image_std=list(eyes.std),
    )
    tokenizer = BertTokenizerFast(vocab=str(source / "vocab.txt"), model_max_length=CONTEXT)
    with replaced_whole(out) as folder:
        model.save_pretrained(folder)
        GroundingDinoProcessor(images, tokenizer).save_pretrained(folder)
    return out


def _model(eyes: StartBackbone, vocabulary: int) -> GlipForObjectDetection:
    from transformers import BertConfig

    text = BertConfig(
        vocab_size=vocabulary,
        hidden_size=TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=2 * TEXT_WIDTH,
        max_position_embeddings=CONTEXT,
    )
    return GlipForObjectDetection(
        GlipConfig(
            backbone_config=eyes.config(),
            text_config=text,
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
