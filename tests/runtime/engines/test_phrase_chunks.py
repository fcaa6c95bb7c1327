"""Phrases in parts: the same answer as all together, less where memory says so, and nothing that is no number lost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from medprompt.core.errors import OutOfMemoryError
from medprompt.core.manifest import TensorSpec
from medprompt.runtime.engines.fake import Fake
from medprompt.runtime.engines.phrase_chunks import PhraseChunks

INPUTS = (
    TensorSpec(name="image", dtype="uint8", shape=("B", 4, 4, 3), source="image"),
    TensorSpec(name="features", dtype="float32", shape=(1, "P", 3), source="phrase"),
    TensorSpec(name="phrase_to_class", dtype="float32", shape=("P", "C"), source="phrase_to_class"),
)
TOP_K = 3


class OwnQueries(Fake):
    """A model whose phrases have queries of their own: each phrase's scores are its features."""

    def __init__(self, room: int = 100) -> None:
        super().__init__()
        self.room, self.asked = room, list[int]()

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        features, classes = feeds["features"][0], feeds["phrase_to_class"]
        self.asked.append(len(features))
        if len(features) > self.room:
            raise OutOfMemoryError("no memory", where="here", got="all gone", fix="take less")
        batch = len(feeds["image"])
        best = np.argsort(-features.ravel(), kind="stable")[:TOP_K]
        phrases, scores = best // 3, features.ravel()[best]
        rows = {
            "boxes_xyxy": np.repeat(scores[:, None], 4, axis=1),
            "scores": scores,
            "class_ids": classes.argmax(axis=1)[phrases],
            "phrase_ids": phrases,
            "masks": np.broadcast_to(scores[:, None, None], (TOP_K, 2, 2)),
        }
        return {name: np.repeat(value[None], batch, axis=0) for name, value in rows.items()}


def feeds(phrases: int) -> dict[str, NDArray[Any]]:
    random = np.random.default_rng(phrases)
    return {
        "image": np.zeros((2, 4, 4, 3), np.uint8),
        "features": random.uniform(size=(1, phrases, 3)).astype(np.float32),
        "phrase_to_class": np.eye(phrases, dtype=np.float32),
    }


@pytest.mark.parametrize("most", [1, 2, 3, 4, 7, 8])
def test_parts_answer_as_all_together(most: int) -> None:
    wanted, inner = OwnQueries().run(feeds(7)), OwnQueries()
    got = PhraseChunks(inner, INPUTS, most).run(feeds(7))
    assert wanted.keys() == got.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(got[name], array, err_msg=name)
    assert max(inner.asked) == min(most, 7)
    assert sum(inner.asked) == 7


def test_without_memory_parts_become_smaller_and_stay_so() -> None:
    inner = OwnQueries(room=2)
    engine = PhraseChunks(inner, INPUTS, 8)
    np.testing.assert_array_equal(engine.run(feeds(7))["scores"], OwnQueries().run(feeds(7))["scores"])
    assert inner.asked == [7, 4, 2, 2, 2, 1]
    engine.run(feeds(3))
    assert inner.asked[6:] == [2, 1]


def test_a_phrase_that_does_not_fit_alone_is_an_error() -> None:
    with pytest.raises(OutOfMemoryError):
        PhraseChunks(OwnQueries(room=0), INPUTS, 8).run(feeds(3))


def test_a_score_that_is_no_number_is_not_sorted_away() -> None:
    asked = feeds(7)
    asked["features"][0, 6] = np.nan
    assert np.isnan(PhraseChunks(OwnQueries(), INPUTS, 2).run(asked)["scores"]).any()
