"""What a segmenter says about itself: a bundle without prompts, whose models make a mask of each box they are given."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from medprompt.core.manifest import (
    SCHEMA_VERSION,
    About,
    EngineRecord,
    FileEntry,
    ImportRecord,
    Preprocess,
    TensorSpec,
    Tolerance,
)
from medprompt.core.models import FrozenModel


class SegmenterManifest(FrozenModel):
    """The whole of a segmenter's ``manifest.json``; see ``Manifest`` for what both say.

    Attributes:
        task: Tells it from a detector's, which states none.
        inputs: Of both models: ``image`` of the encoder, ``boxes_xyxy`` of the decoder, in 0 … 1 of the model's image.
        features: What the encoder makes of an image and the decoder takes.
        outputs: Of the decoder: ``masks`` ``[N, h_m, w_m]``, logits of each pixel of the model's image.
        mask_threshold: Logits over it, at the source's size, are the object's, as the checkpoint's processor has it.
        tolerance: What it may differ from PyTorch: boxes whose masks must agree, and from which IoU on they do.
    """

    schema_version: int = SCHEMA_VERSION
    task: Literal["segment"] = "segment"
    family: str
    architecture: str
    checkpoint: str
    checkpoint_sha256: str
    source: ImportRecord | None = None
    about: About = About()
    inputs: tuple[TensorSpec, ...]
    features: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocess: Preprocess
    mask_threshold: float = 0.0
    tolerance: Tolerance = Tolerance()
    opset: int
    engines: tuple[EngineRecord, ...] = ()
    files: dict[str, FileEntry] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    intended_use: str = "Research use only, not for diagnosis."

    def summary(self) -> dict[str, Any]:
        """The manifest as JSON values, without the file table."""
        return self.model_dump(mode="json", exclude={"files"})
