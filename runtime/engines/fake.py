"""An engine without a library, for tests: its answers follow from its inputs by a stated rule."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from medprompt.runtime.engines.base import DeviceEngine, ModelSource, closed

QUARTERS_XYXY = np.array([[0, 0, 0.5, 0.5], [0.5, 0, 1, 0.5], [0, 0.5, 0.5, 1], [0.5, 0.5, 1, 1]], dtype=np.float32)

QUARTER_MASKS = np.kron(np.eye(4, dtype=np.float32).reshape(4, 2, 2), np.ones((4, 4), dtype=np.float32))


class Fake(DeviceEngine):
    """Answers the four quarters of the image.

    Quarter i (left to right, top to bottom) has the score of its mean brightness over 255, class i modulo the
    number of classes, that class's phrase of most weight, and all its pixels as mask.
    """

    def __init__(self) -> None:
        self._open = True

    @classmethod
    def available(cls) -> str:
        """See ``DeviceEngine.available``."""
        return ""

    @classmethod
    def open(cls, model: ModelSource | Path, threads: int | None = None) -> Self:
        """See ``DeviceEngine.open``; the model is not read."""
        return cls()

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """See ``Engine.run``."""
        if not self._open:
            raise closed("fake")
        image, phrase_to_class = feeds["image"], feeds["phrase_to_class"]
        count = len(image)
        class_ids = np.arange(4, dtype=np.int64) % phrase_to_class.shape[1]
        phrase_ids = phrase_to_class.argmax(axis=0).astype(np.int64)[class_ids]
        return {
            "boxes_xyxy": np.tile(QUARTERS_XYXY, (count, 1, 1)),
            "scores": np.stack([_brightness(picture) for picture in image]),
            "class_ids": np.tile(class_ids, (count, 1)),
            "phrase_ids": np.tile(phrase_ids, (count, 1)),
            "masks": np.tile(QUARTER_MASKS, (count, 1, 1, 1)),
        }

    def close(self) -> None:
        """See ``Engine.close``."""
        self._open = False


def _brightness(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Mean over 255 of each quarter ``[4]``; an empty quarter of a one-pixel image counts as black."""
    middle_y, middle_x = (image.shape[0] + 1) // 2, (image.shape[1] + 1) // 2
    rows, columns = (slice(0, middle_y), slice(middle_y, None)), (slice(0, middle_x), slice(middle_x, None))
    quarters = [image[row, column] for row in rows for column in columns]
    return np.array([part.mean() / 255 if part.size else 0.0 for part in quarters], dtype=np.float32)
