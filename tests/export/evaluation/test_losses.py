import pytest
import torch

from medprompt.export.evaluation.losses import LossWeights, detection_loss, match_objects, pairwise_iou
from medprompt.export.families.base import RawOutputs

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
    match = match_objects(torch.zeros(4, 2), boxes, ONE, LossWeights(one_to_many=1), None)
    assert (match.queries.tolist(), match.objects.tolist()) == ([1], [0])
    assert (match.extra_queries.tolist(), match.extra_objects.tolist()) == ([2], [0])


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
    assert match.extra_queries.tolist() == []


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
    annotated = torch.tensor([[True, True]])
    right = ([[0.5, 0.5, 0.2, 0.2]], [[-9.0, 9.0]])
    wrong = [
        ([[0.5, 0.5, 0.2, 0.2]], [[9.0, -9.0]]),  # another class
        ([[0.55, 0.5, 0.2, 0.2]], [[-9.0, 9.0]]),  # beside it
        ([[0.5, 0.5, 0.2, 0.2]], [[-9.0, -9.0]]),  # missed
    ]
    losses = [detection_loss(outputs(*answer), [ONE], annotated, WEIGHTS).item() for answer in [right, *wrong]]
    assert losses[0] < min(losses[1:])
    assert losses[0] == pytest.approx(0, abs=1e-3)


def test_helpers_count_as_positives_only_while_they_have_a_share():
    found = outputs([[0.5, 0.5, 0.2, 0.2], [0.51, 0.5, 0.2, 0.2]], [[0.0, 0.0], [0.0, 0.0]])
    annotated = torch.tensor([[True, True]])
    gradients = []
    for share in (1.0, 0.0):
        found.logits.grad = None
        detection_loss(found, [ONE], annotated, WEIGHTS, one_to_many_weight=share).backward()
        gradients.append(found.logits.grad[0, 1, 1].item())
    assert gradients[0] < 0 < gradients[1]  # first pulled up, then pushed down


GRID = torch.stack(torch.meshgrid(*[(torch.arange(4) + 0.5) / 4] * 2, indexing="xy"), dim=-1).flatten(0, 1)
CORNER = torch.tensor([[0.125, 0.125, 0.1, 0.1]])  # in the first cell; within reach (one cell) of four


def grid_outputs(logits):
    boxes = torch.cat([GRID, torch.full_like(GRID, 0.2)], dim=1)
    return RawOutputs(logits[None].requires_grad_(), boxes[None].requires_grad_())


@pytest.mark.parametrize(
    ("centres", "held_out", "ignored"),
    [
        (GRID, CORNER, [0, 1, 4, 5]),  # the queries that could have matched it
        (None, CORNER, []),  # no box of these lies in it by half
        (None, torch.tensor([[0.25, 0.25, 0.5, 0.5]]), [0, 1, 4, 5]),
        (None, torch.tensor([[0.5, 0.5, 1.0, 1.0]]), list(range(16))),
        (GRID, torch.zeros(0, 4), []),
    ],
)
def test_answers_at_a_held_out_object_count_for_nothing(centres, held_out, ignored):
    annotated, logits = torch.tensor([[True, True]]), torch.linspace(-2, 2, 32).view(16, 2)
    found = grid_outputs(logits.clone())
    loss = detection_loss(found, [{**NOTHING, "held_out": held_out}], annotated, WEIGHTS, centres)
    if len(ignored) < 16:
        loss.backward()
        silent = (found.logits.grad[0] == 0).all(dim=1)
        assert silent.nonzero().flatten().tolist() == ignored
    changed = logits.clone()
    changed[ignored] += 5
    other = detection_loss(grid_outputs(changed), [{**NOTHING, "held_out": held_out}], annotated, WEIGHTS, centres)
    assert other.item() == loss.item()
    changed[[n for n in range(16) if n not in ignored][:1]] += 5
    heard = detection_loss(grid_outputs(changed), [{**NOTHING, "held_out": held_out}], annotated, WEIGHTS, centres)
    assert (heard.item() == loss.item()) == (len(ignored) == 16)


def test_a_labelled_object_beside_a_held_out_one_is_learned():
    annotated, logits = torch.tensor([[True, True]]), torch.zeros(16, 2)
    labelled = {**target([[0.125, 0.125, 0.2, 0.2]], [1]), "held_out": CORNER}
    found = grid_outputs(logits)
    detection_loss(found, [labelled], annotated, LossWeights(one_to_many=1), GRID, one_to_many_weight=1.0).backward()
    gradient = found.logits.grad[0]
    assert gradient[0, 1] < 0 < gradient[0, 0]
    assert ((gradient[[1, 4, 5]] != 0).any(dim=1)).sum() == 1  # its helper; the other two are held out
    assert (gradient[6] > 0).all()


@pytest.mark.parametrize(
    ("fits", "signs"),
    [([-1, 1, 1], [1, -1, -1]), ([-1, 1, -1], [1, -1, 1]), ([-1, 1, 0], [1, -1, 0])],
)
def test_a_phrase_that_fits_is_a_positive_and_a_doubtful_one_is_neither(fits, signs):
    found = outputs([[0.5, 0.5, 0.2, 0.2], [0.1, 0.1, 0.1, 0.1]], [[0.0, 0.0, 0.0]] * 2)
    described = {**ONE, "fits": torch.tensor([fits], dtype=torch.int8)}
    detection_loss(found, [described], torch.tensor([[True] * 3]), LossWeights(one_to_many=0)).backward()
    assert found.logits.grad[0, 0].sign().tolist() == signs
    assert (found.logits.grad[0, 1] > 0).all()  # where nothing is, no phrase fits


def test_an_object_of_no_class_is_matched_by_its_place_whatever_the_scores():
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.52, 0.5, 0.2, 0.2]])
    shape = target([[0.5, 0.5, 0.2, 0.2]], [-1])
    match = match_objects(torch.tensor([[-9.0, -9.0], [9.0, 9.0]]), boxes, shape, WEIGHTS, None)
    assert match.queries.tolist() == [0]


def test_without_word_of_what_fits_an_object_fits_its_class():
    annotated = torch.tensor([[True, True]])
    answers = outputs([[0.5, 0.5, 0.2, 0.2], [0.52, 0.5, 0.2, 0.2]], [[0.3, -0.2], [0.1, 0.5]])
    described = {**ONE, "fits": torch.tensor([[-1, 1]], dtype=torch.int8)}
    for share in (0.0, 0.5):
        losses = [
            detection_loss(answers, [t], annotated, WEIGHTS, one_to_many_weight=share).item() for t in (ONE, described)
        ]
        assert losses[0] == losses[1]


@pytest.mark.parametrize(("balance", "factor"), [((), 1.0), ((1.0, 3.0), 3.0), ((3.0, 1.0), 1.0)])
def test_objects_of_a_rare_class_count_more_in_the_classification(balance: tuple[float, ...], factor: float) -> None:
    box = torch.tensor([[0.5, 0.5, 0.2, 0.2]])
    target = {"boxes": box, "classes": torch.tensor([1])}
    logits = torch.tensor([[[-2.0, -1.0]]], requires_grad=True)
    outputs = RawOutputs(logits, box[None])
    annotated = torch.tensor([[False, True]])
    plain = detection_loss(outputs, [target], annotated, LossWeights(one_to_many=0))
    weighed = detection_loss(outputs, [target], annotated, LossWeights(one_to_many=0, balance=balance))
    assert weighed.item() == pytest.approx(factor * plain.item(), rel=1e-6)  # the box is right: no other loss
