"""Phrases a few at a time, where a model computes each apart and many together would not fit in memory.

Phrases of such a model never meet, and the best K of all are among the best K of each part: the answer is the same. The
image is computed again for each part.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medprompt.core.errors import OutOfMemoryError
from medprompt.core.manifest import TensorSpec
from medprompt.runtime.engines.base import Engine

Arrays = Mapping[str, NDArray[Any]]

_log = logging.getLogger(__name__)


class PhraseChunks(Engine):
    """An engine that is handed at most so many phrases; one request at a time.

    Args:
        engine: The one that computes; it is closed with this.
        inputs: The graph's, which say where each has its phrases.
        most: Phrases computed together. Where the engine has no memory for them it is halved.
    """

    def __init__(self, engine: Engine, inputs: Sequence[TensorSpec], most: int) -> None:
        self._engine, self._most = engine, most
        self._axes = {spec.name: spec.shape.index("P") for spec in inputs if "P" in spec.shape}
        self.resizes, self.notes = engine.resizes, engine.notes
        self.joins_rows, self.on_gpu = engine.joins_rows, engine.on_gpu

    def run(self, feeds: Arrays) -> dict[str, NDArray[Any]]:
        """See ``Engine.run``.

        Raises:
            OutOfMemoryError: One phrase alone does not fit.
        """
        while True:
            try:
                return self._run(feeds)
            except OutOfMemoryError:
                together = min(self._most, self._phrases(feeds))
                if together == 1:
                    raise
                self._most = math.ceil(together / 2)
                _log.warning("no memory for %d phrases together: %d at a time from here on", together, self._most)

    def _run(self, feeds: Arrays) -> dict[str, NDArray[Any]]:
        phrases = self._phrases(feeds)
        if phrases <= self._most:
            return self._engine.run(feeds)
        starts = range(0, phrases, self._most)
        return merged([self._engine.run(part) for part in self._parts(feeds, starts)], starts)

    def _phrases(self, feeds: Arrays) -> int:
        name, axis = next(iter(self._axes.items()))
        return int(feeds[name].shape[axis])

    def _parts(self, feeds: Arrays, starts: range) -> Iterator[dict[str, NDArray[Any]]]:
        for start in starts:
            part = slice(start, start + starts.step)
            yield {
                name: array[(slice(None),) * self._axes[name] + (part,)] if name in self._axes else array
                for name, array in feeds.items()
            }

    def device_stages_ms(self, feeds: Arrays) -> dict[str, float]:
        """See ``Engine.device_stages_ms``; nothing where there are several parts."""
        return self._engine.device_stages_ms(feeds) if self._phrases(feeds) <= self._most else {}

    def begin_serving(self) -> None:
        """See ``Engine.begin_serving``."""
        self._engine.begin_serving()

    def close(self) -> None:
        """See ``Engine.close``."""
        self._engine.close()


def merged(answers: Sequence[Arrays], starts: Sequence[int]) -> dict[str, NDArray[Any]]:
    """The best rows of several answers, as many as each has; ``starts`` are the first phrase of each.

    A score that is no number goes first: it must be seen, and refused.
    """
    told = [{**a, "phrase_ids": a["phrase_ids"] + start} for a, start in zip(answers, starts, strict=True)]
    joined = {name: np.concatenate([answer[name] for answer in told], axis=1) for name in told[0]}
    scores = np.where(np.isnan(joined["scores"]), np.inf, joined["scores"])
    best = np.argsort(-scores, axis=1, kind="stable")[:, : answers[0]["scores"].shape[1]]
    return {
        name: np.take_along_axis(rows, best.reshape(*best.shape, *(1,) * (rows.ndim - 2)), axis=1)
        for name, rows in joined.items()
    }
