"""The one result type: a struct of arrays, validated once, that also reads as a sequence of detections."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from medprompt.core.masks import Masks

if TYPE_CHECKING:
    from PIL.Image import Image

_ARRAYS = ("boxes_xyxy", "scores", "class_ids", "phrase_ids")
_NAMES = ("labels", "phrases", "size_hw")
_SHOWN = 5
"""Detections that ``repr`` spells out."""


@dataclass(frozen=True)
class Detection:
    """One box.

    Attributes:
        label: The class name, what a report says.
        score: In 0 … 1.
        box_xyxy: Left, top, right, bottom in source pixels.
        phrase: The phrase that answered.
        class_id: Index of the label among the requested classes.
        masks: Its own mask, as ``Masks`` of one; None where the model makes none.
    """

    label: str
    score: float
    box_xyxy: tuple[float, float, float, float]
    phrase: str
    class_id: int
    masks: Masks | None = field(default=None, repr=False, hash=False, kw_only=True)

    @property
    def mask(self) -> NDArray[np.bool_] | None:
        """The pixels of the object, bool ``[H, W]``, of the source image; decoded at each call."""
        return None if self.masks is None else self.masks[0]


@dataclass(frozen=True, eq=False, repr=False)
class Detections:
    """Boxes found in one image, best score first.

    Iterating, and an index that is a number, give a ``Detection``; a slice, a mask or an array of indices give
    ``Detections``. Equal are those of equal arrays, names and size; they have no hash.

    Attributes:
        boxes_xyxy: float32 ``[N, 4]``, left, top, right, bottom in source pixels.
        scores: float32 ``[N]`` in 0 … 1.
        class_ids: int64 ``[N]``, index into ``labels``.
        phrase_ids: int64 ``[N]``, index into ``phrases``: the phrase that answered.
        labels: The class names, what a report says.
        phrases: The phrases the model was prompted with.
        size_hw: Height and width of the source image in pixels.
        image_rgb: uint8 ``[H, W, 3]``, the image itself, for ``plot``. A detector keeps it where it read a file or a
            picture, and never in a run over many files: it would fill the memory.
        warnings: What a reader should know about how these were found, such as an image that was stretched.
        masks: The pixels of each, of the source image; None where the model makes none.

    Raises:
        ValueError: Arrays or masks of unequal length, masks of another size, non-finite values or ids out of range.
    """

    boxes_xyxy: NDArray[np.float32]
    scores: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    phrase_ids: NDArray[np.int64]
    labels: tuple[str, ...]
    phrases: tuple[str, ...]
    size_hw: tuple[int, int]
    image_rgb: NDArray[np.uint8] | None = field(default=None, kw_only=True)
    warnings: tuple[str, ...] = field(default=(), kw_only=True)
    masks: Masks | None = field(default=None, kw_only=True)

    __hash__ = None  # type: ignore[assignment]  # equality looks into arrays, which can change

    def __post_init__(self) -> None:
        count = len(self.scores)
        for name in _ARRAYS:
            got, expected = getattr(self, name).shape, (count, 4) if name == "boxes_xyxy" else (count,)
            if got != expected:
                raise ValueError(f"{name}: expected shape {expected}, got {got}")
        if not (np.isfinite(self.boxes_xyxy).all() and np.isfinite(self.scores).all()):
            raise ValueError("boxes_xyxy and scores must be finite: the model returned NaN or Inf")
        if self.masks is not None and (len(self.masks), self.masks.size_hw) != (count, tuple(self.size_hw)):
            raise ValueError(f"masks: expected {count} of {self.size_hw} pixels, got {self.masks!r}")
        for name, names in (("class_ids", self.labels), ("phrase_ids", self.phrases)):
            ids = getattr(self, name)
            if count and not (0 <= ids.min() and ids.max() < len(names)):
                raise ValueError(f"{name}: expected 0 … {len(names) - 1}, got {ids.min()} … {ids.max()}")

    @classmethod
    def empty(cls, labels: Sequence[str], phrases: Sequence[str], size_hw: tuple[int, int]) -> Detections:
        """Nothing found in an image of this height and width."""
        none = np.zeros(0, dtype=np.int64)
        boxes, scores = np.zeros((0, 4), dtype=np.float32), np.zeros(0, dtype=np.float32)
        return cls(boxes, scores, none, none, tuple(labels), tuple(phrases), size_hw)

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Detection]:
        return map(self._one, range(len(self)))

    @overload
    def __getitem__(self, index: int | np.integer[Any]) -> Detection: ...
    @overload
    def __getitem__(
        self, index: NDArray[np.bool_] | NDArray[np.integer[Any]] | slice | Sequence[int]
    ) -> Detections: ...
    def __getitem__(self, index: Any) -> Detection | Detections:
        """One detection by its number, or several by mask, index array or slice."""
        if isinstance(index, int | np.integer):
            return self._one(range(len(self))[index])
        if not isinstance(index, slice):
            index = np.asarray(index)
            index = index if index.size else index.astype(bool if index.dtype == bool else np.int64)
        masks = None if self.masks is None else self.masks[index]
        return replace(self, **{name: getattr(self, name)[index] for name in _ARRAYS}, masks=masks)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Detections):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in (*_NAMES, "masks")) and all(
            np.array_equal(getattr(self, name), getattr(other, name)) for name in _ARRAYS
        )

    def __repr__(self) -> str:
        height, width = self.size_hw
        shown = [f"{one.label} {one.score:.3f} {[round(side, 1) for side in one.box_xyxy]}" for one in self[:_SHOWN]]
        more = [f"and {len(self) - _SHOWN} more"] if len(self) > _SHOWN else []
        return f"<{len(self)} detections in {width} x {height} pixels{': ' * bool(shown)}{'; '.join([*shown, *more])}>"

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield each detection as plain JSON values: label, score, box_xyxy, phrase; with a mask segmentation (RLE)."""
        for one in self:
            yield {
                "label": one.label,
                "score": round(one.score, 6),
                "box_xyxy": [round(side, 3) for side in one.box_xyxy],
                "phrase": one.phrase,
                **({} if one.masks is None else {"segmentation": one.masks.rle(0)}),
            }

    def plot(self, image_rgb: NDArray[np.uint8] | Image | None = None) -> Image:
        """Draw the boxes and masks into the image: a Pillow picture, which notebooks show and ``save`` writes.

        Args:
            image_rgb: uint8 ``[H, W, 3]`` or a Pillow picture; not needed where the detections keep their own.

        Raises:
            ValueError: There is no image, or it has another size.
        """
        from medprompt.core.overlay import draw_overlay

        image = self.image_rgb if image_rgb is None else np.asarray(image_rgb)
        if image is None:
            raise ValueError("plot: detections found in an array keep no image: pass plot(image_rgb)")
        if image.shape != (*self.size_hw, 3):
            raise ValueError(f"image_rgb: expected shape {(*self.size_hw, 3)}, got {image.shape}")
        return draw_overlay(image, self)

    def to_supervision(self) -> Any:
        """As a ``supervision.Detections``, which draws, counts and tracks.

        Raises:
            EngineError: supervision is not installed; medprompt itself does not need it.
        """
        from medprompt.core.convert import supervision_detections

        return supervision_detections(self)

    def _one(self, index: int) -> Detection:
        left, top, right, bottom = map(float, self.boxes_xyxy[index])
        class_id = int(self.class_ids[index])
        phrase = self.phrases[self.phrase_ids[index]]
        box, masks = (left, top, right, bottom), None if self.masks is None else self.masks[index : index + 1]
        return Detection(self.labels[class_id], float(self.scores[index]), box, phrase, class_id, masks=masks)
