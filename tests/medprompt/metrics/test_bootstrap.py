"""Intervals: reproducible, paired, honest about what cannot be measured."""

from __future__ import annotations

import json

import numpy as np
import pytest

from medprompt.metrics.bootstrap import MatchedSet, draw_images, figure_names
from medprompt.metrics.coco import measure_accuracy
from tests.medprompt.metrics.cases import found, labelled, random_set

A = (10, 10, 50, 50)


def test_every_draw_has_as_many_images_as_the_set() -> None:
    draws = draw_images(7, 50, seed=1)
    assert draws.shape == (50, 7)
    assert (draws.sum(axis=1) == 7).all()
    assert (draws == draw_images(7, 50, seed=1)).all()
    assert (draws != draw_images(7, 50, seed=2)).any()
    assert draw_images(0, 3).shape == (3, 0)


@pytest.mark.parametrize("seed", range(3))
def test_figures_are_those_of_coco(seed: int) -> None:
    truth, answers = random_set(seed, images=10, empty=3)
    measured, theirs = MatchedSet(truth, answers).resample(draw_images(10, 2)), measure_accuracy(truth, answers)
    values = dict(zip(measured.names, measured.values, strict=True))
    assert values["ap"] == pytest.approx(theirs.ap, abs=1e-12)
    assert values["ap50"] == pytest.approx(theirs.ap50, abs=1e-12)
    assert {name: values[f"ap50/{name}"] for name in truth.labels} == pytest.approx(theirs.ap50_by_label, abs=1e-12)


def test_intervals_hold_their_figure_and_narrow_with_more_images() -> None:
    widths = []
    for images in (10, 90):
        truth, answers = random_set(4, images=images)
        estimate = MatchedSet(truth, answers, (0.5,)).resample(draw_images(images, 200)).estimates()["ap50"]
        assert estimate.low <= estimate.value <= estimate.high
        widths.append(estimate.high - estimate.low)
    assert widths[1] < widths[0] / 1.5


def test_a_paired_difference_of_equals_is_exactly_nothing() -> None:
    truth, answers = random_set(5)
    draws = draw_images(8, 50)
    one, same = (MatchedSet(truth, answers).resample(draws) for _ in range(2))
    assert {(e.value, e.low, e.high) for e in one.less(same).values()} == {(0.0, 0.0, 0.0)}


def test_a_paired_difference_is_narrower_than_that_of_unpaired_draws() -> None:
    truth, answers = random_set(6, images=40)
    worse = [
        one[:0] if place < 8 else one for place, one in enumerate(answers)
    ]  # a fifth of the images answers nothing
    full, less = (MatchedSet(truth, side, (0.5,)) for side in (answers, worse))
    draws = draw_images(40, 200)
    paired = less.resample(draws).less(full.resample(draws))["ap50"]
    unpaired = less.resample(draws).less(full.resample(draw_images(40, 200, seed=1)))["ap50"]
    assert paired.value == unpaired.value < 0
    assert paired.high - paired.low < unpaired.high - unpaired.low


def test_a_class_without_labels_has_no_figure_and_does_not_pull_the_others_down() -> None:
    truth = labelled([(A, 0)], [(A, 0)])
    measured = MatchedSet(truth, [found([(A, 0, 0.9)])] * 2).resample(draw_images(2, 20)).estimates()
    assert measured["ap50"].value == measured["ap"].value == measured["sensitivity"].value == 1.0
    assert measured["ap50/WBC"].as_json() == {"value": None, "low": None, "high": None}


def test_draws_without_a_labelled_box_are_left_out() -> None:
    """With one labelled image of three, 30 % of the draws have no label: their sensitivity is unknown, not 0."""
    truth = labelled([(A, 0)], [], [])
    measured = MatchedSet(truth, [found([(A, 0, 0.9)]), found([]), found([])]).resample(draw_images(3, 100))
    assert np.isnan(measured.draws[:, 0]).any()
    assert measured.estimates()["ap"].low == pytest.approx(1.0)
    assert json.dumps({name: one.as_json() for name, one in measured.estimates().items()}, allow_nan=False)


def test_figures_are_named_in_order_and_mismatches_are_refused() -> None:
    names = figure_names(("RBC",))
    assert names[:4] == ("ap", "ap50", "sensitivity", "sensitivity@0.125")
    assert names[-2:] == ("ap50/RBC", "sensitivity/RBC")
    truth, answers = random_set(7)
    matched = MatchedSet(truth, answers)
    with pytest.raises(ValueError, match="same draws"):
        matched.resample(draw_images(8, 3)).less(matched.resample(draw_images(8, 4)))
    with pytest.raises(ValueError, match=r"expected 0\.5 first"):
        MatchedSet(truth, answers, (0.75,))
