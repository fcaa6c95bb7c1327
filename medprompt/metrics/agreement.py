"""Do two sets of detections say the same? Decisions are compared, not tensors.

Index-wise errors mislead: two proposals of nearly the same score may swap ranks, which changes whole rows of
the outputs and no decision. So a reference detection counts as kept where the candidate has one of the same
class, at the same position (IoU), of the same score and, where the reference has masks, of the same pixels (IoU).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from medprompt.core.boxes import iou_matrix
from medprompt.core.detections import Detections
from medprompt.core.manifest import ParityRecord, Tolerance

MIN_DECISIONS = 20
"""Below this many reference decisions over the threshold, the best-scoring ones are compared instead."""

SAME_CORNER_PX = 0.05
"""Boxes thinner than a pixel whose corners lie this close are the same, whatever their IoU. A box without area overlaps
nothing, not even itself; random heads saturate to such boxes."""

TIE = 1e-6
"""Scores this close are equal: sigmoids near 1 differ by less than float32 resolves."""

FALLBACK_TOP = 20
"""Detections an image that are compared then."""


@dataclass(frozen=True)
class ImageParity:
    """What the comparison of one image found.

    Attributes:
        decisions: Reference detections compared.
        ious: float ``[N]``: overlap of each one that was found again.
        score_deltas: float ``[N]``: absolute score difference of each one that was found again.
        extra: Candidate detections that the reference does not have.
        mask_ious: float ``[N]``: overlap of the mask of each one that was found again; None without masks.
    """

    decisions: int
    ious: NDArray[np.floating]
    score_deltas: NDArray[np.floating]
    extra: int
    mask_ious: NDArray[np.floating] | None = None


def compare_detections(
    reference: Detections,
    candidate: Detections,
    threshold: float,
    tolerance: Tolerance,
    top_k: int | None = None,
) -> ImageParity:
    """Look for each reference detection in the candidate, and the other way round.

    Detections that lie within ``max_score_delta`` below the threshold may answer, so that a score on the
    border is not punished twice.

    Args:
        reference: Detections of one image; those under the threshold serve as answers only.
        candidate: Likewise. It should reach down to ``threshold - max_score_delta``. Its masks count where the
            reference has some: without them nothing is found again.
        threshold: Least score of a decision.
        tolerance: What counts as found.
        top_k: Rows that the candidate can have; the reference then lists all that tie at its own ``top_k``-th.
            Saturated heads (random weights) answer 1.0 hundreds of times: a full candidate's rows must then all be
            among them, but no one can say which.
    """
    candidate = replace(candidate, masks=None) if reference.masks is None else candidate
    answers = threshold - tolerance.max_score_delta
    decided = reference[reference.scores >= threshold]
    pairs = _matches(decided, candidate[candidate.scores >= answers], tolerance)
    claimed = candidate[candidate.scores >= threshold]
    known = _matches(claimed, reference[reference.scores >= answers], tolerance)
    full = top_k is not None and len(candidate) >= top_k
    demanded = len(decided) - (_without_room(reference, candidate, threshold) if full else 0)
    mask_ious = None if reference.masks is None else pairs[:, 2]
    return ImageParity(demanded, pairs[:, 0], pairs[:, 1], len(claimed) - len(known), mask_ious)


def _without_room(reference: Detections, candidate: Detections, threshold: float) -> int:
    """How many decisions tie with the reference's last one beyond the rows that a full candidate has."""
    if not len(reference) or reference.scores.min() < threshold:
        return 0
    tied = int((reference.scores <= reference.scores.min() + TIE).sum())
    return min(tied - 1, max(0, len(reference) - len(candidate)))


def _matches(decisions: Detections, answers: Detections, tolerance: Tolerance) -> NDArray[np.floating]:
    """IoU, score difference and IoU of masks ``[N, 3]`` of those found; an answer serves once, best score first."""
    ious = _overlaps(decisions.boxes_xyxy.astype(np.float64), answers.boxes_xyxy.astype(np.float64))
    deltas = np.abs(decisions.scores.astype(np.float64)[:, None] - answers.scores.astype(np.float64)[None, :])
    fits = (ious >= tolerance.min_iou) & (deltas <= tolerance.max_score_delta)
    fits &= decisions.class_ids[:, None] == answers.class_ids[None, :]
    mask_ious = _mask_overlaps(decisions, answers)
    fits &= mask_ious >= tolerance.min_mask_iou
    found = []
    for row in np.argsort(-decisions.scores, kind="stable"):
        columns = np.flatnonzero(fits[row])
        if len(columns):
            column = columns[np.lexsort((deltas[row, columns], -ious[row, columns]))[0]]
            fits[:, column] = False
            found.append((ious[row, column], deltas[row, column], mask_ious[row, column]))
    return np.array(found, dtype=np.float64).reshape(-1, 3)


