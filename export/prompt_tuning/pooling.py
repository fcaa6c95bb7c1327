"""From phrase logits to class logits, as the graph pools phrases, but in a form that can be learned through."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional


def class_logits(logits: Tensor, phrase_to_class: Tensor, pooling: Literal["max", "mean"]) -> Tensor:
    """Pool the phrases of each class; the sigmoid of the answer is the class score of ``SelectTopK``.

    It is computed on logits throughout: scores near 0 and 1 would lose their gradient. Under ``max`` the best phrase
    of a class alone gets one.

    Args:
        logits: float ``[B, Q, P]``.
        phrase_to_class: float ``[P, C]``, see ``medprompt.prompts.assemble``: one class a phrase.
        pooling: The bank's own.

    Returns:
        float ``[B, Q, C]``.
    """
    pool = _best if pooling == "max" else _mean
    members = [phrase_to_class[:, index].nonzero()[:, 0] for index in range(phrase_to_class.shape[1])]
    pooled = [pool(logits[..., rows], phrase_to_class[rows, index]) for index, rows in enumerate(members)]
    return torch.stack(pooled, dim=-1)


def _best(logits: Tensor, weights: Tensor) -> Tensor:
    """Logit of max(w · sigmoid(x)): log w - log((1 - w) + exp(-x)) for each phrase, which is x where w is 1."""
    return (weights.log() - torch.logaddexp(torch.log1p(-weights), -logits)).amax(dim=-1)


def _mean(logits: Tensor, weights: Tensor) -> Tensor:
    """Logit of sum(w · sigmoid(x)), the weights summing to 1, so that its complement is sum(w · sigmoid(-x))."""
    shares = weights.log()
    yes = torch.logsumexp(shares + functional.logsigmoid(logits), dim=-1)
    no = torch.logsumexp(shares + functional.logsigmoid(-logits), dim=-1)
    return yes - no
