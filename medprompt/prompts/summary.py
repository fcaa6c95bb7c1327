"""What a bank's phrases and thresholds are made of: for the manifest, the model card and ``inspect``."""

from __future__ import annotations

from collections import Counter

from medprompt.core.manifest import Manifest, PromptSummary
from medprompt.core.markdown import markdown_table
from medprompt.prompts.bank import PromptBank
from medprompt.prompts.schema import PromptClass, Prompts


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


def class_table(prompts: Prompts, default_threshold: float) -> str:
    """Classes, codes, thresholds and phrases, as Markdown."""
    rows = [_class_row(entry, default_threshold) for entry in prompts.classes]
    return "\n".join(markdown_table(["Class", "Code", "Threshold", "Phrases"], rows))


def _class_row(entry: PromptClass, default_threshold: float) -> list[str]:
    code = f"{entry.code.scheme} {entry.code.value}" if entry.code else "none"
    threshold = default_threshold if entry.threshold is None else entry.threshold
    phrases = ", ".join(p.text if p.weight == 1 else f"{p.text} (weight {p.weight:g})" for p in entry.phrases)
    return [entry.label, code, f"{threshold:g}", phrases]


def threshold_warnings(prompts: Prompts, manifest: Manifest) -> tuple[str, ...]:
    """A sentence where a class reports from a threshold that was not chosen on labelled images of this checkpoint."""
    records = [r for r in prompts.calibration or () if r.checkpoint == manifest.checkpoint_sha256]
    guessed = [
        f"{entry.label} {manifest.default_threshold:g} (the default)"
        if entry.threshold is None
        else f"{entry.label} {entry.threshold:g} (set by hand)"
        for entry in prompts.classes
        if entry.threshold is None or not any(record.covers(entry.label, entry.threshold) for record in records)
    ]
    if not guessed:
        return ()
    return (
        f"thresholds that were not calibrated on labelled images of this checkpoint: {', '.join(guessed)}. How many "
        "findings are missed or false is not known; `medprompt docs prompts` says how to calibrate",
    )
