"""Decision-level parity: what counts as kept, what as extra, and that nothing compared is a failure."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medprompt.core.detections import Detections
from medprompt.core.manifest import Tolerance
from medprompt.core.masks import Masks
from medprompt.metrics.agreement import ImageParity, check_decisions, combine, compare_detections

TOLERANCE = Tolerance()
Row = tuple[float, float, float, int]


def detections(*rows: Row) -> Detections:
    """Rows of (left, score, width, class id); boxes start at y = 0 and are 100 high."""
    table = np.array(rows, dtype=np.float64).reshape(-1, 4)
    left, score, width, class_ids = table.T
    boxes = np.stack([left, np.zeros_like(left), left + width, np.full_like(left, 100.0)], axis=1)
    ids = class_ids.astype(np.int64)
    return Detections(boxes.astype(np.float32), score.astype(np.float32), ids, ids, ("a", "b"), ("p", "q"), (100, 4000))


A: Row = (0, 0.9, 100, 0)
B: Row = (200, 0.6, 100, 1)


@pytest.mark.parametrize(
    ("reference", "candidate", "decisions", "kept", "extra"),
    [
        pytest.param([], [], 0, 0, 0, id="both empty"),
        pytest.param([], [A], 0, 0, 1, id="reference empty"),
        pytest.param([A, B], [], 2, 0, 0, id="candidate empty"),
        pytest.param([A, B], [A, B], 2, 2, 0, id="equal"),
        pytest.param([A, B], [B, A], 2, 2, 0, id="ranks swapped"),
        pytest.param([A, B], [(0, 0.9, 100, 1), (200, 0.6, 100, 0)], 2, 0, 2, id="classes swapped"),
        pytest.param([A], [(2, 0.9, 100, 0)], 1, 1, 0, id="shifted by 2 of 100: IoU 0.961"),
        pytest.param([A], [(3, 0.9, 100, 0)], 1, 0, 1, id="shifted by 3 of 100: IoU 0.942"),
        pytest.param([A], [(0, 0.895, 100, 0)], 1, 1, 0, id="score off by 0.005"),
        pytest.param([A], [(0, 0.88, 100, 0)], 1, 0, 1, id="score off by 0.02"),
        pytest.param([A, A], [A], 2, 1, 0, id="one answer serves one duplicate"),
        pytest.param([A], [A, A], 1, 1, 1, id="a duplicate answer is extra"),
        pytest.param([(0, 0.201, 100, 0)], [(0, 0.195, 100, 0)], 1, 1, 0, id="border: answer just below"),
        pytest.param([(0, 0.195, 100, 0)], [(0, 0.201, 100, 0)], 0, 0, 0, id="border: extra just above"),
        pytest.param([(0, 0.2, 100, 0)], [(0, 0.2, 100, 0)], 1, 1, 0, id="float32 0.2 is over 0.2"),
        pytest.param([(0, 0.1, 100, 0)], [(0, 0.5, 100, 0)], 0, 0, 1, id="raised above the threshold"),
        pytest.param([(0, 0.9, 0, 0)], [(0, 0.9, 0, 0)], 1, 1, 0, id="a box without area matches itself"),
    ],
)
def test_compare(reference: list[Row], candidate: list[Row], decisions: int, kept: int, extra: int) -> None:
    found = compare_detections(detections(*reference), detections(*candidate), 0.2, TOLERANCE)
    assert (found.decisions, len(found.ious), found.extra) == (decisions, kept, extra)


def test_best_score_asks_first_and_takes_the_nearest_box() -> None:
    reference = detections((0, 0.90, 100, 0), (1, 0.895, 100, 0))
    candidate = detections((1, 0.90, 100, 0), (0, 0.895, 100, 0))
    found = compare_detections(reference, candidate, 0.2, TOLERANCE)
    np.testing.assert_allclose(found.ious, [1.0, 1.0])
    np.testing.assert_allclose(found.score_deltas, [0.005, 0.005], atol=1e-6)


def many(count: int, score: float = 0.5) -> list[Row]:
    return [(200.0 * i, score, 100, i % 2) for i in range(count)]


@pytest.mark.parametrize(
    ("lost", "kept", "passed"), [(0, 1.0, True), (1, 0.995, True), (2, 0.99, False), (200, 0.0, False)]
)
def test_share_kept_decides(lost: int, kept: float, passed: bool) -> None:
    rows = many(200)
    record = check_decisions([(detections(*rows), detections(*rows[lost:]))], 0.2, TOLERANCE, "x")
    assert (record.decisions, record.kept, record.extra, record.passed) == (200, kept, 0, passed)
    assert record.fallback_top == 0


@pytest.mark.parametrize(("extra", "passed"), [(0, True), (1, True), (2, False)])
def test_extra_detections_decide_too(extra: int, passed: bool) -> None:
    rows = many(200)
    wrong: list[Row] = [(200.0 * i, 0.5, 10, 0) for i in range(extra)]
    record = check_decisions([(detections(*rows), detections(*rows, *wrong))], 0.2, TOLERANCE, "x")
    assert (record.kept, record.extra, record.passed) == (1.0, extra, passed)


def test_few_decisions_fall_back_to_the_best_of_each_image() -> None:
    low = detections(*[(200.0 * i, 0.1 - 0.001 * i, 100, 0) for i in range(30)])
    record = check_decisions([(low, low), (low, low)], 0.2, TOLERANCE, "x")
    assert (record.fallback_top, record.decisions, record.kept, record.passed) == (20, 40, 1.0, True)


def test_fallback_notices_a_lost_detection() -> None:
    low = detections(*many(10, score=0.05))
    record = check_decisions([(low, low[1:])], 0.2, TOLERANCE, "x")
    assert (record.fallback_top, record.decisions, record.kept, record.passed) == (20, 10, 0.9, False)


@pytest.mark.parametrize("pairs", [[], [(detections(), detections())], [(detections(), detections(A))]])
def test_nothing_compared_is_a_failure(pairs: list[tuple[Detections, Detections]]) -> None:
    record = check_decisions(pairs, 0.2, TOLERANCE, "x")
    assert (record.decisions, record.kept, record.passed) == (0, 0.0, False)


def test_combine_sums_the_images() -> None:
    first = ImageParity(3, np.array([1.0, 0.97]), np.array([0.0, 0.004]), 1)
    second = ImageParity(1, np.array([0.99]), np.array([0.002]), 0)
    record = combine([first, second], 0.3, TOLERANCE, "two")
    assert (record.images, record.decisions, record.kept, record.extra) == (2, 4, 0.75, 1)
    assert record.min_iou == 0.97
    assert record.max_score_delta == 0.004
    assert record.mean_score_delta == pytest.approx(0.002)
    assert not record.passed


BOX = st.tuples(st.integers(0, 500), st.floats(0, 1, width=32), st.integers(1, 300), st.integers(0, 1))


@given(st.lists(BOX, max_size=20))
def test_detections_always_agree_with_themselves(rows: list[Row]) -> None:
    same = detections(*rows)
    found = compare_detections(same, same, 0.2, TOLERANCE)
    assert len(found.ious) == found.decisions
    assert found.extra == 0


@given(st.lists(BOX, max_size=12), st.lists(BOX, max_size=12))
def test_kept_never_exceeds_what_was_asked(reference: list[Row], candidate: list[Row]) -> None:
    found = compare_detections(detections(*reference), detections(*candidate), 0.2, TOLERANCE)
    assert len(found.ious) == len(found.score_deltas) <= found.decisions
    assert 0 <= found.extra <= len(candidate)


@pytest.mark.parametrize(
    ("reference", "candidate", "decisions", "kept", "extra"),
    [
        # four tie at the reference's last score; the candidate has room for two, whichever
        ([(n * 200, 0.9, 100, 0) for n in range(4)], [(200, 0.9, 100, 0), (600, 0.9, 100, 0)], 2, 2, 0),
        ([(n * 200, 0.9, 100, 0) for n in range(4)], [(200, 0.9, 100, 0), (900, 0.9, 100, 0)], 2, 1, 1),
        # no tie: what the candidate lacks is missing
        ([(0, 0.9, 100, 0), (200, 0.8, 100, 0), (400, 0.7, 100, 0)], [(0, 0.9, 100, 0)], 3, 1, 0),
        # a tie under the threshold forgives nothing
        ([(0, 0.9, 100, 0), (200, 0.9, 100, 0), (400, 0.1, 9, 0), (600, 0.1, 9, 0)], [(0, 0.9, 100, 0)], 2, 1, 0),
        # one of a tie must always be there
        ([(0, 0.9, 100, 0), (200, 0.9, 100, 0)], [], 1, 0, 0),
    ],
)
def test_ties_at_the_cut(reference: list[Row], candidate: list[Row], decisions: int, kept: int, extra: int) -> None:
    found = compare_detections(detections(*reference), detections(*candidate), 0.2, TOLERANCE, len(candidate))
    assert (found.decisions, len(found.ious), found.extra) == (decisions, kept, extra)


def test_a_list_that_is_not_full_is_forgiven_nothing() -> None:
    reference = detections(*[(n * 200, 0.9, 100, 0) for n in range(4)])
    found = compare_detections(reference, reference[:2], 0.2, TOLERANCE, 3)
    assert (found.decisions, len(found.ious)) == (4, 2)


def masked(rows: list[Row], *wide: int) -> Detections:
    """With masks from each box's left, as wide as said."""
    found, columns = detections(*rows), np.arange(4000)
    lefts = [row[0] for row in rows]
    lines = [(columns >= left) & (columns < left + width) for left, width in zip(lefts, wide, strict=True)]
    pixels = np.array(lines, dtype=bool).reshape(-1, 1, 4000)
    return replace(found, masks=Masks.of(np.repeat(pixels, 100, axis=1)))


