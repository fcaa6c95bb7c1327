"""Named sets of defaults for a recipe. What the recipe file says itself stands above them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

PresetName = Literal["paper", "small-data"]
LENGTHS = ("steps", "epochs")

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        # The common way to fine-tune a whole detector: AdamW, a tenth of the rate on the text encoder.
        "paper": {
            "mode": "full",
            "epochs": 30,
            "learning_rate": 1e-4,
            "text_learning_rate": 1e-5,
            "weight_decay": 1e-4,
            "warmup_steps": 300,
            "decay_steps": 5000,
            "max_grad_norm": 1.0,
            "ema": 0.998,
            "scale_min": 0.5,
            "scale_max": 1.5,
            "precision": "bf16",
        },
        # Tens of images: encoders stay, the average is short, and the run ends where validation stops rising.
        "small-data": {
            "mode": "head",
            "steps": 1000,
            "batch": 4,
            "learning_rate": 1e-4,
            "weight_decay": 1e-3,
            "warmup_steps": 50,
            "decay_steps": 400,
            "max_grad_norm": 1.0,
            "ema": 0.99,
            "scale_min": 0.7,
            "scale_max": 1.4,
            "colour": 0.2,
            "evaluate_every": 50,
            "save_every": 50,
            "patience": 6,
        },
    }
)


def with_preset(given: Mapping[str, Any]) -> dict[str, Any]:
    """Add the defaults of the preset that a recipe names; where it says how long the run is, without their length."""
    defaults = dict(PRESETS.get(str(given.get("preset")), {}))  # of an unknown name the recipe's own check tells
    if any(given.get(name) is not None for name in LENGTHS):
        defaults = {name: value for name, value in defaults.items() if name not in LENGTHS}
    return {**defaults, **given}
