"""Calibration, box shift, recall by size and the operating point, by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from medprompt.metrics.matching import Ranked, match_detections
from medprompt.metrics.quality import (
    OperatingPoint,
    box_shift,
    calibration,
    operating_point,
    operating_points,
    recall_by_size,
)
from tests.medprompt.metrics.cases import found, labelled

A, B = (10, 10, 50, 50), (100, 100, 180, 180)


def answers(pairs: list[tuple[float, bool]]) -> Ranked:
    scores = np.array([score for score, _ in pairs])
    none = np.zeros(len(pairs), dtype=np.int64)
    return Ranked(none, scores, np.array([hit for _, hit in pairs], dtype=bool), none)


@pytest.mark.parametrize(
    ("pairs", "ece"),
    [
        ([(0.95, True)] * 19 + [(0.95, False)], 0.0),  # 95 % right at a score of 0.95
        ([(0.95, False)], 0.95),
        ([(0.25, True), (0.25, False), (0.75, True), (0.75, True)], 0.25),
        ([(1.0, True)], 0.0),
        ([(0.04, False)] * 100 + [(0.95, False)], 0.95),  # background counts for nothing
    ],
)
def test_expected_calibration_error(pairs: list[tuple[float, bool]], ece: float) -> None:
    assert calibration(answers(pairs)).ece == pytest.approx(ece)


def test_bins_of_a_reliability_diagram() -> None:
    bins = calibration(answers([(0.3, True), (0.3, False), (0.39, True), (1.0, True)])).as_json()["bins"]
    assert [row["count"] for row in bins] == [0, 0, 0, 3, 0, 0, 0, 0, 0, 1]
    assert bins[3]["precision"] == pytest.approx(2 / 3)
    assert (bins[0]["score"], bins[0]["precision"]) == (None, None)


def test_calibration_of_nothing_is_not_a_number() -> None:
    assert json.loads(json.dumps(calibration(answers([])).as_json(), allow_nan=False))["ece"] is None


def test_shift_of_true_positives_alone() -> None:
    truth = labelled([(A, 0), (B, 0)])
    matches = match_detections(
        truth, [found([((13, 14, 53, 54), 0, 0.9), (B, 0, 0.8), ((300, 300, 350, 350), 0, 0.7)])]
    )
    shift = box_shift(matches, matches.reported((0.0, 0.0)))
    assert shift.centres.tolist() == [5.0, 0.0]
    assert shift.sides.tolist() == [4.0, 0.0]
    content = shift.as_json()
    assert content["true_positives"] == 2
    assert content["centre_px"] == {"median": 2.5, "p95": pytest.approx(4.75)}
    assert box_shift(matches, matches.reported((1.0, 1.0))).as_json()["side_px"] == {"median": None, "p95": None}


def test_recall_by_size_of_the_reported() -> None:
    small, border, large = (0, 0, 31, 32), (100, 100, 132, 132), (200, 200, 296, 296)
    truth = labelled([(small, 0), (border, 0), (large, 1)])
    matches = match_detections(truth, [found([(small, 0, 0.2), (border, 0, 0.9), (large, 1, 0.9)])])
    table = recall_by_size(matches, matches.reported((0.5, 0.5)))
    assert table["small"] == {"labelled": 1, "found": 0, "recall": 0.0}
    assert table["medium"] == {"labelled": 1, "found": 1, "recall": 1.0}
    assert table["large"] == {"labelled": 1, "found": 1, "recall": 1.0}
    nothing = match_detections(labelled([]), [found([])])
    assert recall_by_size(nothing, nothing.reported((0, 0)))["small"]["recall"] is None


def test_operating_point_counts_at_each_classs_threshold() -> None:
    truth = labelled([(A, 0), (B, 1)], [])
    matches = match_detections(truth, [found([(A, 0, 0.4), (B, 1, 0.4)]), found([(A, 0, 0.9)])])
    point = operating_point(matches, (0.3, 0.5)).as_json()
    assert (point["true_positives"], point["false_positives"], point["missed"]) == (1, 1, 1)
    assert (point["sensitivity"], point["precision"], point["false_positives_an_image"]) == (0.5, 0.5, 0.5)
    assert operating_points(matches, (0.3, 0.5)) == dict(
        zip(matches.labels, (OperatingPoint(1, 1, 0, 2), OperatingPoint(0, 0, 1, 2)), strict=True)
    )
    nothing = match_detections(labelled(), [])
    assert operating_point(nothing, (0, 0)).as_json()["sensitivity"] is None
    assert {point.as_json()["precision"] for point in operating_points(nothing, (0, 0)).values()} == {None}