PLAIN, MASKED = detections(A, B), masked([A, B], 100, 100)


@pytest.mark.parametrize(
    ("reference", "candidate", "kept", "extra"),
    [
        pytest.param(MASKED, MASKED, 2, 0, id="equal"),
        pytest.param(MASKED, masked([B, A], 100, 100), 2, 0, id="ranks swapped"),
        pytest.param(MASKED, masked([A, B], 99, 98), 2, 0, id="just alike"),
        pytest.param(MASKED, masked([A, B], 100, 97), 1, 1, id="boxes agree, and one mask differs"),
        pytest.param(MASKED, masked([A, B], 0, 0), 0, 2, id="boxes agree, and masks are empty"),
        pytest.param(masked([A, B], 0, 100), masked([A, B], 0, 100), 2, 0, id="an empty mask is like another"),
        pytest.param(MASKED, PLAIN, 0, 2, id="the candidate has no masks"),
        pytest.param(PLAIN, MASKED, 2, 0, id="the reference has none"),
        pytest.param(masked([]), masked([]), 0, 0, id="nothing"),
    ],
)
def test_masks_count_where_the_reference_has_some(
    reference: Detections, candidate: Detections, kept: int, extra: int
) -> None:
    found = compare_detections(reference, candidate, 0.2, TOLERANCE)
    assert (len(found.ious), found.extra) == (kept, extra)


@pytest.mark.parametrize(
    ("reference", "candidate", "least", "passed"),
    [
        (MASKED, masked([A, B], 99, 100), 0.99, True),
        (MASKED, masked([A, B], 90, 90), 0.0, False),
        (MASKED, masked([A, B], 100, 90), 1.0, False),
        (PLAIN, MASKED, None, True),
    ],
)
def test_a_record_states_the_least_overlap_of_masks(
    reference: Detections, candidate: Detections, least: float | None, passed: bool
) -> None:
    record = check_decisions([(reference, candidate)], 0.2, TOLERANCE, "x")
    assert (record.min_mask_iou, record.passed) == (pytest.approx(least), passed)


def test_tolerance_of_masks_can_be_loosened() -> None:
    loose = TOLERANCE.model_copy(update={"min_mask_iou": 0.9})
    assert check_decisions([(MASKED, masked([A, B], 90, 90))], 0.2, loose, "x").passed
