"""Detections in the words of other tools, with none, one and several detections."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np
import pytest

from medprompt.core.detections import Detections
from medprompt.core.errors import EngineError
from medprompt.results.convert import coco_records, plain_rows, supervision_detections, supervision_fields
from tests.medprompt.results.test_run import detections

NONE = detections([], [])
TWO = detections([[1, 2, 11, 22], [-3, 0, 5.25, 60]], [1, 0])


@pytest.mark.parametrize(
    ("found", "category_ids", "expected"),
    [
        (NONE, None, []),
        (NONE, {}, []),
        (TWO, None, [(2, [1, 2, 10, 20], 0.9), (1, [-3, 0, 8.25, 60], 0.5)]),
        (TWO, {"RBC": 7, "WBC": 3}, [(3, [1, 2, 10, 20], 0.9), (7, [-3, 0, 8.25, 60], 0.5)]),
    ],
)
def test_coco_records(found: Detections, category_ids: dict[str, int] | None, expected: list[Any]) -> None:
    records = coco_records(found, 5, category_ids)
    assert [(one["category_id"], one["bbox"], one["score"]) for one in records] == expected
    assert {one["image_id"] for one in records} <= {5}


def test_coco_records_of_an_unknown_class() -> None:
    with pytest.raises(KeyError, match="WBC"):
        coco_records(TWO, 1, {"RBC": 1})


def test_plain_rows() -> None:
    assert list(plain_rows(NONE)) == []
    assert list(plain_rows(TWO))[1] == {
        "label": "RBC",
        "score": 0.5,
        "left": -3,
        "top": 0,
        "right": 5.25,
        "bottom": 60,
        "phrase": "red cell",
    }


@pytest.mark.parametrize(("found", "count"), [(NONE, 0), (TWO, 2), (TWO[:1], 1)])
def test_supervision_fields(found: Detections, count: int) -> None:
    fields = supervision_fields(found)
    assert (fields["xyxy"].shape, fields["xyxy"].dtype) == ((count, 4), np.float32)
    assert fields["confidence"].tolist() == found.scores.tolist()
    assert fields["class_id"].tolist() == [1, 0][:count]
    assert fields["data"]["class_name"].tolist() == ["WBC", "RBC"][:count]
    assert fields["data"]["phrase"].tolist() == ["white cell", "red cell"][:count]
    fields["xyxy"][:] = 0
    assert not count or found.boxes_xyxy.any()


@pytest.mark.parametrize("found", [NONE, TWO])
def test_supervision(found: Detections) -> None:
    supervision = pytest.importorskip("supervision", reason="supervision is not installed; medprompt does not need it")
    theirs = supervision_detections(found)
    assert isinstance(theirs, supervision.Detections)
    assert len(theirs) == len(found)
    np.testing.assert_array_equal(theirs.xyxy, found.boxes_xyxy)
    assert theirs["class_name"].tolist() == [row["label"] for row in found.rows()]


def test_without_supervision(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str, *rest: Any) -> Any:
        if name == "supervision":
            raise ImportError(name)
        return real(name, *rest)

    real = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(EngineError, match="pip install supervision"):
        supervision_detections(TWO)
