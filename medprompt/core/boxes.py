"""Pure box functions. Boxes are float ``[N, 4]`` xyxy (left, top, right, bottom) unless a name says otherwise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]


def xyxy_from_cxcywh(boxes: Floats) -> Floats:
    """Convert ``[..., 4]`` centre-size boxes to corners, same unit.

    >>> xyxy_from_cxcywh(np.array([[5.0, 5.0, 2.0, 4.0]])).tolist()
    [[4.0, 3.0, 6.0, 7.0]]
    """
    half = boxes[..., 2:] / 2
    return np.concatenate([boxes[..., :2] - half, boxes[..., :2] + half], axis=-1)


def area(boxes_xyxy: Floats) -> Floats:
    """Area ``[N]`` of ``[N, 4]`` boxes; 0 for boxes turned inside out."""
    sides = np.clip(boxes_xyxy[:, 2:] - boxes_xyxy[:, :2], 0, None)
    return sides[:, 0] * sides[:, 1]


def intersection_matrix(a_xyxy: Floats, b_xyxy: Floats) -> Floats:
    """Area ``[N, M]`` that each of ``[N, 4]`` boxes shares with each of ``[M, 4]``."""
    top_left = np.maximum(a_xyxy[:, None, :2], b_xyxy[None, :, :2])
    bottom_right = np.minimum(a_xyxy[:, None, 2:], b_xyxy[None, :, 2:])
    shared: Floats = np.clip(bottom_right - top_left, 0, None).prod(axis=-1)
    return shared


def clipped_boxes(boxes_xyxy: Floats, size_hw: tuple[int, int]) -> NDArray[np.float64]:
    """Clip ``[N, 4]`` boxes to an image; what is no number stays so.

    >>> clipped_boxes(np.array([[-1.0, 2, 30, 4]]), (10, 20)).tolist()
    [[0.0, 2.0, 20.0, 4.0]]
    """
    height, width = size_hw
    return np.clip(boxes_xyxy.astype(np.float64), 0, [width, height, width, height])


def iou_matrix(a_xyxy: Floats, b_xyxy: Floats) -> Floats:
    """Intersection over union ``[N, M]`` of ``[N, 4]`` and ``[M, 4]`` boxes; 0 where both areas are 0.

    >>> iou_matrix(np.array([[0.0, 0, 2, 2]]), np.array([[1.0, 0, 3, 2], [5, 5, 6, 6]])).round(3).tolist()
    [[0.333, 0.0]]
    """
    intersection = intersection_matrix(a_xyxy, b_xyxy)
    union = area(a_xyxy)[:, None] + area(b_xyxy)[None, :] - intersection
    overlaps: Floats = np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)
    return overlaps


def nms(
    boxes_xyxy: Floats,
    scores: Floats,
    iou: float,
    class_ids: NDArray[np.int64] | None = None,
    pixel: tuple[float, float] = (0.0, 0.0),
) -> NDArray[np.int64]:
    """Greedy non-maximum suppression of ``[N, 4]`` boxes with ``[N]`` scores.

    A box that overlaps a better kept one by more than ``iou`` is dropped; where ``class_ids`` ``[N]`` are given, only
    if both are of one class. ``pixel`` is the width and height that the last pixel adds to each box, where corners name
    pixels.

    Returns:
        int64 indices of the kept boxes, best score first; ties keep the input's order.
    """
    order = np.argsort(-scores, kind="stable")
    boxes = boxes_xyxy[order] + np.array([0, 0, *pixel], dtype=boxes_xyxy.dtype)
    overlaps = iou_matrix(boxes, boxes) > iou
    if class_ids is not None:
        overlaps &= class_ids[order][:, None] == class_ids[order][None, :]
    alive = np.ones(len(order), dtype=bool)
    for rank in range(len(order)):
        if alive[rank]:
            alive[rank + 1 :] &= ~overlaps[rank, rank + 1 :]
    kept: NDArray[np.int64] = order[alive].astype(np.int64)
    return kept
