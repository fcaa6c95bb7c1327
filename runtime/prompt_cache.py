"""Parts of a bank that images are prompted with, each made ready for the graph once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medprompt.core.manifest import TensorSpec
from medprompt.prompts.assemble import prompt_inputs
from medprompt.prompts.bank import PromptBank
from medprompt.prompts.phrase_set import phrase_rows, subset_rows
from medprompt.runtime.engines.feeds import fixed

MAX_SETS = 64
"""Sets that are kept ready: the published per-image prompts of a data set make 9 to 33 distinct strings."""


@dataclass(frozen=True)
class PromptSet:
    """What an image is prompted with.

    ``bank`` has all classes of the whole bank, in its order; ``inputs`` are the graph's prompt inputs by name,
    read-only.
    """

    bank: PromptBank
    inputs: Mapping[str, NDArray[Any]]

    @cached_property
    def sha256(self) -> str:
        """The bank's content hash."""
        return self.bank.content_hash()


class PromptSets:
    """A bank and its parts. Threads may share it.

    Raises:
        BankError: See ``prompt_inputs``.
    """

    def __init__(self, bank: PromptBank, specs: Iterable[TensorSpec]) -> None:
        self._specs = tuple(specs)
        self._made: OrderedDict[tuple[int, ...], PromptSet] = OrderedDict()
        self._lock = Lock()
        self.whole = self._set_of(bank)

    def of(self, phrases: Iterable[str] | None) -> PromptSet:
        """The set of these phrases, in whatever order they are named; the whole bank where None.

        Raises:
            BankError: A phrase that the bank does not have, or a class without a phrase.
        """
        return self.whole if phrases is None else self.of_rows(phrase_rows(self.whole.bank, phrases).tolist())

    def of_rows(self, rows: Iterable[int]) -> PromptSet:
        """The set of the phrases at these indices of the bank, rising, at least one a class."""
        key = tuple(rows)
        if len(key) == len(self.whole.bank.prompts.texts):
            return self.whole
        with self._lock:
            if key not in self._made:
                self._made[key] = self._assembled(key)
            self._made.move_to_end(key)
            while len(self._made) > MAX_SETS:
                self._made.popitem(last=False)
            return self._made[key]

    def _assembled(self, rows: tuple[int, ...]) -> PromptSet:
        return self._set_of(subset_rows(self.whole.bank, np.array(rows, dtype=np.int64)))

    def _set_of(self, bank: PromptBank) -> PromptSet:
        return PromptSet(bank, {name: fixed(array) for name, array in prompt_inputs(bank, self._specs).items()})
