"""From a class and its questions to prompt banks: parts of the bundle's own, of other banks, and encoded phrases."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medprompt.bundles.load import Bundle
from medprompt.core.errors import MedpromptError, PromptError, in_one_line, missing_extra
from medprompt.prompts.bank import PromptBank, check_encoder
from medprompt.prompts.names import label_identity
from medprompt.prompts.schema import Phrase, PromptClass, Prompts
from medprompt.prompts.wording import Question, Unasked, Wording, questions_of, texts_of

if TYPE_CHECKING:
    from medprompt.export.families.base import Family

Encode = Callable[[Prompts], PromptBank]

MOST_OTHERS = 4
"""Other classes that a class is exchanged with, or asked without, at most: the next in the bank's order."""


@dataclass(frozen=True)
class Asker:
    """Makes the bank for each question about a class.

    Attributes:
        bank: The bundle's own prompts.
        words: Other words.
        encode: Encodes phrases with the bundle's checkpoint; None without it.
        absent: Other banks of the same encoder: classes that no image of the data shows.
    """

    bank: PromptBank
    words: Wording
    encode: Encode | None = None
    absent: tuple[PromptBank, ...] = ()

    def __post_init__(self) -> None:
        for number, other in enumerate(self.absent, start=1):
            check_encoder(other, self.bank.encoder, f"absent, bank {number}")

    def own(self, label: str) -> PromptBank:
        """The class alone, with its own phrases.

        Raises:
            BankError: The bank cannot be taken apart, and there is no checkpoint.
        """
        return self._part(self.bank, label, self._entry(label))

    def ask(self, label: str) -> Iterator[tuple[Question, PromptBank] | Unasked]:
        """The bank for each question about a class, or why it cannot be asked."""
        entry = self._entry(label)
        yield from self._exchanged(entry)
        yield from self._beside(entry)
        yield from self._of_banks(entry)
        if self.encode is None:
            kinds = dict.fromkeys(question.kind for question in questions_of(texts_of(entry), self.words))
            why = "phrases are encoded with the bundle's checkpoint, and none was given"
            yield from (Unasked(kind, why) for kind in kinds if not (kind == "absent" and self.absent))
            return
        for question in questions_of(texts_of(entry), self.words):
            yield question if isinstance(question, Unasked) else self._encoded(entry, question, self.encode)

    def _exchanged(self, entry: PromptClass) -> Iterator[tuple[Question, PromptBank] | Unasked]:
        others = self._others(entry.label)
        for label in others:
            texts = tuple(phrase.text for phrase in self._entry(label).phrases)
            yield Question("exchanged", label, texts), self._part(self.bank, label, entry)
        if not others:
            yield Unasked("exchanged", "the bundle has one class")

    def _beside(self, entry: PromptClass) -> Iterator[tuple[Question, PromptBank] | Unasked]:
        others = self._others(entry.label)
        if not others:
            yield Unasked("beside", "the bundle has one class")
            return
        texts = tuple(phrase.text for phrase in entry.phrases)
        yield Question("beside", "all others", texts), self.bank
        if len(self.bank.labels) > 2:  # of two, one without the other is the class alone
            for label in others:
                yield Question("beside", f"all others but {label}", texts), self._without[label]

    @cached_property
    def _without(self) -> Mapping[str, PromptBank]:
        """The bundle's bank without each class: made once, since every other class is asked in it."""
        classes = self.bank.prompts.classes
        return {left_out.label: self._of([entry for entry in classes if entry is not left_out]) for left_out in classes}

    def _of(self, classes: Sequence[PromptClass]) -> PromptBank:
        """Some of the bundle's classes with their own phrases."""
        if self.encode is not None and "caption" in self.bank.layouts.values():
            return self.encode(self.bank.prompts.with_classes(classes))
        kept = [self.bank.labels.index(entry.label) for entry in classes]
        return self.bank.at(np.flatnonzero(np.isin(self.bank.phrase_classes, kept)).astype(np.int64), classes)

    def _others(self, label: str) -> Sequence[str]:
        labels, at = self.bank.labels, self.bank.labels.index(label)
        return [*labels[at + 1 :], *labels[:at]][:MOST_OTHERS]

    def _of_banks(self, entry: PromptClass) -> Iterator[tuple[Question, PromptBank]]:
        known = {label_identity(label) for label in self.bank.labels}
        for bank in self.absent:
            for other in bank.prompts.classes:
                if label_identity(other.label) not in known:
                    texts = tuple(phrase.text for phrase in other.phrases)
                    yield Question("absent", other.label, texts), self._part(bank, other.label, entry)

    def _part(self, bank: PromptBank, label: str, entry: PromptClass) -> PromptBank:
        """The phrases of ``label`` in a bank, as those of ``entry`` alone."""
        at = bank.labels.index(label)
        renamed = entry.with_phrases(bank.prompts.classes[at].phrases)
        if self.encode is not None and "caption" in bank.layouts.values():
            return self.encode(self.bank.prompts.with_classes([renamed]))
        return bank.at(np.flatnonzero(bank.phrase_classes == at).astype(np.int64), [renamed])

    def _encoded(self, entry: PromptClass, question: Question, encode: Encode) -> tuple[Question, PromptBank] | Unasked:
        # An empty phrase is no phrase of a prompts file, and is asked all the same.
        phrases = [
            Phrase.model_construct(text=text, weight=1.0, source="manual", origin=None) for text in question.texts
        ]
        try:
            return question, encode(self.bank.prompts.with_classes([entry.with_phrases(phrases)]))
        except MedpromptError as error:
            return Unasked(question.kind, f"{question.name}: {in_one_line(str(error))}")

    def _entry(self, label: str) -> PromptClass:
        return self.bank.prompts.classes[self.bank.labels.index(label)]


def encoder_of_checkpoint(bundle: Bundle, checkpoint: Path) -> Encode:
    """Encode with the checkpoint that a bundle was made from.

    Raises:
        EngineError: PyTorch is not installed.
        InputError: It is another checkpoint.
    """
    try:
        from medprompt.benchmarks.latency.reference_pipeline import reference_family
    except ImportError as error:
        raise missing_extra("Encoding phrases", error.name or "torch", "export") from error
    family = reference_family(bundle, checkpoint)
    return lambda prompts: encode_question(family, prompts)


def encode_question(family: Family, prompts: Prompts) -> PromptBank:
    """Encode the phrases of a question, which may be empty.

    Raises:
        PromptError: The text encoder would cut them, knows no word of them, or cannot be asked without a word.
    """
    from medprompt.export.embed import unchecked_bank

    if any(prompts.texts):
        family.check_phrases(prompts.texts)
        return unchecked_bank(family, prompts)
    refused = PromptError("This model cannot be asked without a word.", fix="ask with filler words")
    try:
        bank = unchecked_bank(family, prompts)
    except (IndexError, RuntimeError, ValueError) as error:  # of a text of no token
        raise refused from error
    if len(bank.token_counts) and not (bank.token_counts - bank.separator_tokens).all():
        raise refused
    return bank
