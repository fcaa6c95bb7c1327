"""Phrases a few at a time, where a model computes each apart and many together would not fit in memory.

Phrases of such a model never meet, and the best K of all are among the best K of each part: the answer is the same.
Where the model lies in two parts, the image is computed once, by an engine of its own; else again for each few phrases.
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
        engine: The one that computes; it is closed with this, and so is ``image``.
        inputs: The graph's, which say where each has its phrases.
        most: Phrases computed together. Where the engine has no memory for them it is halved.
        image: Makes of the image what ``engine`` takes in its place; None: ``engine`` takes the image.
    """

    def __init__(self, engine: Engine, inputs: Sequence[TensorSpec], most: int, image: Engine | None = None) -> None:
        self._engine, self._most, self._image = engine, most, image
        self._axes = {spec.name: spec.shape.index("P") for spec in inputs if "P" in spec.shape}
        self._prompts = {spec.name for spec in inputs if spec.source != "image"}
        first = image or engine
        self.resizes, self.joins_rows, self.on_gpu = first.resizes, first.joins_rows, first.on_gpu

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]  # some are known only once it has run
        """See ``Engine``."""
        return tuple(dict.fromkeys((*(self._image.notes if self._image else ()), *self._engine.notes)))

    def run(self, feeds: Arrays) -> dict[str, NDArray[Any]]:
        """See ``Engine.run``.

        Raises:
            OutOfMemoryError: One phrase alone does not fit.
        """
        asked = self._encoded(feeds)
        while True:
            try:
                return self._run(asked)
            except OutOfMemoryError:
                together = min(self._most, self._phrases(asked))
                if together == 1:
                    raise
                self._most = math.ceil(together / 2)
                _log.warning("no memory for %d phrases together: %d at a time from here on", together, self._most)

    def _encoded(self, feeds: Arrays) -> Arrays:
        """What the engine takes, but for the parting of phrases."""
        if self._image is None:
            return feeds
        features = self._image.run({name: feed for name, feed in feeds.items() if name not in self._prompts})
        for array in features.values():
            array.setflags(write=False)  # a GPU's engine sends once what cannot change
        return features | {name: feed for name, feed in feeds.items() if name in self._prompts}

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
        """See ``Engine.device_stages_ms``; nothing where one call of an engine is not all."""
        alone = self._image is None and self._phrases(feeds) <= self._most
        return self._engine.device_stages_ms(feeds) if alone else {}

    def begin_serving(self) -> None:
        """See ``Engine.begin_serving``."""
        for engine in filter(None, (self._image, self._engine)):
            engine.begin_serving()

    def close(self) -> None:
        """See ``Engine.close``."""
        for engine in filter(None, (self._image, self._engine)):
            engine.close()


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
