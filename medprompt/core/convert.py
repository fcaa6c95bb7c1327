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
    """As records of a COCO results file; where no ids of classes are given they count from 1, as ``labels`` stand.

    Returns:
        One record a detection: ``image_id``, ``category_id``, ``bbox`` as left, top, width, height in source pixels,
        ``score``; with a mask ``segmentation`` too, its run lengths.

    Raises:
        KeyError: A class of a detection is not in ``category_ids``.
    """
    if category_ids is None:
        category_ids = {label: number for number, label in enumerate(detections.labels, start=1)}
    records = []
    for row in detections.rows():
        left, top, right, bottom = row["box_xyxy"]
        bbox = [left, top, round(right - left, 3), round(bottom - top, 3)]
        category = category_ids[row["label"]]
        mask = {name: row[name] for name in ("segmentation",) if name in row}
        records.append({"image_id": image_id, "category_id": category, "bbox": bbox, "score": row["score"], **mask})
    return records


def plain_rows(detections: Detections) -> Iterator[dict[str, str | float]]:
    """As flat rows for a table: label, score, left, top, right, bottom (source pixels), phrase."""
    for row in detections.rows():
        box = dict(zip(("left", "top", "right", "bottom"), row["box_xyxy"], strict=True))
        yield {"label": row["label"], "score": row["score"], **box, "phrase": row["phrase"]}


def supervision_fields(detections: Detections) -> dict[str, Any]:
    """As the fields of a ``supervision.Detections``, without that library.

    Returns:
        ``xyxy`` float32 ``[N, 4]``, ``confidence`` float32 ``[N]``, ``class_id`` int64 ``[N]``, and ``data`` with
        ``class_name`` and ``phrase``, str ``[N]`` each; with masks ``mask``, bool ``[N, H, W]``. The arrays are
        copies.
    """
    masks = detections.masks
    pixels = {} if masks is None else {"mask": np.array(list(masks), dtype=bool).reshape(-1, *detections.size_hw)}
    return {
        "xyxy": detections.boxes_xyxy.copy(),
        "confidence": detections.scores.copy(),
        "class_id": detections.class_ids.copy(),
        "data": {
            "class_name": _names(detections.labels, detections.class_ids.tolist()),
            "phrase": _names(detections.phrases, detections.phrase_ids.tolist()),
        },
        **pixels,
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
