"""GLIP's loss: cells are assigned to objects by ATSS (arXiv 1912.02424), and every token of the caption is judged.

Focal loss (α 0.25, γ 2; arXiv 1708.02002) of the tokens, generalised IoU of the boxes, and how central a cell is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from medprompt.export.evaluation.losses import emphasis, own_class, pairwise_iou
from medprompt.export.families.glip.anchors import decoded_boxes
from medprompt.export.families.glip.model import DenseOutputs

NEAREST = 9
"""Cells of each level that may be an object's."""
ALPHA, GAMMA = 0.25, 2.0
BOX_WEIGHT = 2.0


@dataclass(frozen=True)
class Parts:
    """Sums over one image: token, box and centerness loss, cells that are objects', and their centerness."""

    tokens: Tensor
    boxes: Tensor
    centerness: Tensor
    positives: int
    central: Tensor


def dense_loss(
    outputs: DenseOutputs,
    anchors: Tensor,
    image_hw: Tensor,
    targets: Sequence[dict[str, Tensor]],
    annotated: Tensor,
    phrase_tokens: Tensor,
    balance: Sequence[float],
) -> Tensor:
    """Loss of a batch.

    Args:
        outputs: What the cells say.
        anchors: ``[N, 3]``, see ``cell_anchors``.
        image_hw: ``[2]``: pixels of the model's image.
        targets: See ``detection_loss``.
        annotated: Likewise.
        phrase_tokens: ``[P, L]``: positions of each phrase's tokens.
        balance: See ``LossWeights``.
    """
    image = image_hw.flip(0).repeat(2)
    tokens = outputs.token_logits.new_zeros(len(phrase_tokens), outputs.token_logits.shape[2])
    tokens.scatter_(1, phrase_tokens, 1.0)
    boxes = decoded_boxes(outputs.regression, anchors, limits_shrinking=False)
    places = Places(anchors, [height * width for height, width in outputs.sizes])
    parts = [
        _image_parts(logits, found, central, _in_pixels(target, image), mask, tokens, places, balance)
        for logits, found, central, target, mask in zip(
            outputs.token_logits, boxes, outputs.centerness, targets, annotated, strict=True
        )
    ]
    positives = max(1, sum(part.positives for part in parts))
    central = torch.stack([part.central for part in parts]).sum().clamp(min=1e-6)
    by_cell = torch.stack([part.tokens + part.centerness for part in parts]).sum() / positives
    return by_cell + BOX_WEIGHT * torch.stack([part.boxes for part in parts]).sum() / central


@dataclass(frozen=True)
class Places:
    """Anchors ``[N, 3]`` (x, y, side) and how many cells each level has."""

    anchors: Tensor
    levels: Sequence[int]

    @property
    def centres(self) -> Tensor:
        """``[N, 2]``."""
        return self.anchors[:, :2]


def _in_pixels(target: dict[str, Tensor], image: Tensor) -> dict[str, Tensor]:
    return {name: tensor * image if name in {"boxes", "held_out"} else tensor for name, tensor in target.items()}


def _image_parts(
    logits: Tensor,
    boxes: Tensor,
    centerness: Tensor,
    target: dict[str, Tensor],
    annotated: Tensor,
    tokens: Tensor,
    places: Places,
    balance: Sequence[float],
) -> Parts:
    owner = assign(places, target["boxes"])
    cells = (owner >= 0).nonzero()[:, 0]
    objects = owner[cells]
    focal = _token_loss(logits, cells, objects, target, annotated, tokens, places, balance)
    wanted = target["boxes"][objects]
    central = _centerness(places.centres[cells], wanted)
    found = torch.cat([(boxes[cells, :2] + boxes[cells, 2:]) / 2, boxes[cells, 2:] - boxes[cells, :2] + 1], dim=1)
    _, giou = pairwise_iou(found, wanted)
    middle = functional.binary_cross_entropy_with_logits(centerness[cells], central, reduction="sum")
    return Parts(focal, ((1 - giou) * central).sum(), middle, len(cells), central.sum())


