"""SAM 3's loss: what it pulls at, and what it leaves alone."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from torch import Tensor

from medprompt.export.families.sam3.loss import PhraseOutputs, dice, focal, match_focal, phrase_loss

LAYERS, QUERIES, WIDTH, SIDE = 2, 5, 4, 8
BOXES = torch.tensor([[0.25, 0.25, 0.5, 0.5], [0.75, 0.75, 0.25, 0.25]])
OUTLINES = torch.zeros(2, SIDE, SIDE)
OUTLINES[0, :4, :4] = 1
OUTLINES[1, 5:7, 5:7] = 1


def outputs(pairs: int = 1, **changes: Tensor) -> PhraseOutputs:
    """Random ones of ``pairs`` images with a phrase, whose gradients are kept."""
    torch.manual_seed(0)
    made = {
        "logits": torch.randn(LAYERS, pairs, QUERIES),
        "boxes_cxcywh": torch.rand(LAYERS, pairs, QUERIES, 4) * 0.5 + 0.2,
        "presence": torch.zeros(LAYERS, pairs),
        "mask_queries": torch.randn(pairs, QUERIES, WIDTH),
        "pixels": torch.randn(pairs, WIDTH, SIDE, SIDE),
        "union": torch.zeros(pairs, SIDE, SIDE),
    }
    return PhraseOutputs(**{name: tensor.requires_grad_() for name, tensor in (made | changes).items()})


def target(**changes: Tensor) -> dict[str, Tensor]:
    return {"boxes": BOXES, "classes": torch.tensor([0, 0]), "masks": OUTLINES, **changes}


def gradients(made: PhraseOutputs, targets: list[dict[str, Tensor]], annotated: Tensor) -> dict[str, Tensor]:
    phrase_loss(made, targets, annotated, ()).backward()
    every = {field.name: getattr(made, field.name) for field in fields(made)}
    return {name: torch.zeros_like(tensor) if tensor.grad is None else tensor.grad for name, tensor in every.items()}


YES = torch.ones(1, 1, dtype=torch.bool)


def test_a_right_answer_costs_next_to_nothing() -> None:
    right = torch.full((LAYERS, 1, QUERIES), -12.0)
    right[..., :2] = 12
    boxes = torch.rand(LAYERS, 1, QUERIES, 4)
    boxes[..., :2, :] = BOXES
    masks = torch.zeros(1, QUERIES, WIDTH)
    masks[0, 0, 0], masks[0, 1, 1] = 12, 12
    pixels = torch.zeros(1, WIDTH, SIDE, SIDE)
    pixels[0, :2] = 2 * OUTLINES - 1
    union = (OUTLINES.amax(dim=0) * 24 - 12)[None]
    presence = torch.full((LAYERS, 1), 10.0)
    made = outputs(logits=right, boxes_cxcywh=boxes, mask_queries=masks, pixels=pixels, union=union, presence=presence)
    assert phrase_loss(made, [target()], YES, ()) < 0.01
    assert phrase_loss(outputs(), [target()], YES, ()) > 20


def test_each_object_gets_its_nearest_query() -> None:
    boxes = torch.rand(QUERIES, 4)
    boxes[3], boxes[1] = BOXES[0], BOXES[1]
    queries, objects = match_focal(torch.zeros(QUERIES), boxes, BOXES)
    assert dict(zip(queries.tolist(), objects.tolist(), strict=True)) == {3: 0, 1: 1}


def test_a_phrase_that_is_absent_is_told_by_presence_alone() -> None:
    none = {"boxes": BOXES[:0], "classes": torch.zeros(0, dtype=torch.long), "masks": OUTLINES[:0]}
    moved = gradients(outputs(), [none], YES)
    assert (moved.pop("presence") > 0).all()  # downhill is less
    assert all((gradient == 0).all() for gradient in moved.values())


def test_a_phrase_that_is_not_annotated_adds_nothing() -> None:
    made = outputs(2)
    moved = gradients(made, [target()], torch.tensor([[False, True]]))
    # Classes are columns: none of the objects is of the second phrase, which is annotated.
    assert all((gradient[:, 0] == 0).all() for name, gradient in moved.items() if name in ("logits", "presence"))
    assert (moved["presence"][:, 1] > 0).all()


def test_what_is_held_out_is_neither_right_nor_wrong() -> None:
    boxes = torch.rand(LAYERS, 1, QUERIES, 4)
    boxes[..., :2, :], boxes[..., 2, :] = BOXES, torch.tensor([0.2, 0.8, 0.1, 0.1])
    moved = gradients(outputs(boxes_cxcywh=boxes), [target(held_out=boxes[0, :, 2].clone())], YES)["logits"]
    assert (moved[:, 0, 2] == 0).all() and (moved[:, 0, [0, 1, 3, 4]] != 0).all()
    alone = {"boxes": BOXES[:0], "classes": torch.zeros(0, dtype=torch.long), "held_out": BOXES}
    assert (gradients(outputs(), [alone], YES)["presence"] == 0).all()


@pytest.mark.parametrize(
    ("masks", "moves", "union"),
    [
        (OUTLINES, True, True),
        (torch.stack([OUTLINES[0], torch.full_like(OUTLINES[1], torch.nan)]), True, False),
        (torch.full_like(OUTLINES, torch.nan), False, False),
    ],
)
def test_masks_are_learned_where_they_are_known(masks: Tensor, moves: bool, union: bool) -> None:
    moved = gradients(outputs(), [target(masks=masks.half())], YES)
    assert all(gradient.isfinite().all() for gradient in moved.values())
    assert bool(moved["pixels"].any()) == moves
    assert bool(moved["union"].any()) == union
    assert moved["boxes_cxcywh"].any() and moved["logits"].any()


def test_labels_without_masks_teach_boxes() -> None:
    without = target()
    del without["masks"]
    moved = gradients(outputs(), [without], YES)
    assert not moved["pixels"].any() and not moved["union"].any() and moved["boxes_cxcywh"].any()


def test_focal_and_dice_by_hand() -> None:
    logits = torch.tensor([[0.0, 0.0]])
    wanted = torch.tensor([[1.0, 0.0]])
    half = 0.25 * torch.log(torch.tensor(2.0))
    torch.testing.assert_close(focal(logits, wanted, 0.25), torch.stack([0.25 * half, 0.75 * half])[None])
    torch.testing.assert_close(dice(logits, wanted), torch.tensor([1 - (2 * 0.5 + 1) / (1 + 1 + 1)]))
