"""Decisions of the baseline that a release no longer makes, each by the threshold of its class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from medprompt.benchmarks.accuracy.predictions import short_name
from medprompt.benchmarks.regression.verdict import Check, exact
from medprompt.core.detections import Detections
from medprompt.core.manifest import Tolerance
from medprompt.metrics.agreement import MIN_DECISIONS, check_decisions, compare_detections, under_labels
from medprompt.prompts.schema import Prompts


def thresholds_of(prompts: Prompts, default: float) -> dict[str, float]:
    """Least score of a decision, by class name in lower case."""
    return {
        entry.label.casefold(): default if entry.threshold is None else entry.threshold for entry in prompts.classes
    }


def decision_check(
    name: str,
    pairs: Sequence[tuple[Detections, Detections]],
    thresholds: tuple[dict[str, float], dict[str, float]],
    tolerance: Tolerance,
    limit: float,
) -> Check:
    """Compare each image's detections then and now, all with their low scores, by the ``thresholds`` then and now.

    Returns:
        The share of decisions that are not found again, or of new ones, whichever is more; not a number without any.
    """
    both = [(then, under_labels(found, then.labels)) for then, found in pairs]
    before, after = thresholds
    decisions, lost = _unanswered(both, before, after, tolerance)
    _, new = _unanswered([(found, then) for then, found in both], after, before, tolerance)
    if decisions < MIN_DECISIONS:
        record = check_decisions(both, float("inf"), tolerance, name)  # of the best of each image
        decisions, lost, new = record.decisions, round((1 - record.kept) * record.decisions), record.extra
    share = max(lost, new) / decisions if decisions else float("nan")
    return exact(f"decisions lost, {short_name(name)}", share, limit, decisions, "decisions")


def _unanswered(
    pairs: Sequence[tuple[Detections, Detections]],
    own: Mapping[str, float],
    others: Mapping[str, float],
    tolerance: Tolerance,
) -> tuple[int, int]:
    """How many decisions the first of each pair makes, and how many of them the second does not.

    A score within tolerance under the other's threshold may answer, as in ``compare_detections``.
    """
    decisions = lost = 0
    for first, second in pairs:
        for number, label in enumerate(map(str.casefold, first.labels)):
            answers = second[
                (second.class_ids == number) & (second.scores >= others[label] - tolerance.max_score_delta)
            ]
            found = compare_detections(first[first.class_ids == number], answers, own[label], tolerance)
            decisions += found.decisions
            lost += found.decisions - len(found.ious)
    return decisions, lost
