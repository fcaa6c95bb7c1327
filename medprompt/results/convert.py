"""Detections in the words of other tools: COCO, supervision, plain rows. Arrays and values only, nothing is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from medprompt.core.detections import Detections
from medprompt.core.errors import EngineError


def coco_records(
    detections: Detections, image_id: int, category_ids: Mapping[str, int] | None = None
) -> list[dict[str, Any]]:
    """As records of a COCO results file.

    Args:
        detections: What was found in one image.
        image_id: The image's id in the ground truth.
        category_ids: Id of each class; where None they count from 1 in the order of ``detections.labels``.

    Returns:
        One record a detection: ``image_id``, ``category_id``, ``bbox`` as left, top, width, height in source pixels,
        ``score``.

    Raises:
        KeyError: A class of a detection is not in ``category_ids``.
    """
    if category_ids is None:
        category_ids = {label: number for number, label in enumerate(detections.labels, start=1)}
    return [
        {
            "image_id": image_id,
            "category_id": category_ids[row["label"]],
            "bbox": _xywh(row["box_xyxy"]),
            "score": row["score"],
        }
        for row in detections.rows()
    ]


def plain_rows(detections: Detections) -> Iterator[dict[str, str | float]]:
    """As flat rows for a table: label, score, left, top, right, bottom (source pixels), phrase."""
    for row in detections.rows():
        left, top, right, bottom = row["box_xyxy"]
        box = {"left": left, "top": top, "right": right, "bottom": bottom}
        yield {"label": row["label"], "score": row["score"], **box, "phrase": row["phrase"]}


def supervision_fields(detections: Detections) -> dict[str, Any]:
    """As the fields of a ``supervision.Detections``, without that library.

    Returns:
        ``xyxy`` float32 ``[N, 4]``, ``confidence`` float32 ``[N]``, ``class_id`` int64 ``[N]``, and ``data`` with
        ``class_name`` and ``phrase``, str ``[N]`` each. The arrays are copies.
    """
    return {
        "xyxy": detections.boxes_xyxy.copy(),
        "confidence": detections.scores.copy(),
        "class_id": detections.class_ids.copy(),
        "data": {
            "class_name": _names(detections.labels, detections.class_ids.tolist()),
            "phrase": _names(detections.phrases, detections.phrase_ids.tolist()),
        },
    }


def supervision_detections(detections: Detections) -> Any:
    """As a ``supervision.Detections``.

    Raises:
        EngineError: supervision is not installed; medprompt itself does not need it.
    """
    try:
        from supervision import Detections as Theirs
    except ImportError as error:
        raise EngineError(
            "This conversion needs supervision, which is not installed.", fix="pip install supervision"
        ) from error
    return Theirs(**supervision_fields(detections))


def _names(names: tuple[str, ...], ids: list[int]) -> np.ndarray[Any, np.dtype[np.str_]]:
    return np.array([names[one] for one in ids], dtype=np.str_)


def _xywh(box_xyxy: list[float]) -> list[float]:
    left, top, right, bottom = box_xyxy
    return [left, top, round(right - left, 3), round(bottom - top, 3)]
