"""The graph's selection against the rule spelled out phrase by phrase."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch

from medprompt.export.graph.detection_graph import SelectTopK

QUERIES, TOP_K = 50, 20


def classes_of(sizes: tuple[int, ...], weights: np.ndarray) -> np.ndarray:
    """``phrase_to_class`` of classes with these numbers of phrases."""
    matrix = np.zeros((sum(sizes), len(sizes)), dtype=np.float32)
    matrix[np.arange(sum(sizes)), np.repeat(np.arange(len(sizes)), sizes)] = weights
    return matrix


@pytest.mark.parametrize("labels", ["one", "many"])
@pytest.mark.parametrize("sizes", [(1,), (1, 1), (3,), (2, 5, 1), (1,) * 100], ids=str)
def test_max_pooling_is_the_best_phrase_of_each_class(sizes: tuple[int, ...], labels: Literal["one", "many"]) -> None:
    random = np.random.default_rng(0)
    matrix = classes_of(sizes, random.uniform(0.1, 1, sum(sizes)))
    logits = random.normal(0, 3, (1, QUERIES, sum(sizes))).astype(np.float32)
    boxes = random.uniform(0, 1, (1, QUERIES, 4)).astype(np.float32)
    got = SelectTopK(TOP_K, "max", labels)(*map(torch.from_numpy, (logits, boxes, matrix)))

    weighted = (1 / (1 + np.exp(-logits[0])))[:, :, None] * matrix  # [Q, P, C]
    scores = weighted.max(axis=1)
    pairs = [(query, int(scores[query].argmax())) for query in range(QUERIES)]
    if labels == "many":
        pairs = [(query, entry) for query in range(QUERIES) for entry in range(len(sizes))]
    best = sorted(pairs, key=lambda pair: -scores[pair])[:TOP_K]
    np.testing.assert_allclose(got[1][0], [scores[pair] for pair in best], rtol=1e-5)
    assert got[2][0].tolist() == [entry for _, entry in best]
    assert got[3][0].tolist() == [int(weighted[query, :, entry].argmax()) for query, entry in best]
    centres = (got[0][0, :, :2] + got[0][0, :, 2:]) / 2
    np.testing.assert_allclose(centres, boxes[0, [query for query, _ in best], :2], atol=1e-6)


def test_equal_scores_go_to_the_first_class() -> None:
    matrix = torch.from_numpy(classes_of((2, 1), np.ones(3)))
    logits = torch.full((1, QUERIES, 3), 40.0)  # saturated: every score is 1
    _, scores, class_ids, phrase_ids, _ = SelectTopK(TOP_K, "max", "one")(logits, torch.rand(1, QUERIES, 4), matrix)
    assert (scores == 1).all()
    assert not class_ids.any()
    assert not phrase_ids.any()