def _mask_overlaps(decisions: Detections, answers: Detections) -> NDArray[np.floating]:
    """IoU of masks ``[N, M]``, 1 where both are empty; without masks 1, and where only one side has some 0."""
    if decisions.masks is None or answers.masks is None:
        return np.full((len(decisions), len(answers)), float(decisions.masks is answers.masks))
    empty = (decisions.masks.areas[:, None] == 0) & (answers.masks.areas[None, :] == 0)
    return np.where(empty, 1.0, decisions.masks.ious(answers.masks))


def _overlaps(asked_xyxy: NDArray[np.floating], answers_xyxy: NDArray[np.floating]) -> NDArray[np.floating]:
    """IoU ``[N, M]``, and 1 where a box thinner than a pixel has all its corners within ``SAME_CORNER_PX``."""
    thin = (asked_xyxy[:, 2:] - asked_xyxy[:, :2]).min(axis=1, initial=np.inf) < 1
    apart = np.abs(asked_xyxy[:, None] - answers_xyxy[None, :]).max(axis=2)
    return np.where(thin[:, None] & (apart <= SAME_CORNER_PX), 1.0, iou_matrix(asked_xyxy, answers_xyxy))


def under_labels(found: Detections, labels: tuple[str, ...]) -> Detections:
    """The same detections with the class ids of ``labels``: decisions are of a name, whatever its number was.

    Raises:
        KeyError: A label that is not among them.
    """
    indices = {label.casefold(): index for index, label in enumerate(labels)}
    table = np.array([indices[label.casefold()] for label in found.labels], dtype=np.int64)
    return replace(found, class_ids=table[found.class_ids], labels=labels)


def check_decisions(
    pairs: Sequence[tuple[Detections, Detections]],
    threshold: float,
    tolerance: Tolerance,
    image_source: str,
    top_k: int | None = None,
) -> ParityRecord:
    """Compare many images and say whether the candidate may stand in for the reference.

    Args:
        pairs: Reference and candidate of each image, with all their detections (threshold 0).
        threshold: Least score of a decision. Where fewer than ``MIN_DECISIONS`` reach it over all images,
            the ``FALLBACK_TOP`` best of each image are compared instead.
        tolerance: What is demanded.
        image_source: Which images these are, for the record.
        top_k: See ``compare_detections``.
    """
    decided = sum(int((reference.scores >= threshold).sum()) for reference, _ in pairs)
    top = FALLBACK_TOP if decided < MIN_DECISIONS else 0
    compared = [
        compare_detections(reference, candidate, _score_of_rank(reference, top) if top else threshold, tolerance, top_k)
        for reference, candidate in pairs
    ]
    return combine(compared, threshold, tolerance, image_source, top)


def _score_of_rank(detections: Detections, rank: int) -> float:
    """Score of the ``rank``-th best detection, or of the last of fewer; 1 where there is none."""
    scores = np.sort(detections.scores)[::-1]
    return float(scores[:rank][-1]) if len(scores) else 1.0


def combine(
    images: Iterable[ImageParity],
    threshold: float,
    tolerance: Tolerance,
    image_source: str,
    fallback_top: int = 0,
) -> ParityRecord:
    """Sum the images up. Nothing compared is a failure: it proves nothing."""
    images = list(images)
    decisions = sum(image.decisions for image in images)
    extra = sum(image.extra for image in images)
    deltas = np.concatenate([np.zeros(0), *(image.score_deltas for image in images)])
    ious = np.concatenate([np.zeros(0), *(image.ious for image in images)])
    kept = len(deltas) / decisions if decisions else 0.0
    masked = [image.mask_ious for image in images if image.mask_ious is not None]
    mask_ious = np.concatenate([np.zeros(0), *masked])
    allowed_extra = (1 - tolerance.min_kept) * decisions
    return ParityRecord(
        images=len(images),
        image_source=image_source,
        threshold=threshold,
        fallback_top=fallback_top,
        decisions=decisions,
        kept=kept,
        extra=extra,
        min_iou=float(ious.min()) if len(ious) else 0.0,
        mean_score_delta=float(deltas.mean()) if len(deltas) else 0.0,
        max_score_delta=float(deltas.max()) if len(deltas) else 0.0,
        tolerance=tolerance,
        min_mask_iou=(float(mask_ious.min()) if len(mask_ious) else 0.0) if masked else None,
        passed=decisions > 0 and kept >= tolerance.min_kept and extra <= allowed_extra,
    )
