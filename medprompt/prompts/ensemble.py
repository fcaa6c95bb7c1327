"""Ensembles of phrases in embedding space: the phrases of a class become one row of a bank, with numpy alone.

Score space needs no code here: the graph pools phrase scores by ``pooling``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medprompt.core.errors import PromptError
from medprompt.prompts.bank import PromptBank
from medprompt.prompts.file import checked_prompts
from medprompt.prompts.schema import Origin, Phrase, PromptClass, Prompts

SHOWN = 3
"""Phrases that an ensemble's text spells out; the rest is counted, since the text stands at every detection."""

CANCELLED = 1e-3
"""Minimum length of a mean of unit vectors. Below it, rounding decides where the mean points."""


def mean_embedding(rows: NDArray[Any], weights: NDArray[np.float64], where: str = "") -> NDArray[Any]:
    """The weighted mean direction of embeddings, at their mean length: for unit vectors, CLIP's prompt ensembling.

    Args:
        rows: float ``[n, D]``.
        weights: ``[n]``, over 0; only their ratios count.
        where: The class, for messages.

    Returns:
        ``[D]``, of the type of ``rows``.

    Raises:
        PromptError: An embedding of no length, or embeddings that cancel each other out.
    """
    wide = rows.astype(np.float64)
    lengths, shares = np.linalg.norm(wide, axis=1), weights / weights.sum()
    if not lengths.all():
        raise PromptError("A phrase's embedding is all zeros.", where=where, fix="take the phrase out")
    mean = shares @ (wide / lengths[:, None])
    size = np.linalg.norm(mean)
    if size < CANCELLED:
        raise PromptError(
            "The embeddings of a class cancel each other out.",
            where=where,
            expected=f"a mean of unit vectors at least {CANCELLED:g} long",
            got=f"{size:.1e}",
            fix="pool their scores instead: leave 'ensemble:' out of the prompts file",
        )
    found: NDArray[Any] = (mean / size * (shares @ lengths)).astype(rows.dtype)
    return found


def ensembled_bank(bank: PromptBank) -> PromptBank:
    """Replace the phrases of each class by their mean embedding, weighted by their weights.

    A class of one phrase keeps its row; its weight becomes 1, as the one share of the mean. With one row a class, max
    and mean pooling decide alike. Task sentences stay those that the bank was embedded under.

    Raises:
        PromptError: A family whose phrases are several tokens each, or embeddings without a mean.
    """
    names = [name for name, layout in bank.layouts.items() if layout == "phrase" and bank.tensors[name].ndim == 2]
    several = any(layout == "phrase" and bank.tensors[name].ndim > 2 for name, layout in bank.layouts.items())
    if not names or several or "token" in bank.layouts.values():
        raise PromptError(
            "This model's phrases cannot be ensembled in embedding space.",
            expected="one vector a phrase (OWL-ViT, OWLv2, OmDet-Turbo)",
            got="several tokens a phrase",
            fix="leave 'ensemble:' out, and choose 'pooling: max' or 'pooling: mean'",
        )
    tensors = {name: _class_means(bank, tensor) if name in names else tensor for name, tensor in bank.tensors.items()}
    return replace(bank, prompts=ensembled_prompts(bank.prompts), tensors=tensors)


def _class_means(bank: PromptBank, rows: NDArray[Any]) -> NDArray[Any]:
    means = []
    for class_id, entry in enumerate(bank.prompts.classes):
        own = rows[bank.phrase_classes == class_id]
        weights = np.array([phrase.weight for phrase in entry.phrases], dtype=np.float64)
        means.append(own[0] if len(own) == 1 else mean_embedding(own, weights, entry.label))
    return np.stack(means)


def ensembled_prompts(prompts: Prompts) -> Prompts:
    """What an ensembled bank says of itself: one phrase a class, which lists those that went in.

    Raises:
        PromptError: The joined text of one class is a phrase of another.
    """
    classes = [_one_phrase(entry) for entry in prompts.classes]
    try:
        return checked_prompts(prompts.model_copy(update={"ensemble": None}), classes, "ensembled prompts")
    except PromptError as error:
        raise PromptError(
            "Two classes would show the same text once their phrases are joined.",
            got="; ".join(entry.phrases[0].text for entry in classes),
            fix="word the phrase that holds semicolons otherwise",
        ) from error


def _one_phrase(entry: PromptClass) -> PromptClass:
    phrases = entry.phrases
    if len(phrases) == 1:
        return entry.with_phrases([phrases[0].model_copy(update={"weight": 1.0})])
    origin = Origin(mean_of={phrase.text: phrase.weight for phrase in phrases})
    joined = Phrase(text=ensemble_text([phrase.text for phrase in phrases]), source="ensemble", origin=origin)
    return entry.with_phrases([joined])


def ensemble_text(texts: list[str]) -> str:
    """What results show for a mean of phrases: ``a; b; c``, or ``a; b; c; and 4 more``."""
    more = [f"and {len(texts) - SHOWN} more"] if len(texts) > SHOWN else []
    return "; ".join([*texts[:SHOWN], *more])
