"""From a prompt bank to the graph's prompt inputs, with numpy alone.

Every input's ``source`` names one function here, so the runtime needs no word about model families.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medprompt.core.errors import BankError
from medprompt.core.manifest import TensorSpec
from medprompt.prompts.bank import PromptBank

MASKED = -1e4
"""Added to attention logits that must not count: exp(-1e4) is 0 in float32, and the number exists in float16."""


def _phrase(bank: PromptBank, name: str) -> NDArray[Any]:
    """``[1, P, …]``: the bank's rows."""
    return bank.tensors[name][None]


def _token(bank: PromptBank, name: str) -> NDArray[Any]:
    """``[1, T, …]``: tokens before, the phrases' tokens, tokens after."""
    return np.concatenate([_around(bank, name, "before"), bank.tensors[name], _around(bank, name, "after")])[None]


def _around(bank: PromptBank, name: str, side: str) -> NDArray[Any]:
    return bank.tensors.get(f"{name}.{side}", bank.tensors[name][:0])


def _tokens_around(bank: PromptBank) -> tuple[int, int]:
    """How many tokens stand before and after the phrases."""
    name = next(n for n, layout in bank.layouts.items() if layout in ("token", "caption"))
    return len(_around(bank, name, "before")), len(_around(bank, name, "after"))


def _block_bias(bank: PromptBank, name: str) -> NDArray[Any]:
    """float32 ``[1, T, T]``: 0 where two tokens belong to one phrase, ``MASKED`` elsewhere.

    Tokens around the phrases see themselves only.
    """
    before, after = _tokens_around(bank)
    sizes = [1] * before + bank.token_counts.tolist() + [1] * after
    block = np.repeat(np.arange(len(sizes)), sizes)
    return np.where(block[:, None] == block[None, :], 0.0, MASKED).astype(np.float32)[None]


def _phrase_tokens(bank: PromptBank, name: str) -> NDArray[Any]:
    """int64 ``[P, L]``: each phrase's scoring tokens as positions in T; short rows repeat their first token."""
    before, _ = _tokens_around(bank)
    counts = bank.token_counts - bank.separator_tokens
    starts = before + np.concatenate([[0], np.cumsum(bank.token_counts)[:-1]])
    step = np.arange(counts.max())[None, :]
    rows = starts[:, None] + np.where(step < counts[:, None], step, 0)
    return rows.astype(np.int64)


def _phrase_to_class(bank: PromptBank, name: str) -> NDArray[Any]:
    """float32 ``[P, C]``: phrase weight in the column of its class; columns sum to 1 under mean pooling."""
    weights = [phrase.weight for entry in bank.prompts.classes for phrase in entry.phrases]
    matrix = np.zeros((len(weights), len(bank.labels)), dtype=np.float32)
    matrix[np.arange(len(weights)), bank.phrase_classes] = weights
    return matrix / matrix.sum(axis=0) if bank.prompts.pooling == "mean" else matrix


SOURCES: dict[str, Callable[[PromptBank, str], NDArray[Any]]] = {
    "phrase": _phrase,
    "token": _token,
    "shared": _phrase,
    "block_bias": _block_bias,
    "phrase_tokens": _phrase_tokens,
    "phrase_to_class": _phrase_to_class,
}


def prompt_inputs(bank: PromptBank, inputs: Iterable[TensorSpec]) -> dict[str, NDArray[Any]]:
    """Return the prompt tensors that a graph asks for, by input name.

    Args:
        bank: The phrases to serve.
        inputs: The graph's inputs; those that do not come from prompts are passed over.

    Raises:
        BankError: The bank lacks a tensor, or has it in another shape.
    """
    feeds = {}
    for spec in (spec for spec in inputs if spec.source in SOURCES):
        try:
            array = SOURCES[spec.source](bank, spec.name)
        except (KeyError, StopIteration) as error:
            raise BankError(
                "The bank lacks a tensor that the model needs.",
                expected=f"{spec.name} ({spec.source})",
                got=", ".join(sorted(bank.tensors)),
                fix="embed the prompts with the bundle's own checkpoint",
            ) from error
        feeds[spec.name] = np.ascontiguousarray(array, dtype=spec.dtype)
        _check_shape(spec, feeds[spec.name])
    return feeds


def _check_shape(spec: TensorSpec, array: NDArray[Any]) -> None:
    fixed = [(want, got) for want, got in zip(spec.shape, array.shape, strict=False) if isinstance(want, int)]
    if len(spec.shape) != array.ndim or any(want != got for want, got in fixed):
        raise BankError(
            "A prompt tensor has the wrong shape.",
            where=spec.name,
            expected=str(list(spec.shape)),
            got=str(list(array.shape)),
            fix="embed the prompts with the bundle's own checkpoint",
        )
