"""The one result type: a struct of arrays, validated once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Detections:
    """Boxes found in one image, best score first.

    Attributes:
        boxes_xyxy: float32 ``[N, 4]``, left, top, right, bottom in source pixels.
        scores: float32 ``[N]`` in 0 … 1.
        class_ids: int64 ``[N]``, index into ``labels``.
        phrase_ids: int64 ``[N]``, index into ``phrases``: the phrase that answered.
        labels: The class names, what a report says.
        phrases: The phrases the model was told.
        size_hw: Height and width of the source image in pixels.

    Raises:
        ValueError: Arrays of unequal length, non-finite values or ids out of range.
    """

    boxes_xyxy: NDArray[np.float32]
    scores: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    phrase_ids: NDArray[np.int64]
    labels: tuple[str, ...]
    phrases: tuple[str, ...]
    size_hw: tuple[int, int]

    def __post_init__(self) -> None:
        count = len(self.scores)
        shapes = {
            "boxes_xyxy": (self.boxes_xyxy.shape, (count, 4)),
            "scores": (self.scores.shape, (count,)),
            "class_ids": (self.class_ids.shape, (count,)),
            "phrase_ids": (self.phrase_ids.shape, (count,)),
        }
        for name, (got, expected) in shapes.items():
            if got != expected:
                raise ValueError(f"{name}: expected shape {expected}, got {got}")
        if not (np.isfinite(self.boxes_xyxy).all() and np.isfinite(self.scores).all()):
            raise ValueError("boxes_xyxy and scores must be finite: the model returned NaN or Inf")
        for name, ids, names in (
            ("class_ids", self.class_ids, self.labels),
            ("phrase_ids", self.phrase_ids, self.phrases),
        ):
            if count and not (0 <= ids.min() and ids.max() < len(names)):
                raise ValueError(f"{name}: expected 0 … {len(names) - 1}, got {ids.min()} … {ids.max()}")

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: NDArray[np.bool_] | NDArray[np.int64] | slice) -> Detections:
        """Select detections by mask, index array or slice."""
        return Detections(
            self.boxes_xyxy[index],
            self.scores[index],
            self.class_ids[index],
            self.phrase_ids[index],
            self.labels,
            self.phrases,
            self.size_hw,
        )

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield each detection as plain JSON values: label, score, box_xyxy, phrase."""
        for box, score, class_id, phrase_id in zip(
            self.boxes_xyxy, self.scores, self.class_ids, self.phrase_ids, strict=True
        ):
            yield {
                "label": self.labels[class_id],
                "score": round(float(score), 6),
                "box_xyxy": [round(float(v), 3) for v in box],
                "phrase": self.phrases[phrase_id],
            }
