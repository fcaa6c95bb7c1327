"""The check's answer: fits, differs, or too few to tell; in words that name the figure."""

from __future__ import annotations

import json

import numpy as np
import pytest

from medprompt.site.check import check_rows
from medprompt.site.image_statistics import IMAGE_STATISTICS
from tests.medprompt.site.records import COLUMNS, drawn_record, drawn_rows


@pytest.mark.parametrize(
    ("recorded", "here", "brighter", "outcome", "said"),
    [
        (60, 30, 0.0, "passed", "fits (p "),
        (60, 30, 20.0, "failed", "brightness higher: 1"),
        (60, 30, -20.0, "failed", "brightness lower"),
        (60, 9, 90.0, "no verdict", "at least 10 of each are needed"),
        (9, 60, 90.0, "no verdict", "at least 10 of each are needed"),
        (60, 0, 0.0, "no verdict", "0 images here"),
        (60, 10, 0.0, "no verdict", "too few images for a verdict"),
        (10, 60, 0.0, "no verdict", "with 10 recorded images no number here would do"),
        (60, 10, 40.0, "failed", "brightness higher"),
    ],
)
def test_outcomes(recorded: int, here: int, brighter: float, outcome: str, said: str) -> None:
    found = check_rows(drawn_record(recorded), drawn_rows(here, 1, brighter))
    assert (found.outcome, said in found.verdict) == (outcome, True), found.verdict
    assert json.loads(json.dumps(found.as_json(), allow_nan=False))["outcome"] == outcome
    assert bool(found.told) == (outcome == "failed")


def test_as_many_images_as_are_asked_for_have_a_verdict() -> None:
    said = check_rows(drawn_record(60), drawn_rows(10, 1)).verdict
    needed = int(said.rpartition("with ")[2].partition(" there")[0])
    assert 10 < needed <= 30
    assert check_rows(drawn_record(60), drawn_rows(needed + 1, 1)).outcome == "passed"


def test_a_site_that_varies_more() -> None:
    rows = drawn_rows(40, 1)
    rows[:, 2] = 100 + 5 * (rows[:, 2] - 100)
    found = check_rows(drawn_record(60), rows)
    assert found.told[0].startswith("brightness varies more: ")
    assert found.differences[0].outside > 0.3


def test_figures_that_no_longer_go_together_are_named() -> None:
    linked = np.random.default_rng(2).normal(100, 10, 100)
    there, here = drawn_rows(60), drawn_rows(40, 1)
    there[:, 2], here[:, 2] = linked[:60], linked[60:]
    there[:, 3], here[:, 3] = there[:, 2] + 0.2 * there[:, 3], here[:, 2] + 0.2 * here[:, 3] + 5
    record = drawn_record().model_copy(update={"rows": tuple(map(tuple, there.tolist()))})
    (said,) = check_rows(record, here).told
    assert said.startswith("no figure by itself")
    assert "brightness" in said and "contrast" in said


def test_the_detectors_figures_can_be_left_out() -> None:
    rows = drawn_rows(30, 1)
    rows[:, len(IMAGE_STATISTICS) :] += 100
    assert check_rows(drawn_record(), rows).outcome == "failed"
    found = check_rows(drawn_record(), rows, "other prompts")
    assert (found.outcome, len(found.differences)) == ("passed", len(IMAGE_STATISTICS))
    assert COLUMNS > len(IMAGE_STATISTICS)


def test_chance_differs_seldom() -> None:
    record = drawn_record()
    outcomes = [check_rows(record, drawn_rows(30, seed)).outcome for seed in range(1, 21)]
    assert outcomes.count("failed") <= 2
