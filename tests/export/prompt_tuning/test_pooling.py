"""Class logits are those of the graph's pooling, and gradients reach the phrases that speak."""

from __future__ import annotations

import pytest
import torch

from medprompt.export.prompt_tuning.tune import class_logits

WEIGHTS = {
    "one phrase a class": [[1.0, 0.0], [0.0, 1.0]],
    "two phrases, one of them lighter": [[1.0, 0.0], [0.5, 0.0], [0.0, 1.0]],
    "all light": [[0.3, 0.0], [0.5, 0.0], [0.0, 0.9]],
}


def _shared(rows: list[list[float]], pooling: str) -> torch.Tensor:
    matrix = torch.tensor(rows)
    return matrix / matrix.sum(dim=0) if pooling == "mean" else matrix


@pytest.mark.parametrize("pooling", ["max", "mean"])
@pytest.mark.parametrize("rows", WEIGHTS.values(), ids=WEIGHTS)
def test_scores_are_the_graphs(rows: list[list[float]], pooling: str) -> None:
    matrix = _shared(rows, pooling)
    logits = torch.randn(2, 50, len(rows), generator=torch.Generator().manual_seed(0)) * 4
    scores = logits.sigmoid()
    wanted = scores @ matrix if pooling == "mean" else (scores[..., None] * matrix).amax(dim=2)
    torch.testing.assert_close(class_logits(logits, matrix, pooling).sigmoid(), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pooling", ["max", "mean"])
@pytest.mark.parametrize("value", [-200.0, -20.0, 0.0, 20.0, 200.0])
def test_saturated_logits_keep_value_and_gradient(pooling: str, value: float) -> None:
    logits = torch.full((1, 1, 1), value, requires_grad=True)
    pooled = class_logits(logits, torch.ones(1, 1), pooling)
    assert pooled.item() == pytest.approx(value, abs=1e-5)
    pooled.sum().backward()
    assert logits.grad is not None
    assert logits.grad.item() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(("pooling", "reached"), [("max", [False, True, True]), ("mean", [True, True, True])])
def test_who_learns(pooling: str, reached: list[bool]) -> None:
    """Phrase 1 speaks for class 0, for all that its weight is less; phrase 2 is alone in class 1."""
    logits = torch.tensor([[[-1.0, 2.0, 0.5]]], requires_grad=True)
    class_logits(logits, _shared([[1, 0], [0.8, 0], [0, 1]], pooling), pooling).sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert [bool(value != 0) for value in logits.grad[0, 0]] == reached
