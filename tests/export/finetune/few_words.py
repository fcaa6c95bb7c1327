"""Few and short words of looks: a tiny tokenizer spells most words letter by letter, and reads 16 tokens."""

from __future__ import annotations

import pytest

from medprompt.export.finetune import looks

FEW_WORDS = (
    looks.LookWord("size", ("small",), {"size": (0.0, 0.25)}),
    looks.LookWord("size", ("a",), {"size": (0.25, looks.EVER)}),
    looks.LookWord("color", ("purple",), {"hue": (215, 305)}),
    looks.LookWord("color", ("red",), {"hue": (305, 385)}),
    looks.LookWord("shape", ("round",), {"elongation": (0.0, 1.3)}),
    looks.LookWord("shape", ("white",), {"elongation": (1.3, looks.EVER)}),
)


def use_few_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose phrases of these words until the test ends."""
    monkeypatch.setattr(looks, "LOOK_WORDS", FEW_WORDS)
    monkeypatch.setattr(looks, "NOUNS", ("cell",))
    monkeypatch.setattr(looks, "TINY_NOUNS", ("cell",))
