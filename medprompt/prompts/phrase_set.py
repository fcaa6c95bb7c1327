"""A part of a bank by phrase: what one image is prompted with. Classes keep their ids, so results stay comparable."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from medprompt.core.errors import BankError
from medprompt.prompts.bank import PromptBank


def phrase_key(text: str) -> str:
    """What tells phrases apart: their words, whatever the case and spacing."""
    return " ".join(text.split()).casefold()


def phrase_rows(bank: PromptBank, texts: Iterable[str], where: str = "") -> NDArray[np.int64]:
    """Indices of phrases in a bank, in the bank's order, each once.

    Args:
        bank: The bank.
        texts: Phrases of it; neither case, spacing, order nor repetition matter.
        where: What asks for them, for messages.

    Returns:
        int64 ``[S]``, rising.

    Raises:
        BankError: A phrase that the bank does not have, or a class that is left without a phrase.
    """
    if isinstance(texts, str) or not isinstance(texts, Iterable):
        raise BankError("These are not phrases.", where=where or "phrases", expected="a list of texts", got=repr(texts))
    indices = {phrase_key(text): row for row, text in enumerate(bank.prompts.texts)}
    wanted = {phrase_key(str(text)): text for text in texts}
    unknown = [text for key, text in wanted.items() if key not in indices]
    if unknown:
        raise BankError(
            "The bank does not have these phrases.",
            where=where,
            expected=f"some of its {len(indices)} phrases",
            got=", ".join(map(repr, unknown)),
            fix="medprompt prompts show BANK lists them; embed the missing ones, and merge the banks",
        )
    rows = np.array(sorted(indices[key] for key in wanted), dtype=np.int64)
    _check_classes(bank, rows, where)
    return rows


def _check_classes(bank: PromptBank, rows: NDArray[np.int64], where: str) -> None:
    """A class that is not requested would be reported as not found."""
    silent = sorted(set(range(len(bank.labels))) - set(bank.phrase_classes[rows].tolist()))
    if silent:
        raise BankError(
            "A class is left without a phrase.",
            where=where,
            expected="at least one phrase of each class",
            got=f"none of {', '.join(bank.labels[class_id] for class_id in silent)}",
            fix="add a phrase of it, or leave the class out for all images (labels=)",
        )


def subset_rows(bank: PromptBank, rows: NDArray[np.int64]) -> PromptBank:
    """Keep the phrases at ``rows`` (int64 ``[S]``, rising, at least one a class); see ``phrase_rows``."""
    kept = {bank.prompts.texts[row] for row in rows}
    return bank.at(rows, [e.with_phrases(p for p in e.phrases if p.text in kept) for e in bank.prompts.classes])


def subset_phrases(bank: PromptBank, texts: Iterable[str]) -> PromptBank:
    """Keep the named phrases, see ``phrase_rows``; every class stays, with its id, threshold and code."""
    return subset_rows(bank, phrase_rows(bank, texts))
