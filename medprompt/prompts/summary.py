"""What a bank's phrases are made of, in a few numbers for the manifest."""

from __future__ import annotations

from collections import Counter

from medprompt.core.manifest import PromptSummary
from medprompt.prompts.bank import PromptBank


def prompt_summary(bank: PromptBank) -> PromptSummary:
    """Count a bank's phrases by source, and name the models that generated them."""
    phrases = [phrase for entry in bank.prompts.classes for phrase in entry.phrases]
    origins = [phrase.origin for phrase in phrases if phrase.origin]
    words = [word.model for origin in origins for word in (origin.attributes or {}).values()]
    models = [model for model in (*words, *(origin.model for origin in origins)) if model]
    single = {name for model in models for name in model.split(", ")}
    return PromptSummary(
        classes=len(bank.labels),
        phrases=len(phrases),
        sources=dict(sorted(Counter(phrase.source for phrase in phrases).items())),
        models=tuple(sorted(single)),
        bank_sha256=bank.content_hash(),
    )
