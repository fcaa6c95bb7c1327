"""What a detector serves: which prompts, and from which score on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medprompt.bundles.load import Bundle
from medprompt.core.errors import BankError, InputError
from medprompt.core.manifest import Manifest
from medprompt.prompts.bank import PromptBank, load_bank


def check_threads(count: int | None, what: str = "thread", where: str = "threads") -> None:
    """Refuse fewer threads than 1, or fewer of what else is counted."""
    if count is not None and count < 1:
        raise InputError(f"The {what} count is out of range.", where=where, expected="1 or more", got=str(count))


Banks = PromptBank | Path | str | Sequence[PromptBank | Path | str]
"""A prompt bank or its file; of several, all their phrases."""


def resolve_bank(bundle: Bundle, prompts: Banks | None, labels: Sequence[str] | None) -> PromptBank:
    """The prompts to serve: the bundle's own or others, all classes or some; arguments as of ``Detector.load``."""
    if prompts is None or (isinstance(prompts, Sequence) and not prompts):
        served = bundle.bank
    else:
        several = prompts if isinstance(prompts, Sequence) and not isinstance(prompts, str) else [prompts]
        served = reduce(PromptBank.merge, map(_loaded, several))
    return served if labels is None else served.subset(labels)


def _loaded(bank: PromptBank | Path | str) -> PromptBank:
    return bank if isinstance(bank, PromptBank) else load_bank(Path(bank))


def check_pooling(bank: PromptBank, manifest: Manifest) -> None:
    """Refuse a bank whose phrases would be combined otherwise than the model combines them."""
    if bank.prompts.pooling != manifest.postprocess.pooling and bank.pooling_matters:
        raise BankError(
            "The bank pools the phrases of a class otherwise than the model does.",
            expected=f"pooling: {manifest.postprocess.pooling}",
            got=f"pooling: {bank.prompts.pooling}",
            fix="set 'pooling:' in the prompts file as the bundle has it, or export with these prompts",
        )


def check_text_length(inputs: Mapping[str, NDArray[Any]], manifest: Manifest) -> None:
    """Refuse prompts that make a longer text than the model has ever read at once."""
    tokens = max((inputs[spec.name].shape[1] for spec in manifest.inputs if spec.source == "token"), default=0)
    if manifest.max_text_tokens is not None and tokens > manifest.max_text_tokens:
        raise BankError(
            "All phrases together are longer than the model reads at once.",
            where="the prompts to serve",
            expected=f"at most {manifest.max_text_tokens} tokens",
            got=f"{tokens} tokens",
            fix="serve fewer classes at once (labels=), and the others in another run",
        )


def class_thresholds(bank: PromptBank, manifest: Manifest, threshold: float | None) -> NDArray[np.float32]:
    """float32 ``[C]``: the least score of each class."""
    if threshold is not None and not 0 <= threshold <= 1:
        raise InputError("The threshold is out of range.", where="threshold", expected="0 … 1", got=str(threshold))
    if threshold is not None:
        return np.full(len(bank.labels), threshold, dtype=np.float32)
    own = [entry.threshold for entry in bank.prompts.classes]
    return np.array([manifest.default_threshold if one is None else one for one in own], dtype=np.float32)
