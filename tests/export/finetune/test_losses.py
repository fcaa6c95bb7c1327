import pytest
import torch

from medprompt.export.families.base import RawOutputs
from medprompt.export.finetune.losses import LossWeights, detection_loss, match_objects, pairwise_iou

WEIGHTS = LossWeights()


def target(boxes, classes):
    return {"boxes": torch.tensor(boxes).reshape(-1, 4), "classes": torch.tensor(classes, dtype=torch.long)}


NOTHING = target([], [])
ONE = target([[0.5, 0.5, 0.2, 0.2]], [1])


@pytest.mark.parametrize(
    ("a", "b", "iou", "giou"),
    [
        ([0.5, 0.5, 0.2, 0.2], [0.5, 0.5, 0.2, 0.2], 1, 1),
        ([0.5, 0.5, 0.2, 0.2], [0.6, 0.5, 0.2, 0.2], 1 / 3, 1 / 3),
        ([0.1, 0.5, 0.2, 0.2], [0.5, 0.5, 0.2, 0.2], 0, -1 / 3),  # hull 0.6 wide, union 0.4
        ([0.5, 0.5, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0], 0, -1),  # no area: no overlap, and finite
    ],
)
def test_pairwise_iou(a, b, iou, giou):
    found = pairwise_iou(torch.tensor(a), torch.tensor(b))
    assert [float(value) for value in found] == pytest.approx([iou, giou], abs=1e-5)


def outputs(boxes, logits):
    return RawOutputs(
        torch.tensor([logits], dtype=torch.float32, requires_grad=True),
        torch.tensor([boxes], dtype=torch.float32, requires_grad=True),
    )


def test_each_object_gets_one_query_and_the_best_one():
    boxes = torch.tensor([[0.1, 0.1, 0.2, 0.2], [0.5, 0.5, 0.2, 0.2], [0.52, 0.5, 0.2, 0.2], [0.9, 0.9, 0.1, 0.1]])
    match = match_objects(torch.zeros(4, 2), boxes, ONE, LossWeights(helpers=1), None)
    assert (match.queries.tolist(), match.objects.tolist()) == ([1], [0])
    assert (match.helper_queries.tolist(), match.helper_objects.tolist()) == ([2], [0])


def test_a_placed_query_out_of_reach_never_matches():
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.2]] * 4)  # four queries claim the same box
    centres = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    weights = LossWeights(reach=0.1)
    far = {"boxes": torch.tensor([[0.05, 0.05, 0.02, 0.02]]), "classes": torch.tensor([0])}
    match = match_objects(torch.zeros(4, 2), boxes, far, weights, centres)
    assert match.queries.tolist() == [0]
    big_grid = torch.rand(100, 2) * 0.1
    match = match_objects(torch.zeros(100, 2), boxes[:1].repeat(100, 1), ONE, weights, big_grid)
    assert match.queries.tolist() == []
    assert match.helper_queries.tolist() == []


def test_an_image_without_objects_only_pushes_scores_down():
    found = outputs([[0.5, 0.5, 0.2, 0.2]] * 3, [[0.0, 1.0]] * 3)
    loss = detection_loss(found, [NOTHING], torch.tensor([[True, True]]), WEIGHTS)
    loss.backward()
    assert loss.item() > 0
    assert (found.logits.grad > 0).all()
    assert (found.boxes_cxcywh.grad == 0).all()


def test_a_class_that_is_not_judged_has_no_gradient():
    found = outputs([[0.5, 0.5, 0.2, 0.2]] * 3, [[0.0, 1.0]] * 3)
    detection_loss(found, [NOTHING], torch.tensor([[True, False]]), WEIGHTS).backward()
    assert (found.logits.grad[..., 0] > 0).all()
    assert (found.logits.grad[..., 1] == 0).all()


def test_the_right_answer_costs_less_than_any_wrong_one():
    judged = torch.tensor([[True, True]])
    right = ([[0.5, 0.5, 0.2, 0.2]], [[-9.0, 9.0]])
    wrong = [
        ([[0.5, 0.5, 0.2, 0.2]], [[9.0, -9.0]]),  # another class
        ([[0.55, 0.5, 0.2, 0.2]], [[-9.0, 9.0]]),  # beside it
        ([[0.5, 0.5, 0.2, 0.2]], [[-9.0, -9.0]]),  # missed
    ]
    losses = [detection_loss(outputs(*answer), [ONE], judged, WEIGHTS).item() for answer in [right, *wrong]]
    assert losses[0] < min(losses[1:])
    assert losses[0] == pytest.approx(0, abs=1e-3)


def test_helpers_count_as_positives_only_while_they_have_a_share():
    found = outputs([[0.5, 0.5, 0.2, 0.2], [0.51, 0.5, 0.2, 0.2]], [[0.0, 0.0], [0.0, 0.0]])
    judged = torch.tensor([[True, True]])
    gradients = []
    for share in (1.0, 0.0):
        found.logits.grad = None
        detection_loss(found, [ONE], judged, WEIGHTS, helper_share=share).backward()
        gradients.append(found.logits.grad[0, 1, 1].item())
    assert gradients[0] < 0 < gradients[1]  # first pulled up, then pushed down
