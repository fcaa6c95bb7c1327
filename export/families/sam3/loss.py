"""SAM 3's loss: set prediction by phrase, with masks, and whether a phrase is in the picture at all.

Source: the project's training code at facebookresearch/sam3 (``loss_fns.py``, ``matcher.py`` and the Roboflow recipe
for fine-tuning with masks); weights and shapes are its own. Queries that only its training has (one to many) are left
out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

from medprompt.export.evaluation.losses import emphasis, own_class, pairwise_iou, share_inside

CLASS_COST, L1_COST, GIOU_COST = 2.0, 5.0, 2.0
CLASS_LOSS, PRESENCE_LOSS, L1_LOSS, GIOU_LOSS = 20.0, 20.0, 5.0, 2.0
MASK_LOSS, DICE_LOSS = 200.0, 10.0
UNION_LOSS, UNION_DICE_LOSS, UNION_ALPHA = 20.0, 30.0, 0.6
ALPHA, GAMMA = 0.25, 2.0
POSITIVE = 10.0
"""How much more a query counts that is an object's."""


@dataclass(frozen=True)
class PhraseOutputs:
    """What the detector says of each phrase alone: ``N`` pairs of an image and a phrase, of ``L`` decoder layers.

    Attributes:
        logits: float ``[L, N, Q]``.
        boxes_cxcywh: float ``[L, N, Q, 4]`` in 0 … 1.
        presence: float ``[L, N]``: logit of the phrase's being in the picture.
        mask_queries: float ``[N, Q, C]`` of the last layer; times ``pixels`` they are the logits of masks.
        pixels: float ``[N, C, h, w]``.
        union: float ``[N, h, w]``: logit of a pixel's belonging to any object.
    """

    logits: Tensor
    boxes_cxcywh: Tensor
    presence: Tensor
    mask_queries: Tensor
    pixels: Tensor
    union: Tensor


@dataclass(frozen=True)
class Wanted:
    """What a phrase is true of in an image.

    Attributes:
        boxes: float ``[M, 4]`` cxcywh.
        counts: float ``[M]``: how much each counts in the classification.
        masks: float ``[M, h, w]`` in 0 … 1; not a number where an object's outline is not known.
        unsaid: float ``[U, 4]``: objects that nothing is said about.
    """

    boxes: Tensor
    counts: Tensor
    masks: Tensor | None
    unsaid: Tensor


def phrase_loss(
    outputs: PhraseOutputs, targets: Sequence[dict[str, Tensor]], annotated: Tensor, balance: Sequence[float]
) -> Tensor:
    """Loss of a batch, its images one after the other with all phrases each.

    Args:
        outputs: ``N`` = images · phrases.
        targets: See ``medprompt.export.evaluation.losses.detection_loss``, and ``Wanted`` for ``masks``.
        annotated: bool ``[B, P]``; a phrase that is not annotated adds nothing.
        balance: See ``LossWeights``.
    """
    pairs = [(pair, wanted) for pair, wanted in enumerate(_wanted(targets, annotated, balance)) if wanted]
    objects = max(1, sum(len(wanted.boxes) for _, wanted in pairs))
    total = outputs.logits.sum() * 0
    for pair, wanted in pairs:
        for layer, (logits, boxes) in enumerate(
            zip(outputs.logits[:, pair], outputs.boxes_cxcywh[:, pair], strict=True)
        ):
            queries, found = match_focal(logits.detach(), boxes.detach(), wanted.boxes)
            total = total + (
                CLASS_LOSS * _classification(logits, boxes.detach(), wanted, queries, found) / len(pairs)
                + PRESENCE_LOSS * _presence(outputs.presence[layer, pair], wanted) / len(pairs)
                + _box_loss(boxes[queries], wanted.boxes[found]) / objects
            )
        total = total + _mask_loss(outputs, pair, wanted, queries, found) / objects
        total = total + _union_loss(outputs.union[pair], wanted) / len(pairs)
    return total


def _wanted(
    targets: Sequence[dict[str, Tensor]], annotated: Tensor, balance: Sequence[float]
) -> Iterator[Wanted | None]:
    """Of each image and phrase, in that order; None where the phrase is not annotated."""
    for target, known in zip(targets, annotated, strict=True):
        fits = target["fits"] if "fits" in target else own_class(target["classes"], len(known))
        counts, masks = emphasis(target["classes"], balance), target.get("masks")
        held_out = target.get("held_out", target["boxes"][:0])
        for phrase in range(len(known)):
            true = fits[:, phrase] == 1
            yield (
                Wanted(
                    target["boxes"][true],
                    counts[true],
                    None if masks is None else masks[true].float(),
                    torch.cat([held_out, target["boxes"][fits[:, phrase] == 0]]),
                )
                if known[phrase]
                else None
            )


