"""Few and short attribute words: a tiny tokenizer spells most words letter by letter, and reads 16 tokens."""

from __future__ import annotations

import pytest

from medprompt.export.finetune import attribute_phrases

FEW_WORDS = (
    attribute_phrases.AttributeWord("size", ("small",), {"size": (0.0, 0.25)}),
    attribute_phrases.AttributeWord("size", ("a",), {"size": (0.25, attribute_phrases.EVER)}),
    attribute_phrases.AttributeWord("color", ("purple",), {"hue": (215, 305)}),
    attribute_phrases.AttributeWord("color", ("red",), {"hue": (305, 385)}),
    attribute_phrases.AttributeWord("shape", ("round",), {"elongation": (0.0, 1.3)}),
    attribute_phrases.AttributeWord("shape", ("white",), {"elongation": (1.3, attribute_phrases.EVER)}),
)


def use_few_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose phrases of these words until the test ends."""
    monkeypatch.setattr(attribute_phrases, "ATTRIBUTE_WORDS", FEW_WORDS)
    monkeypatch.setattr(attribute_phrases, "NOUNS", ("cell",))
    monkeypatch.setattr(attribute_phrases, "TINY_NOUNS", ("cell",))
