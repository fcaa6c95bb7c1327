"""FROC and average precision by hand; test_against_pycocotools.py compares them with COCO's."""

from __future__ import annotations

import json

import numpy as np
import pytest

from medprompt.metrics.curves import (
    average_precision,
    every_image_once,
    froc,
    precision_recall_points,
)
from medprompt.metrics.matching import Ranked, match_detections
from tests.medprompt.metrics.cases import random_set


def ranked(rows: str, labelled: int, images: int = 2, scores: list[float] | None = None) -> Ranked:
    """Rows such as ``"1 0 0"``, best first: 1 is a hit; detections and labelled boxes go to the images in turn."""
    hits = np.array([row == "1" for row in rows.split()], dtype=bool)
    values = np.linspace(0.9, 0.1, len(hits)) if scores is None else np.array(scores)
    return Ranked(np.arange(len(hits)) % images, values, hits, np.arange(labelled) % images)


@pytest.mark.parametrize(
    ("rows", "labelled", "scores", "sensitivities"),
    [
        # 2 images: a false positive is half a false positive an image.
        ("1 1 0 1 0 0 1", 4, None, [0.5, 0.5, 0.75, 0.75, 1.0]),
        ("0 1", 1, None, [0.0, 0.0, 1.0, 1.0, 1.0]),  # nothing before the first false positive
        ("1 0 1 0", 2, [0.9, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 1.0, 1.0]),  # equal scores come together or not at all
        ("", 3, None, [0.0] * 5),
        ("0 0", 3, None, [0.0] * 5),
        ("1 1", 2, None, [1.0] * 5),
    ],
)
def test_froc_by_hand(rows: str, labelled: int, scores: list[float] | None, sensitivities: list[float]) -> None:
    curve = froc(ranked(rows, labelled, scores=scores), every_image_once(2), (0.125, 0.25, 0.5, 1.0, 4.0))
    assert curve.sensitivities.tolist() == sensitivities
    assert curve.mean == pytest.approx(np.mean(sensitivities))


def test_froc_says_from_which_score_to_report_and_where_it_ends() -> None:
    curve = froc(ranked("0 1 0", 1, scores=[0.9, 0.8, 0.7]), every_image_once(2), (0.25, 0.5, 1.0))
    assert np.isnan(curve.thresholds[0])
    assert curve.thresholds[1:].tolist() == [0.8, 0.7]
    assert curve.reached == 1.0
    content = json.loads(json.dumps(curve.as_json(), allow_nan=False))
    assert content["points"][0] == {"false_positives_an_image": 0.25, "sensitivity": 0.0, "threshold": None}


def test_froc_without_labels_is_not_a_number() -> None:
    curve = froc(ranked("0", 0), every_image_once(2))
    assert np.isnan(curve.sensitivities).all()
    assert curve.as_json()["mean_sensitivity"] is None


@pytest.mark.parametrize(
    ("rows", "labelled", "value"),
    [
        ("1 1", 2, 1.0),
        ("1 0 1", 2, (51 + 50 * 2 / 3) / 101),  # precision 1 up to recall 0.5, then 2/3
        ("0", 2, 0.0),
        ("", 2, 0.0),
        ("1", 2, 51 / 101),
    ],
)
def test_average_precision_by_hand(rows: str, labelled: int, value: float) -> None:
    assert average_precision(ranked(rows, labelled), every_image_once(2)) == pytest.approx(value)


def test_average_precision_without_labels_is_not_a_number() -> None:
    assert np.isnan(average_precision(ranked("0", 0), every_image_once(2)))


def test_weights_are_repetitions() -> None:
    """An image counted three times is three equal images, one counted never is none."""
    truth, answers = random_set(3, images=5)
    weights = np.array([1, 0, 3, 1, 0])
    order = np.repeat(np.arange(5), weights)
    repeated = type(truth)("set", truth.labels, tuple(truth.images[place] for place in order))
    drawn = match_detections(repeated, [answers[place] for place in order])
    whole = match_detections(truth, answers)
    ones = every_image_once(5)
    assert np.allclose(froc(whole.ranked, weights).sensitivities, froc(drawn.ranked, ones).sensitivities)
    for mine, theirs in zip(whole.by_class, drawn.by_class, strict=True):
        # Of equal scores COCO takes one detection after the other: their order among repeated images differs.
        assert average_precision(mine, weights) == pytest.approx(average_precision(theirs, ones), abs=0.02)


def test_points_for_plots_are_measured_and_few() -> None:
    points = precision_recall_points(ranked("1 0 1", 4, scores=[0.9, 0.5, 0.5]))
    assert points == {"recall": [0.25, 0.5], "precision": [1.0, 2 / 3], "threshold": [0.9, 0.5]}
    many = precision_recall_points(ranked("1 " * 500, 500), limit=50)
    assert (len(many["recall"]), many["recall"][-1]) == (50, 1.0)
    assert precision_recall_points(ranked("0", 0))["recall"] == []
    assert precision_recall_points(ranked("", 2))["recall"] == []
