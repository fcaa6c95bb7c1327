"""Tiny checkpoints of every family, by ``model_type``: made in seconds, a few hundred kB, no network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.tiny.grounding import tiny_grounding_dino, tiny_mm_grounding_dino

TINY: dict[str, Callable[[Path], None]] = {
    "grounding-dino": tiny_grounding_dino,
    "mm-grounding-dino": tiny_mm_grounding_dino,
}
