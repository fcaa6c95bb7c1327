"""What a segmenter says about itself: a bundle without prompts, whose models make a mask of each box they are given."""

from __future__ import annotations

from typing import Literal

from medprompt.core.manifest import BundleManifest, TensorSpec, Tolerance


class SegmenterManifest(BundleManifest):
    """The whole of a segmenter's ``manifest.json``.

    Of both models, ``inputs`` are ``image`` of the encoder and ``boxes_xyxy`` of the decoder, in 0 … 1 of the model's
    image. ``outputs`` are the decoder's ``masks`` ``[N, h_m, w_m]``, logits of each pixel of the model's image.

    Attributes:
        task: Tells it from a detector's, which states none.
        features: What the encoder makes of an image and the decoder takes.
        mask_threshold: Logits over it, at the source's size, are the object's, as the checkpoint's processor has it.
        tolerance: What it may differ from PyTorch: boxes whose masks must agree, and from which IoU on they do.
    """

    task: Literal["segment"] = "segment"
    features: tuple[TensorSpec, ...]
    mask_threshold: float = 0.0
    tolerance: Tolerance = Tolerance()
