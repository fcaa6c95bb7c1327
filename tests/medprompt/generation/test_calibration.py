"""Operating points, matching and marks, by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medprompt.core.errors import PromptError
from medprompt.data import DetectionSet, LabelledImage
from medprompt.generation.calibration import (
    NEAR_BEST,
    SKETCH,
    OperatingPoint,
    best_f1,
    calibrated_labels,
    hits_of_image,
    image_marks,
    records_that_saw,
    scale_weights,
    sketch_of_marks,
    without_weights,
)
from medprompt.prompts.file import prompts_from_raw, prompts_from_yaml, save_prompts
from medprompt.prompts.schema import Prompts

RECORD = {
    "labels": ["a"],
    "data": "set:train",
    "images": 2,
    "sketch": "00000001 00000002",
    "checkpoint": "c",
    "weights": True,
    "thresholds": False,
}


@pytest.mark.parametrize(
    ("scores", "hits", "boxes", "threshold", "f1"),
    [
        ([], [], 3, 0.0, 0.0),
        ([0.9, 0.5], [False, False], 3, 0.0, 0.0),
        ([0.0], [True], 1, 0.0, 0.0),
        ([0.9], [True], 1, 0.45, 1.0),
        ([0.9, 0.5], [True, False], 1, 0.7, 1.0),
        ([0.5, 0.9], [False, True], 1, 0.7, 1.0),  # any order
        ([0.9, 0.8, 0.4], [True, True, False], 4, 0.6, 2 / 3),
        ([0.9, 0.9, 0.4], [True, False, False], 1, 0.65, 2 / 3),  # a threshold lets both equals in
        ([0.8, 0.6, 0.4, 0.2], [True, False, False, True], 2, 0.7, 2 / 3),  # 2/3 at 0.1 too: the highest is kept
    ],
)
def test_best_f1(scores, hits, boxes, threshold, f1):
    point = best_f1(np.array(scores, dtype=np.float64), np.array(hits, dtype=bool), boxes)
    assert (point.threshold, point.f1) == (pytest.approx(threshold), pytest.approx(f1))


@given(st.lists(st.tuples(st.integers(0, 20), st.booleans()), max_size=30), st.integers(1, 40))
@settings(max_examples=50, deadline=None)
def test_no_threshold_is_better(rows, spare):
    scores = np.array([score / 20 for score, _ in rows])
    hits = np.array([hit for _, hit in rows], dtype=bool)
    boxes = int(hits.sum()) + spare
    point = best_f1(scores, hits, boxes)
    tried = [0.0] + [2 * hits[scores >= t].sum() / ((scores >= t).sum() + boxes) for t in set(scores[scores > 0])]
    assert point.f1 == pytest.approx(max(tried))
    if point.f1:
        kept = scores >= point.threshold
        assert 2 * hits[kept].sum() / (kept.sum() + boxes) == pytest.approx(point.f1)


BOX = [0, 0, 10, 10]
SHIFTED = [0, 0, 10, 8]
FAR = [50, 50, 60, 60]


@pytest.mark.parametrize(
    ("found", "scores", "boxes", "hits"),
    [
        ([], [], [BOX], []),
        ([BOX], [0.9], [], [False]),
        ([BOX, SHIFTED], [0.5, 0.9], [BOX], [False, True]),  # the better scored one takes the box
        ([BOX, SHIFTED, FAR], [0.9, 0.5, 0.4], [BOX, FAR], [True, False, True]),
        ([BOX, SHIFTED], [0.9, 0.5], [SHIFTED, BOX], [True, True]),  # each the one it overlaps most
        ([[0, 0, 10, 4]], [0.9], [BOX], [False]),  # IoU 0.4
        ([[0, 0, 10, 5]], [0.9], [BOX], [True]),  # IoU 0.5
    ],
)
def test_matching(found, scores, boxes, hits):
    found, boxes = (np.array(rows, dtype=np.float32).reshape(-1, 4) for rows in (found, boxes))
    assert hits_of_image(found, np.array(scores), boxes).tolist() == hits


def points(*pairs):
    return [OperatingPoint(threshold, f1, f1, f1, 9) for threshold, f1 in pairs]


@pytest.mark.parametrize(
    ("pairs", "weights"),
    [
        ([], ()),
        ([(0.3, 0.1)], (1.0,)),
        ([(0.2, 0.5), (0.4, 0.5), (0.8, 0.5)], (1.0, 0.5, 0.25)),
        ([(1e-9, 0.5), (1.0, 0.5)], (1.0, 1e-4)),
        ([(0.4, 0.5), (0.2, 0.45)], (0.5, 1.0)),  # 0.9 of the best F1 is good
        ([(0.4, 0.5), (0.2, 0.44)], (1.0, 1.0)),  # poor and quiet: it stays quiet
        ([(0.4, 0.5), (0.8, 0.1)], (1.0, 0.5)),  # poor and loud: it is brought down
    ],
)
def test_weights(pairs, weights):
    assert scale_weights(points(*pairs)) == pytest.approx(weights)


@given(st.lists(st.tuples(st.floats(0.05, 1), st.floats(0.01, 1)), min_size=1, max_size=8))
@settings(max_examples=50, deadline=None)
def test_weighted_scores_of_good_phrases_meet_and_none_is_over_them(pairs):
    found = points(*pairs)
    scaled = [weight * point.threshold for weight, point in zip(scale_weights(found), found, strict=True)]
    best = max(point.f1 for point in found)
    good = [score for score, point in zip(scaled, found, strict=True) if point.f1 >= NEAR_BEST * best]
    assert good == pytest.approx([good[0]] * len(good), abs=1e-4)
    assert max(scaled) <= max(good) + 1e-4


def test_marks(tmp_path):
    images = []
    for name, content in (("a", b"1"), ("b", b"2"), ("c", b"1")):
        (tmp_path / name).write_bytes(content)
        none = np.zeros((0, 4), np.float32)
        images.append(LabelledImage(tmp_path / name, (1, 1), none, np.zeros(0, np.int64)))
    marks = image_marks(DetectionSet("s", ("a",), tuple(images)))
    assert len(marks) == 2  # equal bytes are one image
    assert all(len(mark) == 8 for mark in marks)


def test_a_sketch_is_the_least_marks():
    marks = [f"{n:08x}" for n in range(200)]
    assert sketch_of_marks(reversed(marks)).split() == marks[:SKETCH]


@pytest.mark.parametrize(
    ("labels", "marks", "record", "count"),
    [
        (["a"], ["00000002", "ffffffff"], {}, 1),
        (["a"], ["ffffffff"], {}, 0),
        (["b"], ["00000002"], {}, 0),
        (["a"], ["00000002"], {"weights": False, "thresholds": True}, 0),
        (["a"], [], {}, 0),
    ],
)
def test_who_saw_the_images(labels, marks, record, count):
    prompts = Prompts.model_validate(
        {"classes": [{"label": "a", "phrases": ["x"]}], "calibration": [{**RECORD, **record}]}
    )
    assert len(records_that_saw(prompts, labels, marks)) == count


def test_without_weights_only_calibrated_classes_change():
    phrases = [{"text": "x", "weight": 0.5}]
    other = [{"text": "y", "weight": 0.5}]
    raw = {"classes": [{"label": "a", "phrases": phrases}, {"label": "b", "phrases": other}], "calibration": [RECORD]}
    prompts = Prompts.model_validate(raw)
    assert calibrated_labels(prompts) == {"a"}
    plain = without_weights(prompts)
    assert [entry.phrases[0].weight for entry in plain.classes] == [1.0, 0.5]


def test_a_record_reads_back(tmp_path):
    raw = {"classes": [{"label": "a", "phrases": ["x"]}], "calibration": [RECORD]}
    save_prompts(Prompts.model_validate(raw), tmp_path / "p.yaml")
    assert prompts_from_yaml(tmp_path / "p.yaml").calibration[0].data == "set:train"


@pytest.mark.parametrize(
    "damage",
    [{"sketch": ""}, {"sketch": "xyz"}, {"images": 0}, {"labels": []}, {"date": "today"}, {"more": 1}],
)
def test_damaged_records(damage):
    raw = {"classes": [{"label": "a", "phrases": ["x"]}], "calibration": [{**RECORD, **damage}]}
    with pytest.raises(PromptError, match="not valid"):
        prompts_from_raw(raw, "p.yaml")