def _token_loss(
    logits: Tensor,
    cells: Tensor,
    objects: Tensor,
    target: dict[str, Tensor],
    annotated: Tensor,
    tokens: Tensor,
    places: Places,
    balance: Sequence[float],
) -> Tensor:
    """Focal loss over ``[N, T]``: 1 for the tokens of phrases that are true of a cell's object, else 0."""
    fits = target["fits"] if "fits" in target else own_class(target["classes"], len(tokens))
    wanted, counted = torch.zeros_like(logits), torch.ones_like(logits)
    if len(target.get("held_out", ())):
        counted[_inside(places.centres, target["held_out"]).any(dim=1)] = 0
    wanted[cells] = ((fits[objects] == 1).to(logits.dtype) @ tokens).clamp(max=1)
    unsure = (fits[objects] == 0).to(logits.dtype) @ tokens
    counted[cells] = (unsure == 0).to(logits.dtype) * emphasis(target["classes"], balance)[objects, None]
    counted = counted * ((~annotated).to(logits.dtype) @ tokens == 0)
    probability = logits.sigmoid()
    missed = torch.where(wanted > 0, 1 - probability, probability)
    share = torch.where(wanted > 0, ALPHA, 1 - ALPHA)
    entropy = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    return (entropy * share * missed**GAMMA * counted).sum()


def _centerness(centres: Tensor, boxes_cxcywh: Tensor) -> Tensor:
    """√ of how evenly a cell's centre ``[M, 2]`` divides its box ``[M, 4]`` each way, 0 … 1."""
    shift = (centres + 0.5 - boxes_cxcywh[:, :2]).abs()
    near, far = boxes_cxcywh[:, 2:] / 2 - shift, boxes_cxcywh[:, 2:] / 2 + shift
    return (near / far.clamp(min=1e-6)).clamp(0, 1).prod(dim=1).sqrt()


@torch.no_grad()
def assign(places: Places, boxes_cxcywh: Tensor) -> Tensor:
    """Which object ``[N]`` each cell is to find, -1 for none; boxes ``[M, 4]`` are in pixels.

    Of the cells nearest to an object on each level, those whose anchor overlaps it more than mean and standard
    deviation over them all, and whose centre lies in it; where objects compete, the one of largest overlap.
    """
    if not len(boxes_cxcywh):
        return torch.full((len(places.anchors),), -1)
    anchors = torch.cat([places.centres + 0.5, places.anchors[:, 2:].expand(-1, 2)], dim=1)
    overlap = pairwise_iou(anchors[:, None], boxes_cxcywh[None])[0]
    near = _nearest(places, boxes_cxcywh)
    among = overlap.gather(0, near)
    least = among.mean(dim=0) + among.std(dim=0)
    chosen = torch.zeros_like(overlap, dtype=torch.bool).scatter_(0, near, among >= least)
    rated = torch.where(chosen & _inside(places.centres, boxes_cxcywh), overlap, -1.0)
    best, owner = rated.max(dim=1)
    return torch.where(best >= 0, owner, -1)


def _nearest(places: Places, boxes_cxcywh: Tensor) -> Tensor:
    """Indices ``[K, M]`` of the nearest cells of each level."""
    distance = torch.cdist(places.centres + 0.5, boxes_cxcywh[:, :2])
    starts = torch.tensor([0, *places.levels]).cumsum(0)
    parts = zip(distance.split(list(places.levels)), starts.tolist(), strict=False)
    return torch.cat(
        [part.topk(min(NEAREST, len(part)), dim=0, largest=False).indices + start for part, start in parts]
    )


def _inside(centres: Tensor, boxes_cxcywh: Tensor) -> Tensor:
    """Bool ``[N, M]``: whether a cell's centre lies in a box."""
    shift = (centres[:, None] + 0.5 - boxes_cxcywh[None, :, :2]).abs()
    return (shift < boxes_cxcywh[None, :, 2:] / 2).all(dim=-1)
