"""Set-prediction loss for every family: Hungarian matching, IoU-aware classification, L1 and GIoU on boxes.

Sources: matching and box losses of DETR (arXiv 2005.12872), classification of VarifocalNet (arXiv 2008.13367), more
than one query an object as an auxiliary as in H-DETR (arXiv 2207.13080). What was found to matter for small dense
models from scratch: queries that have a location match objects near it only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

from medprompt.export.families.base import RawOutputs
from medprompt.export.graph.detection_graph import xyxy_from_cxcywh

OUT_OF_REACH = 100.0
"""Cost that keeps a query from an object outside its reach; pairs at or over it are no match."""


@dataclass(frozen=True)
class LossWeights:
    """Weights of cost and loss, and the shape of the matching.

    Attributes:
        class_cost, l1_cost, giou_cost: Matching.
        class_loss, l1_loss, giou_loss: Training.
        reach: How far outside an object, in object sizes from its centre, a placed query may lie and still match.
        one_to_many: Additional queries an object that learn its box (H-DETR).
        one_to_many_box_weight: Weight of those in the box loss.
        negative_power, negative_weight: Varifocal weight of a query that matches nothing: weight · score^power.
        balance: Of each class, how much its objects count in the classification; empty: 1 each.
    """

    class_cost: float = 2.0
    l1_cost: float = 5.0
    giou_cost: float = 2.0
    class_loss: float = 4.0
    l1_loss: float = 2.5
    giou_loss: float = 1.0
    reach: float = 0.75
    one_to_many: int = 3
    one_to_many_box_weight: float = 0.3
    negative_power: float = 2.0
    negative_weight: float = 0.75
    balance: tuple[float, ...] = ()

    def of_classes(self, classes: Sequence[int]) -> LossWeights:
        """These weights where only ``classes`` are asked for, in that order."""
        return replace(self, balance=tuple(self.balance[index] for index in classes)) if self.balance else self


@dataclass(frozen=True)
class Match:
    """Query and object indices of matched pairs, and of the additional ones."""

    queries: Tensor
    objects: Tensor
    extra_queries: Tensor
    extra_objects: Tensor


def detection_loss(
    outputs: RawOutputs,
    targets: list[dict[str, Tensor]],
    annotated: Tensor,
    weights: LossWeights,
    centres: Tensor | None = None,
    one_to_many_weight: float = 0.0,
) -> Tensor:
    """Loss of one output against the labels, per labelled object.

    Args:
        outputs: ``logits [B, Q, P]`` and boxes; the first phrases stand for the classes, one each.
        targets: Per image ``boxes`` ``[N, 4]`` cxcywh in 0 … 1 and ``classes`` ``[N]``, -1 for none; ``fits`` int8
            ``[N, P]`` where phrases may be true of objects of any class (1 true, -1 false, 0 neither; by default each
            object fits its class); ``held_out`` ``[M, 4]`` where objects lie that the loss is to say nothing about.
            Models that make masks read ``masks`` too, see ``medprompt.export.finetune.samples.Sample``.
        annotated: bool ``[B, P]``; a phrase that is not annotated adds nothing.
        weights: Weights of the parts.
        centres: ``[Q, 2]`` in 0 … 1 where queries have a location of their own.
        one_to_many_weight: 0 … 1: how much the additional queries count as positives of the classification.
    """
    objects = max(1, sum(len(target["classes"]) for target in targets))
    total = outputs.logits.new_zeros(())
    for logits, boxes, target, mask in zip(outputs.logits, outputs.boxes_cxcywh, targets, annotated, strict=True):
        match = match_objects(logits.detach(), boxes.detach(), target, weights, centres)
        total = total + _image_loss(logits, boxes, target, mask, match, weights, one_to_many_weight, centres)
    return total / objects


def _image_loss(
    logits: Tensor,
    boxes: Tensor,
    target: dict[str, Tensor],
    annotated: Tensor,
    match: Match,
    weights: LossWeights,
    one_to_many_weight: float,
    centres: Tensor | None,
) -> Tensor:
    quality = torch.zeros_like(logits)
    pull = torch.zeros_like(logits)
    counts = emphasis(target["classes"], weights.balance)
    counted = _counted(logits, boxes.detach(), target, weights, centres)
    fits = target["fits"] if "fits" in target else own_class(target["classes"], logits.shape[1])
    for queries, objects, share in (
        (match.extra_queries, match.extra_objects, one_to_many_weight),
        (match.queries, match.objects, 1.0),
    ):
        true = (fits[objects] == 1).to(logits.dtype)
        overlap = pairwise_iou(boxes[queries].detach(), target["boxes"][objects])[0]
        quality[queries] = true * overlap.clamp(min=0.3)[:, None] * share
        pull[queries] = (true * share > 0) * counts[objects, None]
        if share:
            counted[queries] = fits[objects] != 0
    classification = (_varifocal(logits, quality, pull, weights) * counted)[:, annotated].sum()
    localisation = _box_loss(boxes[match.queries], target["boxes"][match.objects], weights)
    extra = _box_loss(boxes[match.extra_queries], target["boxes"][match.extra_objects], weights)
    return weights.class_loss * classification + localisation + weights.one_to_many_box_weight * extra


def own_class(classes: Tensor, phrases: int) -> Tensor:
    """``fits`` int8 ``[N, P]`` of objects that are true of their class's phrase alone."""
    return 2 * functional.one_hot(classes, phrases).to(torch.int8) - 1


