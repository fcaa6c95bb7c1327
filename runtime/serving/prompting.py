"""Which prompts a request is answered with: a bank that the server has, or phrases of it. Nothing is encoded here."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from threading import Lock

from medprompt.bundles.load import Bundle
from medprompt.core.errors import BankError, InputError
from medprompt.prompts.bank import PromptBank, check_encoder, load_bank
from medprompt.prompts.phrase_set import phrase_key, subset_phrases
from medprompt.runtime.detector import Detector
from medprompt.runtime.selection.serving_options import check_pooling
from medprompt.runtime.serving.contract import OWN_BANK, Asked

MAX_KEPT = 64
"""Detectors of different prompts and thresholds that are kept ready; they share one engine."""


def banks_by_name(bundle: Bundle, files: Sequence[Path]) -> dict[str, PromptBank]:
    """The banks that a server offers, by file name, the default first; the bundle's own is always one of them.

    Raises:
        BankError: A bank that cannot be read, or does not fit the model.
        InputError: Two of one name.
    """
    found: dict[str, PromptBank] = {}
    for path in files:
        if path.name in found or path.name == OWN_BANK:
            raise InputError("Two banks have one name.", where="prompts", got=path.name, fix="rename one of the files")
        found[path.name] = load_bank(path)
        check_encoder(found[path.name], bundle.manifest.encoder, path.name)
        check_pooling(found[path.name], bundle.manifest)
    return {**found, OWN_BANK: bundle.bank}


class Prompting:
    """A detector for what a request asks, all on one engine. Threads may share it.

    Args:
        detector: The loaded bundle.
        banks: By name, the default first; see ``banks_by_name``.

    Raises:
        BankError: A bank that does not fit the model.
    """

    def __init__(self, detector: Detector, banks: Mapping[str, PromptBank]) -> None:
        self._detector, self._banks, self._lock = detector, banks, Lock()
        self._base = {name: detector.share(bank) for name, bank in banks.items()}
        self._made: OrderedDict[tuple[object, ...], Detector] = OrderedDict()

    @property
    def names(self) -> tuple[str, ...]:
        """Of the banks, the default first."""
        return tuple(self._banks)

    def detector(self, asked: Asked) -> Detector:
        """The detector that answers it.

        Raises:
            BankError: A bank, a class or a phrase that is not there; the text says what is.
        """
        name = self._name(asked.bank)
        if asked.phrases is None and asked.threshold is None:
            return self._base[name]
        wanted = None if asked.phrases is None else wanted_of(self._banks[name], asked.phrases)
        key = (name, wanted and tuple(sorted(wanted)), asked.threshold)  # what was asked, repetitions too, may be long
        with self._lock:
            if key not in self._made:
                bank = None if wanted is None else narrowed(self._banks[name], wanted)
                self._made[key] = self._base[name].share(bank, threshold=asked.threshold)
            self._made.move_to_end(key)
            while len(self._made) > MAX_KEPT:
                self._made.popitem(last=False)[1].close()  # the engine stays: the base holds it
            return self._made[key]

    def close(self) -> None:
        """Let go of the engine."""
        with self._lock:
            for one in (*self._made.values(), *self._base.values()):
                one.close()

    def _name(self, asked: str | None) -> str:
        if asked is None:
            return next(iter(self._banks))
        named = [name for name in self._banks if asked in (name, Path(name).stem)]
        if asked in named or len(named) == 1:
            return asked if asked in named else named[0]
        raise BankError(
            "The server does not have this bank.",
            where="bank",
            expected=", ".join(self._banks),
            got=repr(asked),
            fix="name one of these, or start the server with it: medprompt serve BUNDLE --prompts BANK",
        )


def wanted_of(bank: PromptBank, phrases: Sequence[str] | Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Each named phrase as the bank writes it, and its class; case, spacing and repetition do not matter.

    Raises:
        BankError: A class or a phrase that the bank does not have.
    """
    known = {
        phrase_key(text): (text, bank.labels[row]) for text, row in zip(bank.texts, bank.phrase_classes, strict=True)
    }
    return dict(_wanted(bank, phrases, known))


def narrowed(bank: PromptBank, wanted: Mapping[str, str]) -> PromptBank:
    """These phrases of a bank, and the classes that have one.

    Args:
        bank: The bank.
        wanted: Phrases and their classes, see ``wanted_of``.

    Raises:
        BankError: A bank of which no part can be taken.
    """
    labels = [label for label in bank.labels if label in wanted.values()]
    part = bank if len(labels) == len(bank.labels) else bank.subset(labels)
    return part if len(wanted) == len(part.texts) else subset_phrases(part, wanted)


def _wanted(
    bank: PromptBank, phrases: Sequence[str] | Mapping[str, Sequence[str]], known: Mapping[str, tuple[str, str]]
) -> Iterator[tuple[str, str]]:
    """Text and label of each phrase."""
    by_label = phrases if isinstance(phrases, Mapping) else {"": phrases}
    for label, texts in by_label.items():
        mine = {key: found for key, found in known.items() if label in ("", found[1])}
        for text in texts:
            if phrase_key(text) not in mine:
                raise _unknown(bank, label, text, [one for one, _ in mine.values()])
            yield mine[phrase_key(text)]


def _unknown(bank: PromptBank, label: str, text: str, known: Sequence[str]) -> BankError:
    if label and label not in bank.labels:
        expected = ", ".join(bank.labels)
        return BankError("The bank does not have this class.", where="phrases", expected=expected, got=repr(label))
    return BankError(
        "The bank does not have this phrase, and a server encodes none.",
        where="phrases",
        expected=", ".join(known),
        got=repr(text),
        fix="make a bank of it (medprompt prompts embed), and start the server with it: medprompt serve --prompts BANK",
    )