@torch.no_grad()
def match_focal(logits: Tensor, boxes: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Match one query to each object by least total cost; return the indices of both.

    ``logits`` ``[Q]``, ``boxes`` ``[Q, 4]`` and ``wanted`` ``[M, 4]`` in cxcywh.
    """
    score = logits.sigmoid()
    positive = ALPHA * (1 - score) ** GAMMA * -functional.logsigmoid(logits)
    negative = (1 - ALPHA) * score**GAMMA * -functional.logsigmoid(-logits)
    _, giou = pairwise_iou(boxes[:, None], wanted[None])
    distance = torch.cdist(boxes, wanted, p=1)
    cost = CLASS_COST * (positive - negative)[:, None] + L1_COST * distance - GIOU_COST * giou
    rows, columns = linear_sum_assignment(cost.double().cpu().numpy())
    return torch.as_tensor(rows, device=boxes.device), torch.as_tensor(columns, device=boxes.device)


def _classification(logits: Tensor, boxes: Tensor, wanted: Wanted, queries: Tensor, found: Tensor) -> Tensor:
    """Mean over the queries; where the phrase is absent presence says so, and single queries learn nothing."""
    if not len(wanted.boxes):
        return logits.sum() * 0
    score = logits.detach().sigmoid()
    overlap, _ = pairwise_iou(boxes[queries], wanted.boxes[found])
    quality, weight = torch.zeros_like(logits), score**GAMMA
    quality[queries] = (score[queries] ** ALPHA * overlap ** (1 - ALPHA)).clamp(min=0.01)
    if len(wanted.unsaid):
        weight[(share_inside(boxes[:, None], wanted.unsaid[None]) >= 0.5).any(dim=1)] = 0
    weight[queries] = POSITIVE * wanted.counts[found]
    return functional.binary_cross_entropy_with_logits(logits, quality, weight)


def _presence(logit: Tensor, wanted: Wanted) -> Tensor:
    """Half of the cross entropy; nothing where all that may be there is left unsaid."""
    there = len(wanted.boxes) > 0
    if not there and len(wanted.unsaid):
        return logit * 0
    return 0.5 * functional.binary_cross_entropy_with_logits(logit, torch.full_like(logit, float(there)))


def _box_loss(boxes: Tensor, wanted: Tensor) -> Tensor:
    _, giou = pairwise_iou(boxes, wanted)
    return L1_LOSS * functional.l1_loss(boxes, wanted, reduction="sum") + GIOU_LOSS * (1 - giou).sum()


def _mask_loss(outputs: PhraseOutputs, pair: int, wanted: Wanted, queries: Tensor, found: Tensor) -> Tensor:
    """Of the matched queries alone: of no others are masks made."""
    if wanted.masks is None:
        return outputs.pixels.new_zeros(())  # no gradient at all: a decay of weights would move what nothing teaches
    outlines = wanted.masks[found].flatten(1)
    known = ~outlines.isnan().any(dim=1)
    logits = outputs.mask_queries[pair, queries[known]] @ outputs.pixels[pair].flatten(1)
    return (
        MASK_LOSS * focal(logits, outlines[known], ALPHA).mean(dim=1) + DICE_LOSS * dice(logits, outlines[known])
    ).sum()


def _union_loss(logits: Tensor, wanted: Wanted) -> Tensor:
    """Of all the phrase's objects together, where there are any and every outline is known."""
    if wanted.masks is None or not len(wanted.masks) or len(wanted.unsaid) or wanted.masks.isnan().any():
        return logits.new_zeros(())
    flat, outline = logits.flatten()[None], wanted.masks.amax(dim=0).flatten()[None]
    return UNION_LOSS * focal(flat, outline, UNION_ALPHA).mean() + UNION_DICE_LOSS * dice(flat, outline).sum()


def focal(logits: Tensor, wanted: Tensor, alpha: float) -> Tensor:
    """Focal loss (arXiv 1708.02002) of each value, whose target may be any share in 0 … 1."""
    score = logits.sigmoid()
    right = score * wanted + (1 - score) * (1 - wanted)
    share = alpha * wanted + (1 - alpha) * (1 - wanted)
    entropy = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    return share * entropy * (1 - right) ** GAMMA


def dice(logits: Tensor, wanted: Tensor) -> Tensor:
    """1 - Dice ``[M]`` of masks ``[M, pixels]``, smoothed by one pixel."""
    score = logits.sigmoid()
    return 1 - (2 * (score * wanted).sum(1) + 1) / (score.sum(1) + wanted.sum(1) + 1)
