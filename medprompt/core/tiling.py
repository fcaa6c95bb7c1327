"""Large images in overlapping tiles: where the tiles lie, and how their answers become one.

A detector sees every image at one size. A slide of 12,000 pixels shrunk to that size has lost its cells; cut into tiles
it has them at the scale that the model was trained at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from medprompt.core.boxes import area, intersection_matrix
from medprompt.core.detections import Detections
from medprompt.core.errors import InputError
from medprompt.core.masks import Masks
from medprompt.core.runs import shared_pixels

MERGE_IOS = 0.5
"""Two boxes of one class from different tiles are one object where they share more than this of the smaller one."""

EDGE_MARGIN_PX = 2.0
"""A box that ends this close to a tile's edge inside the image may be a part of its object."""


@dataclass(frozen=True)
class Tiling:
    """How an image is cut.

    Attributes:
        side: Of a tile in source pixels.
        overlap: Minimum share of its side that a tile shares with the next one: an object up to ``side * overlap`` long
            is whole in one of them.

    Raises:
        InputError: No side, or an overlap outside 0 … 0.9.
    """

    side: int
    overlap: float = 0.25

    def __post_init__(self) -> None:
        if self.side < 1 or not 0 <= self.overlap <= 0.9:
            raise InputError(
                "Invalid tile size or overlap.",
                where="tile, tile_overlap",
                expected="a side of 1 pixel or more, an overlap of 0 … 0.9",
                got=f"{self.side}, {self.overlap:g}",
            )

    def tiles(self, size_hw: tuple[int, int]) -> list[tuple[int, int, int, int]]:
        """Left, top, right, bottom of each tile, rows first; together they cover the image, and none leaves it."""
        rows, columns = (self._starts(length) for length in size_hw)
        height, width = size_hw
        return [
            (left, top, min(left + self.side, width), min(top + self.side, height)) for top in rows for left in columns
        ]

    def _starts(self, length: int) -> list[int]:
        """Evenly spread, so that the last tile ends where the image does."""
        last = max(0, length - self.side)
        steps = -(-last // max(1, int(self.side * (1 - self.overlap))))
        return [round(last * step / steps) for step in range(steps + 1)] if steps else [0]


def merge_tile_detections(
    found: Sequence[Detections], tiles: Sequence[tuple[int, int, int, int]], size_hw: tuple[int, int]
) -> Detections:
    """One answer from those of the tiles (``Tiling.tiles``), all of the same labels and phrases.

    Boxes move to image coordinates. Of boxes of one class and different tiles that share more than ``MERGE_IOS``
    of the smaller one, one stays: one that no tile's edge cuts before one that may be cut, then the better score. Boxes
    of one tile never drop each other: whether they may lie on each other is the bundle's own decision.

    Masks move likewise, and they decide: of one object are those of one class and different tiles that share more than
    ``MERGE_IOS`` of what the smaller one has in both tiles. A mask that no tile's edge cuts stays as it is; parts are
    united, and so are their boxes.
    """
    offsets = [np.array([left, top, left, top], dtype=np.float32) for left, top, _, _ in tiles]
    boxes = np.concatenate([one.boxes_xyxy + offset for one, offset in zip(found, offsets, strict=True)])
    origin = np.repeat(np.arange(len(found)), [len(one) for one in found])
    whole = Detections(
        boxes.astype(np.float32),
        np.concatenate([one.scores for one in found]),
        np.concatenate([one.class_ids for one in found]),
        np.concatenate([one.phrase_ids for one in found]),
        found[0].labels,
        found[0].phrases,
        size_hw,
        warnings=tuple(dict.fromkeys(text for one in found for text in one.warnings)),
        masks=_placed(found, tiles, size_hw),
    )
    cut = _cut(boxes, np.array(tiles, dtype=np.float32)[origin], size_hw)
    order = np.lexsort((-whole.scores, cut))
    if whole.masks is None:
        merged = whole[np.flatnonzero(_stays(whole, origin, order))]
    else:
        merged = _united(whole, whole.masks, _objects(whole, whole.masks, tiles, origin, order), cut)
    return merged[np.argsort(-merged.scores, kind="stable")]


def _placed(
    found: Sequence[Detections], tiles: Sequence[tuple[int, int, int, int]], size_hw: tuple[int, int]
) -> Masks | None:
    parts = [
        one.masks.placed(top, left, size_hw)
        for one, (left, top, _, _) in zip(found, tiles, strict=True)
        if one.masks is not None
    ]
    return Masks.joined(parts, size_hw) if parts else None


def _united(found: Detections, masks: Masks, objects: Sequence[Sequence[int]], cut: NDArray[np.bool_]) -> Detections:
    """One detection an object, the first of its rows: with all that they show, where that one may be cut."""
    parts = [list(rows) if cut[rows[0]] else [rows[0]] for rows in objects]
    boxes = [[*found.boxes_xyxy[rows, :2].min(axis=0), *found.boxes_xyxy[rows, 2:].max(axis=0)] for rows in parts]
    first = found[[rows[0] for rows in parts]]
    return replace(first, boxes_xyxy=np.array(boxes, dtype=np.float32).reshape(-1, 4), masks=masks.united(parts))


def _objects(
    found: Detections,
    masks: Masks,
    tiles: Sequence[tuple[int, int, int, int]],
    origin: NDArray[np.int64],
    order: NDArray[np.int64],
) -> list[list[int]]:
    """Rows that show one object, in the order of ``order``; no two of one tile."""
    in_tile = masks.intersections(Masks.of_boxes(np.array(tiles), found.size_hw))
    boxes, areas, shown = found.boxes_xyxy, area(found.boxes_xyxy), np.arange(len(found))

    def alike(row: int, other: int, shared_box: float) -> bool:
        if not (masks.areas[row] and masks.areas[other]):
            return bool(shared_box > MERGE_IOS * min(areas[row], areas[other]))
        (shared,) = shared_pixels(masks.spans[row], [masks.spans[other]])
        return bool(shared > MERGE_IOS * min(in_tile[row, origin[other]], in_tile[other, origin[row]]))

    for place, row in enumerate(order):
        others = order[:place][(found.class_ids[order[:place]] == found.class_ids[row])]
        shared = intersection_matrix(boxes[row : row + 1], boxes[others])[0]
        for other, shared_box in zip(others[shared > 0], shared[shared > 0], strict=True):
            mine, theirs = shown == shown[row], shown == shown[other]
            if not np.isin(origin[mine], origin[theirs]).any() and alike(row, other, shared_box):
                shown[mine] = shown[other]
    return [order[shown[order] == one].tolist() for one in dict.fromkeys(shown[order].tolist())]


def _cut(boxes: NDArray[np.float32], tiles: NDArray[np.float32], size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """Bool ``[N]``: which boxes end at an edge of their tile that is none of the image."""
    height, width = size_hw
    ends = np.array([0, 0, width, height], dtype=np.float32)
    near: NDArray[np.bool_] = (np.abs(boxes - tiles) < EDGE_MARGIN_PX) & (tiles != ends)
    beyond = np.concatenate([boxes[:, :2] < tiles[:, :2], boxes[:, 2:] > tiles[:, 2:]], axis=1) & (tiles != ends)
    cut: NDArray[np.bool_] = (near | beyond).any(axis=1)
    return cut


def _stays(found: Detections, origin: NDArray[np.int64], order: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Bool ``[N]``: greedy over ``order``, the boxes that come first first."""
    areas = area(found.boxes_xyxy)
    stays = np.ones(len(found), dtype=bool)
    done: list[int] = []
    for row in order:
        others = np.array(done, dtype=np.int64)
        others = others[(found.class_ids[others] == found.class_ids[row]) & (origin[others] != origin[row])]
        if len(others):
            shared = intersection_matrix(found.boxes_xyxy[row : row + 1], found.boxes_xyxy[others])[0]
            stays[row] = not (shared > MERGE_IOS * np.minimum(areas[row], areas[others])).any()
        if stays[row]:
            done.append(int(row))
    return stays