def _counted(
    logits: Tensor, boxes: Tensor, target: dict[str, Tensor], weights: LossWeights, centres: Tensor | None
) -> Tensor:
    """Bool ``[Q, P]``: false for queries at a held-out object, whose answers count neither as right nor as wrong.

    These are the queries that could have matched it, had it been labelled, and those whose box lies in it by half.
    """
    counted = torch.ones_like(logits, dtype=torch.bool)
    held_out = target.get("held_out")
    if held_out is not None and len(held_out):
        at = share_inside(boxes[:, None], held_out[None]) >= 0.5
        if centres is not None:
            at |= ~_outside(centres, held_out, weights.reach)
        counted[at.any(dim=1)] = False
    return counted


def share_inside(a_cxcywh: Tensor, b_cxcywh: Tensor) -> Tensor:
    """Which share of each box ``a`` lies inside ``b``, as COCO measures detections against crowds."""
    shared = _intersection(xyxy_from_cxcywh(a_cxcywh), xyxy_from_cxcywh(b_cxcywh))
    return shared / a_cxcywh[..., 2:].prod(-1).clamp(min=1e-9)


def _intersection(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    sides = torch.minimum(a_xyxy[..., 2:], b_xyxy[..., 2:]) - torch.maximum(a_xyxy[..., :2], b_xyxy[..., :2])
    return sides.clamp(min=0).prod(-1)


def emphasis(classes: Tensor, balance: Sequence[float]) -> Tensor:
    """How much each object ``[N]`` counts, by ``LossWeights.balance``; one of no class counts once."""
    if not balance:
        return torch.ones_like(classes, dtype=torch.float32)
    factors = torch.tensor([*balance, 1.0], device=classes.device)  # -1 takes the last one
    return factors[classes]


def _varifocal(logits: Tensor, quality: Tensor, pull: Tensor, weights: LossWeights) -> Tensor:
    """``pull``: 0 where a query is no positive, else how much it counts."""
    scores = logits.detach().sigmoid()
    positive = quality.clamp(min=0.25) * pull
    weight = torch.where(pull > 0, positive, weights.negative_weight * scores**weights.negative_power)
    return functional.binary_cross_entropy_with_logits(logits, quality, reduction="none") * weight


def _box_loss(boxes: Tensor, wanted: Tensor, weights: LossWeights) -> Tensor:
    _, giou = pairwise_iou(boxes, wanted)
    distance = functional.l1_loss(boxes, wanted, reduction="sum")
    return weights.l1_loss * distance + weights.giou_loss * (1 - giou).sum()


def pairwise_iou(a_cxcywh: Tensor, b_cxcywh: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and generalised IoU (arXiv 1902.09630) of boxes ``[..., 4]`` that broadcast against each other."""
    a, b = xyxy_from_cxcywh(a_cxcywh), xyxy_from_cxcywh(b_cxcywh)
    hull = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    intersection = _intersection(a, b)
    union = a_cxcywh[..., 2:].prod(-1) + b_cxcywh[..., 2:].prod(-1) - intersection
    iou = intersection / union.clamp(min=1e-9)
    hull_area = hull.prod(-1).clamp(min=1e-9)
    return iou, iou - (hull_area - union) / hull_area


@torch.no_grad()
def match_objects(
    logits: Tensor, boxes: Tensor, target: dict[str, Tensor], weights: LossWeights, centres: Tensor | None
) -> Match:
    """Match one query to each object by least total cost, and ``weights.one_to_many`` more by least cost each.

    ``logits`` ``[Q, C]``, ``boxes`` ``[Q, 4]`` and ``centres`` ``[Q, 2]`` are one image's; ``target``: see
    ``detection_loss``.
    """
    cost = _cost(logits, boxes, target, weights)
    if centres is not None:
        cost = cost + OUT_OF_REACH * _outside(centres, target["boxes"], weights.reach)
    rows, columns = linear_sum_assignment(cost.double().cpu().numpy())
    queries, objects = torch.as_tensor(rows), torch.as_tensor(columns)
    near = cost[queries, objects] < OUT_OF_REACH / 2
    queries, objects = queries[near], objects[near]
    return Match(queries, objects, *_one_to_many(cost, queries, weights.one_to_many))


def _cost(logits: Tensor, boxes: Tensor, target: dict[str, Tensor], weights: LossWeights) -> Tensor:
    """``[Q, N]``."""
    classes = target["classes"]
    score = logits.sigmoid()[:, classes] * (classes >= 0)  # what has no class is matched by its location only
    _, giou = pairwise_iou(boxes[:, None], target["boxes"][None])
    distance = torch.cdist(boxes, target["boxes"], p=1)
    return weights.class_cost * (1 - score) + weights.l1_cost * distance + weights.giou_cost * (1 - giou)


def _outside(centres: Tensor, boxes: Tensor, reach: float) -> Tensor:
    """Bool ``[Q, N]``: whether a query lies further from an object's centre than ``reach`` sizes (and one cell)."""
    cell = 1.01 / len(centres) ** 0.5
    allowed = torch.maximum(boxes[None, :, 2:] * reach, torch.full_like(boxes[None, :, 2:], cell))
    return ((centres[:, None] - boxes[None, :, :2]).abs() > allowed).any(-1)


def _one_to_many(cost: Tensor, taken: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The next best queries of each object: each query joins the object it suits best."""
    if not count or not cost.shape[1]:
        empty = torch.zeros(0, dtype=torch.long)
        return empty, empty
    free = cost.clone()
    free[taken] = OUT_OF_REACH
    best = free.topk(min(count, len(free)), dim=0, largest=False).indices
    chosen = torch.zeros_like(free, dtype=torch.bool).scatter_(0, best, True) & (free < OUT_OF_REACH / 2)
    favourite = torch.zeros_like(chosen).scatter_(1, free.argmin(dim=1, keepdim=True), True)
    queries, objects = (chosen & favourite).nonzero(as_tuple=True)
    return queries, objects
