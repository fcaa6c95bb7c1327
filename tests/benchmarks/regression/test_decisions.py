"""Decisions lost are those of each class's own threshold, then and now."""

from __future__ import annotations

import numpy as np
import pytest

from medprompt.benchmarks.regression.decisions import decision_check, thresholds_of
from medprompt.benchmarks.regression.verdict import Outcome
from medprompt.core.detections import Detections
from medprompt.core.manifest import Tolerance
from medprompt.prompts.schema import Prompts

LABELS = ("Polyp", "instrument")
TOLERANCE = Tolerance(max_score_delta=0.02, min_iou=0.99, min_kept=0.99)


def image(*found: tuple[int, float]) -> Detections:
    """Class and score of each box, which lie apart."""
    lefts = np.arange(len(found), dtype=np.float32) * 20
    return Detections(
        np.stack([lefts, lefts * 0, lefts + 10, lefts * 0 + 10], axis=1),
        np.array([score for _, score in found], dtype=np.float32),
        np.array([number for number, _ in found], dtype=np.int64),
        np.zeros(len(found), dtype=np.int64),
        LABELS,
        ("phrase",),
        (100, 100),
    )


def at(polyp: float, instrument: float) -> dict[str, float]:
    return {"polyp": polyp, "instrument": instrument}


ALIKE = ((0, 0.9), (1, 0.9))


@pytest.mark.parametrize(
    ("then", "now", "before", "after", "lost"),
    [
        (image(*ALIKE), image(*ALIKE), at(0.3, 0.3), at(0.3, 0.3), 0.0),
        (image(*ALIKE, (0, 0.1)), image(*ALIKE), at(0.05, 0.3), at(0.05, 0.3), 1 / 3),  # a polyp that is reported
        (image(*ALIKE, (1, 0.4)), image(*ALIKE), at(0.3, 0.7), at(0.3, 0.7), 0.0),  # an instrument that never was
        (image(*ALIKE), image(*ALIKE, (0, 0.1)), at(0.05, 0.3), at(0.05, 0.3), 1 / 2),  # a new one
        (image(*ALIKE, (0, 0.5)), image(*ALIKE, (0, 0.5)), at(0.3, 0.3), at(0.6, 0.3), 1 / 3),  # a threshold was raised
        (image(*ALIKE, (0, 0.5)), image(*ALIKE, (0, 0.5)), at(0.6, 0.3), at(0.3, 0.3), 1 / 2),  # and lowered
    ],
)
def test_decisions_lost(
    then: Detections, now: Detections, before: dict[str, float], after: dict[str, float], lost: float
) -> None:
    check = decision_check("set", [(then, now)] * 30, (before, after), TOLERANCE, 0.01)
    assert check.change == pytest.approx(lost)
    assert check.outcome is (Outcome.passed if lost == 0 else Outcome.failed)


def test_thresholds_of_a_file() -> None:
    classes = [{"label": "Polyp", "phrases": ["polyp"], "threshold": 0.1}, {"label": "instrument", "phrases": ["tool"]}]
    assert thresholds_of(Prompts.model_validate({"classes": classes}), 0.3) == at(0.1, 0.3)
