"""What a request asks for, as a detector: banks by name, phrases of them, a threshold."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from medprompt.core.detections import Detections
from medprompt.core.errors import BankError
from medprompt.prompts.bank import PromptBank
from medprompt.prompts.phrase_set import phrase_key, phrase_rows
from medprompt.runtime.detector import Detector
from medprompt.runtime.serving.contract import Asked

MAX_KEPT = 32
"""Detectors that are kept ready; they share one engine."""


class Prompting:
    """A loaded engine under several banks. For one thread at a time.

    Args:
        detector: Loaded, with the bank that serves where a request names none.
        banks: All banks by name, the first being the detector's.

    Raises:
        BankError: A bank that does not fit the model.
    """

    def __init__(self, detector: Detector, banks: Mapping[str, PromptBank]) -> None:
        self._detector, self._banks = detector, dict(banks)
        self._kept: OrderedDict[tuple[object, ...], Detector] = OrderedDict()
        for name in banks:
            self._sharing(name, None, None)

    def check(self, asked: Asked) -> None:
        """Refuse a question that the banks cannot answer.

        Raises:
            BankError: An unknown bank or phrase; the text says which are known.
        """
        self._resolved(asked)

    def detect(self, images: Sequence[NDArray[np.uint8]], asked: Asked) -> list[Detections]:
        """What is found in uint8 RGB images ``[H, W, 3]``, in their order.

        Raises:
            MedpromptError: See ``Detector.batch``; nothing was answered then.
        """
        name, labels, phrases = self._resolved(asked)
        return self._sharing(name, labels, asked.threshold).batch(images, phrases)

    def close(self) -> None:
        """Free the engine."""
        for one in (*self._kept.values(), self._detector):
            one.close()

    def _resolved(self, asked: Asked) -> tuple[str, tuple[str, ...] | None, tuple[str, ...] | None]:
        """Bank, classes and phrases; None for all."""
        name = next(iter(self._banks)) if asked.bank is None else asked.bank.removesuffix(".safetensors")
        if name not in self._banks:
            raise BankError("There is no such bank.", where="bank", expected=", ".join(self._banks), got=name)
        if asked.phrases is None:
            return name, None, None
        bank = self._banks[name]
        if isinstance(asked.phrases, Mapping):
            return name, *_of_labels(bank, asked.phrases)
        phrases = tuple(asked.phrases)
        return name, _labels_of(bank, phrases), phrases

    def _sharing(self, name: str, labels: tuple[str, ...] | None, threshold: float | None) -> Detector:
        key = (name, labels, threshold)
        if key not in self._kept:
            self._kept[key] = self._detector.share(self._banks[name], labels, threshold)
        self._kept.move_to_end(key)
        while len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)[1].close()
        return self._kept[key]


def _labels_of(bank: PromptBank, phrases: Iterable[str]) -> tuple[str, ...]:
    """The classes that have one of these phrases, in the bank's order."""
    wanted = {phrase_key(text) for text in phrases}
    known = {phrase_key(text) for text in bank.prompts.texts}
    if unknown := sorted(wanted - known):
        phrase_rows(bank, unknown, "phrases")
    return tuple(
        entry.label for entry in bank.prompts.classes if any(phrase_key(one.text) in wanted for one in entry.phrases)
    )


def _of_labels(bank: PromptBank, wanted: Mapping[str, Iterable[str]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The classes of an object of phrases by label, and their phrases."""
    known = {entry.label: {phrase_key(one.text) for one in entry.phrases} for entry in bank.prompts.classes}
    for label, texts in wanted.items():
        unknown = [text for text in texts if phrase_key(text) not in known.get(label, ())]
        if unknown:
            raise BankError(
                "The bank does not have these phrases of this class.",
                where="phrases",
                expected=f"some of the bank's phrases; its classes are {', '.join(known)}",
                got=f"{label}: {', '.join(map(repr, unknown))}",
            )
    return tuple(wanted), tuple(text for texts in wanted.values() for text in texts)
