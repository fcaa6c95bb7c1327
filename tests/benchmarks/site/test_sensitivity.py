"""Sensitivity from few images: intervals that hold, thresholds that do not judge themselves, how many it takes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from medprompt.benchmarks.site.sensitivity import (
    classes_at_thresholds,
    classes_recalibrated,
    images_for,
    needed_by_class,
    recalibrated_thresholds,
    sensitivity_of_images,
    student_95,
)
from medprompt.metrics.matching import Matches


@pytest.mark.parametrize(("freedom", "expected"), [(1, 12.706), (2, 4.303), (3, 3.182), (9, 2.262), (1000, 1.962)])
def test_student(freedom: int, expected: float) -> None:
    assert student_95(freedom) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(
    ("found", "boxes", "value", "low", "high"),
    [
        ([50] * 20, [100] * 20, 0.5, 0.47, 0.53),  # images alike: boxes count one by one
        ([100, 0] * 10, [100, 100] * 10, 0.5, 0.25, 0.75),  # an image is found or not: 20 draws
        ([5] * 4, [5] * 4, 1.0, 0.65, 1.0),  # all found: no interval without width
        ([0] * 4, [5] * 4, 0.0, 0.0, 0.35),
        ([3, 0], [4, 0], 0.75, 0.0, 1.0),  # one image with boxes says next to nothing
    ],
)
def test_intervals(found: list[int], boxes: list[int], value: float, low: float, high: float) -> None:
    estimate, effect = sensitivity_of_images(np.array(found), np.array(boxes))
    assert estimate.value == value
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=0.06)
    assert effect >= 1


def test_no_box_says_nothing() -> None:
    estimate, effect = sensitivity_of_images(np.zeros(3, np.int64), np.zeros(3, np.int64))
    assert math.isnan(estimate.value) and math.isnan(effect)


def test_intervals_hold_as_often_as_they_say() -> None:
    """Images of very different difficulty: intervals that took boxes for independent would hold far too seldom."""
    random, held = np.random.default_rng(0), 0
    for _ in range(400):
        difficulty = random.beta(4, 1.5, 12)  # mean 8 / 11
        boxes = random.integers(3, 30, 12)
        estimate, _ = sensitivity_of_images(random.binomial(boxes, difficulty), boxes)
        held += estimate.low <= 8 / 11 <= estimate.high
    assert 0.92 <= held / 400 <= 0.99


def matches_of(images: int, seed: int) -> Matches:
    """Two boxes an image, found with scores over 0.4 mostly; two mistakes under 0.6 mostly."""
    random = np.random.default_rng(seed)
    hits = np.tile([True, True, False, False], images)
    scores = np.where(hits, random.uniform(0.4, 1, 4 * images), random.uniform(0, 0.6, 4 * images))
    answers = np.full(4 * images, -1)
    answers[hits] = np.arange(2 * images)
    order = np.argsort(-scores)
    return Matches(
        labels=("cell", "absent"),
        image_count=images,
        images=np.repeat(np.arange(images), 4)[order],
        classes=np.zeros(4 * images, np.int64),
        scores=scores[order],
        boxes_xyxy=np.zeros((4 * images, 4)),
        answers=answers[order],
        box_images=np.repeat(np.arange(images), 2),
        box_classes=np.zeros(2 * images, np.int64),
        truth_xyxy=np.zeros((2 * images, 4)),
    )


def test_at_the_bundles_thresholds() -> None:
    cell, absent = classes_at_thresholds(matches_of(20, 0), (0.0, 0.5))
    assert (cell.boxes, cell.sensitivity.value, cell.false_positives.value) == (40, 1.0, 2.0)
    assert (absent.boxes, absent.false_positives.value) == (0, 0.0)
    assert absent.false_positives.high == pytest.approx(3 / 20)
    assert math.isnan(absent.sensitivity.value)


def test_recalibrated_thresholds_are_judged_on_other_images() -> None:
    """Thresholds that are chosen and judged on the same few images look better than they are."""
    flattered, judged = [], []
    for seed in range(40):
        matches = matches_of(8, seed)
        chosen = recalibrated_thresholds(matches)
        assert chosen[1] is None
        own = classes_at_thresholds(matches, (chosen[0] or 0.0, 1.0))[0]
        other = classes_recalibrated(matches)[0]
        assert other.threshold == chosen[0]
        flattered.append(own.sensitivity.value - own.false_positives.value)
        judged.append(other.sensitivity.value - other.false_positives.value)
    assert np.mean(flattered) > np.mean(judged) + 0.02


def test_images_needed() -> None:
    assert images_for(0.05, 0.0) is None
    assert images_for(0.05, 10) == 154  # 4 * 0.25 * (1.96 / 0.05) ** 2 / 10
    assert images_for(0.1, 10) == 39
    needed = dict(needed_by_class(classes_at_thresholds(matches_of(20, 0), (0.6, 0.5)), 20, 0.05))
    assert 20 < (needed["cell"] or 0) < 400
    assert needed["absent"] is None
    found_all = dict(needed_by_class(classes_at_thresholds(matches_of(20, 0), (0.0, 0.5)), 20, 0.05))
    assert (found_all["cell"] or 0) > 20  # all found so far: the variance is not 0 for that
