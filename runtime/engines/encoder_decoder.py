"""Two models on one device that are served as one: what the image alone decides, and what is asked of that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medprompt.runtime.engines.base import Engine

ROWS_AT_ONCE = 16
"""Boxes that the decoder is given together: each has a copy of the image's features. Not tuned: full size never ran."""


class EncoderDecoder:
    """An encoder and a decoder, loaded; it owns both. Threads may share it where they may share its engines."""

    def __init__(self, encoder: Engine, decoder: Engine) -> None:
        self._encoder, self._decoder = encoder, decoder

    @property
    def notes(self) -> tuple[str, ...]:
        """See ``Engine``."""
        return tuple(dict.fromkeys((*self._encoder.notes, *self._decoder.notes)))

    def begin_serving(self) -> None:
        """See ``Engine.begin_serving``."""
        self._encoder.begin_serving()
        self._decoder.begin_serving()

    def encode(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Features of an image.

        Raises:
            EngineError: See ``Engine.run``.
        """
        return self._encoder.run(feeds)

    def decode(self, features: Mapping[str, NDArray[Any]], name: str, rows: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """The decoder's outputs of all rows ``[N, …]`` of its input of this name, at least one.

        Raises:
            EngineError: See ``Engine.run``.
        """
        parts = [
            self._decoder.run({**features, name: rows[start : start + ROWS_AT_ONCE]})
            for start in range(0, len(rows), ROWS_AT_ONCE)
        ]
        return {output: np.concatenate([part[output] for part in parts]) for output in parts[0]}

    def close(self) -> None:
        """Free both. Closing twice is allowed."""
        self._encoder.close()
        self._decoder.close()
