"""Matching, on cases that can be done by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from medprompt.metrics.matching import Matcher, match_detections
from tests.medprompt.metrics.cases import Found, Row, found, labelled, random_set

A, B = (10, 10, 50, 50), (100, 100, 180, 180)
A_LOW = (10, 10, 50, 40)  # IoU 0.75 with A
A_HALF = (10, 10, 50, 30)  # IoU 0.5 with A, exactly
A_LESS = (10, 10, 50, 29)  # IoU 0.475 with A


@pytest.mark.parametrize(
    ("truth", "answers", "hits"),
    [
        ([], [], []),
        ([(A, 0)], [], []),
        ([], [(A, 0, 0.9)], [False]),
        ([(A, 0)], [(A, 0, 0.9)], [True]),
        ([(A, 0)], [(A, 1, 0.9)], [False]),  # the right box under the wrong name
        ([(A, 0)], [(A_HALF, 0, 0.9)], [True]),
        ([(A, 0)], [(A_LESS, 0, 0.9)], [False]),
        ([(A, 0)], [(A_LOW, 0, 0.9), (A, 0, 0.8)], [True, False]),  # the better score takes it, not the better box
        ([(A, 0), (A, 0)], [(A, 0, 0.9), (A, 0, 0.8), (A, 0, 0.7)], [True, True, False]),
        ([(A, 0), (A, 1)], [(A, 0, 0.9), (A, 1, 0.9)], [True, True]),  # classes do not compete
        (
            [(A, 0), (B, 0)],
            [(A, 0, 0.5), (A_LOW, 0, 0.5), (B, 0, 0.5)],
            [True, False, True],
        ),  # equal scores: first listed
    ],
)
def test_one_image(truth: Sequence[Row], answers: Sequence[Found], hits: list[bool]) -> None:
    assert match_detections(labelled(truth), [found(answers)]).hits.tolist() == hits


def test_each_detection_takes_the_box_it_overlaps_most() -> None:
    matches = match_detections(labelled([(A, 0), (A_LOW, 0)]), [found([(A_LOW, 0, 0.9), (A_LOW, 0, 0.8)])])
    assert matches.answers.tolist() == [1, 0]


def test_images_do_not_mix_and_rows_are_ranked_over_the_set() -> None:
    truth = labelled([(A, 0)], [], [(A, 0), (B, 1)])
    answers = [found([(B, 0, 0.2)]), found([(A, 0, 0.9)]), found([(B, 1, 0.5), (A, 0, 0.2)])]
    matches = match_detections(truth, answers)
    assert matches.images.tolist() == [1, 2, 0, 2]
    assert matches.answers.tolist() == [-1, 2, -1, 1]
    assert matches.box_images.tolist() == [0, 2, 2]
    assert matches.image_count == 3
    reported = matches.reported((0.3, 0.5))
    assert reported.tolist() == [True, True, False, False]
    assert matches.found(reported).tolist() == [False, False, True]
    assert [len(ranked.images) for ranked in matches.by_class] == [3, 1]


def test_names_count_not_numbers_and_unknown_names_are_left_out() -> None:
    answers = found([(A, 2, 0.9), (B, 0, 0.8), (B, 1, 0.7)], labels=("polyp", "wbc", "rbc"))
    matches = match_detections(labelled([(A, 0), (B, 1)]), [answers])
    assert matches.hits.tolist() == [True, True]
    assert matches.classes.tolist() == [0, 1]


def test_no_more_than_the_cap_of_each_class_count() -> None:
    answers = found([(A, 0, 0.9)] * 310 + [(B, 1, 0.1)] * 2)
    matches = match_detections(labelled([(B, 1)]), [answers])
    assert np.bincount(matches.classes).tolist() == [300, 2]


def test_no_images_and_another_number_of_them() -> None:
    matches = match_detections(labelled(), [])
    assert (matches.image_count, len(matches.scores), matches.truth_xyxy.shape) == (0, 0, (0, 4))
    with pytest.raises(ValueError, match="1 images, got 0"):
        Matcher(labelled([(A, 0)]), [])


@pytest.mark.parametrize("seed", range(5))
def test_lower_scores_never_change_what_higher_ones_got(seed: int) -> None:
    truth, answers = random_set(seed)
    whole = match_detections(truth, answers)
    cut = match_detections(truth, [one[one.scores >= 0.5] for one in answers])
    assert cut.answers.tolist() == whole.answers[whole.scores >= 0.5].tolist()
