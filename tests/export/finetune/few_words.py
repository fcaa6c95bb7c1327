"""Few and short words of looks: a tiny tokenizer spells most words letter by letter, and reads 16 tokens."""

from __future__ import annotations

import pytest

from medprompt.export.finetune import attribute_phrases as looks

FEW_WORDS = (
    looks.AttributeWord("size", ("small",), {"size": (0.0, 0.25)}),
    looks.AttributeWord("size", ("a",), {"size": (0.25, looks.EVER)}),
    looks.AttributeWord("color", ("purple",), {"hue": (215, 305)}),
    looks.AttributeWord("color", ("red",), {"hue": (305, 385)}),
    looks.AttributeWord("shape", ("round",), {"elongation": (0.0, 1.3)}),
    looks.AttributeWord("shape", ("white",), {"elongation": (1.3, looks.EVER)}),
)


def use_few_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose phrases of these words until the test ends."""
    monkeypatch.setattr(looks, "LOOK_WORDS", FEW_WORDS)
    monkeypatch.setattr(looks, "NOUNS", ("cell",))
    monkeypatch.setattr(looks, "TINY_NOUNS", ("cell",))
