"""Tiny checkpoints of every family, by ``model_type``: made in seconds, a few hundred kB, no network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tiny.glip import tiny_glip
from tests.tiny.grounding import tiny_grounding_dino, tiny_mm_grounding_dino
from tests.tiny.omdet import tiny_omdet_turbo
from tests.tiny.owl import tiny_owlv2, tiny_owlvit
from tests.tiny.sam3 import tiny_sam3, tiny_sam3_lite_text

TINY: dict[str, Callable[[Path], None]] = {
    "owlvit": tiny_owlvit,
    "owlv2": tiny_owlv2,
    "grounding-dino": tiny_grounding_dino,
    "mm-grounding-dino": tiny_mm_grounding_dino,
    "omdet-turbo": tiny_omdet_turbo,
    "glip": tiny_glip,
    "sam3": tiny_sam3,
    "sam3_lite_text": tiny_sam3_lite_text,
}

EACH = [pytest.param(name, marks=pytest.mark.slow) if name == "sam3_lite_text" else name for name in TINY]
"""For tests of every family: the light one is SAM 3 but for its text encoder, and has tests of its own."""
