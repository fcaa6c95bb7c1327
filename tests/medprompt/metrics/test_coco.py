import gc
from pathlib import Path

import numpy as np
import pytest

from medprompt import Detections
from medprompt.data import DetectionSet, LabelledImage
from medprompt.metrics.coco import AccuracyMeter, measure_accuracy

BOXES = np.array([[0, 0, 20, 20], [40, 40, 80, 80]], np.float32)


def labelled(boxes=BOXES, class_ids=(0, 1), labels=("RBC", "WBC")):
    image = LabelledImage(Path("a"), (100, 100), np.asarray(boxes, np.float32).reshape(-1, 4), np.array(class_ids, int))
    return DetectionSet("set", labels, (image,))


def found(boxes=BOXES, class_ids=(0, 1), scores=None, labels=("RBC", "WBC")):
    count = len(boxes)
    scores = np.linspace(0.9, 0.5, count) if scores is None else np.array(scores)
    return Detections(
        np.asarray(boxes, np.float32).reshape(-1, 4),
        scores.astype(np.float32),
        np.array(class_ids, dtype=np.int64),
        np.zeros(count, np.int64),
        labels,
        ("x",),
        (100, 100),
    )


@pytest.mark.parametrize(
    ("detections", "ap", "ap50"),
    [
        (found(), 1, 1),
        (found(boxes=[], class_ids=[]), 0, 0),
        (found(class_ids=(1, 0)), 0, 0),  # swapped classes
        (found(class_ids=(1, 0), labels=("wbc", "rbc")), 1, 1),  # another order and case of the same names
        (found(boxes=BOXES[:1], class_ids=(0,)), 0.5, 0.5),  # one of two classes found
        (
            found(boxes=BOXES + np.array([0, 0, 0, 5], np.float32), class_ids=(0, 1)),
            0.7,
            1,
        ),  # IoU 0.80 and 0.889: 7 of 10 each
    ],
)
def test_average_precision(detections, ap, ap50):
    measured = measure_accuracy(labelled(), [detections])
    assert measured.ap == pytest.approx(ap, abs=0.051)
    assert measured.ap50 == pytest.approx(ap50)


def test_a_duplicate_costs_precision_only_when_it_scores_higher():
    twice = np.concatenate([BOXES[:1], BOXES[:1] + 30, BOXES[1:]])
    low = measure_accuracy(labelled(), [found(twice, (0, 0, 1), (0.9, 0.1, 0.9))])
    high = measure_accuracy(labelled(), [found(twice, (0, 0, 1), (0.8, 0.9, 0.9))])
    assert low.ap50_by_label["RBC"] == pytest.approx(1)
    assert high.ap50_by_label["RBC"] == pytest.approx(0.5)


def test_a_class_without_labels_is_not_measured():
    measured = measure_accuracy(labelled(BOXES[:1], (0,)), [found()])
    assert np.isnan(measured.ap_by_label["WBC"])
    assert measured.ap50 == pytest.approx(1)


def test_more_than_a_hundred_objects_count():
    grid = np.array(
        [[8 * (n % 12), 8 * (n // 12), 8 * (n % 12) + 6, 8 * (n // 12) + 6] for n in range(144)], np.float32
    )
    measured = measure_accuracy(labelled(grid, [0] * 144), [found(grid, [0] * 144)])
    assert measured.ap == pytest.approx(1)


def test_another_number_of_images():
    with pytest.raises(ValueError, match="1 images, got 0"):
        measure_accuracy(labelled(), [])


def scattered(seed, count, labels=("RBC", "WBC")):
    """Random boxes near the labelled ones, of both classes."""
    random = np.random.default_rng(seed)
    boxes = BOXES[random.integers(0, 2, count)] + random.normal(0, 4, (count, 4))
    boxes = np.concatenate([boxes[:, :2], np.maximum(boxes[:, 2:], boxes[:, :2] + 1)], axis=1)
    return found(boxes, random.integers(0, 2, count), np.sort(random.random(count))[::-1], labels)


@pytest.mark.parametrize("counts", [(0, 0), (1, 0), (40, 25), (400, 3)])
def test_a_meter_used_again_gives_the_librarys_own_figure(counts):
    from faster_coco_eval import COCO, COCOeval_faster

    images = labelled().images * 2
    data = DetectionSet("set", ("RBC", "WBC"), images)
    meter = AccuracyMeter(data)
    for seed in range(3):
        answers = [scattered(seed + n, count) for n, count in enumerate(counts)]
        measured = meter.measure(answers)
        assert measured == measure_accuracy(data, answers)
        if not any(counts):
            assert measured.ap == 0
            continue
        rows = [
            {"image_id": n, "category_id": int(c), "bbox": [*map(float, (b[0], b[1], b[2] - b[0], b[3] - b[1]))]}
            for n, one in enumerate(answers)
            for b, c in zip(one.boxes_xyxy.astype(float), one.class_ids, strict=True)
        ]
        scores = [float(score) for one in answers for score in one.scores]
        truth = [
            {"id": i + 1, "image_id": i // 2, "category_id": i % 2, "bbox": [*map(float, (x, y, r - x, b - y))]}
            | {"area": float((r - x) * (b - y)), "iscrowd": 0}
            for i, (x, y, r, b) in enumerate([*BOXES, *BOXES])
        ]
        labels = {
            "info": {},
            "images": [{"id": n, "height": 100, "width": 100} for n in range(2)],
            "annotations": truth,
            "categories": [{"id": 0}, {"id": 1}],
        }
        coco = COCO(labels)
        whole = COCOeval_faster(
            coco,
            coco.loadRes([{**row, "score": score} for row, score in zip(rows, scores, strict=True)]),
            "bbox",
            print_function=lambda *_: None,
        )
        whole.params.maxDets = [1, 10, 300]
        whole.evaluate()
        whole.accumulate()
        assert measured.ap == whole.eval["precision"][:, :, :, 0, -1].mean()
        assert measured.ap50 == whole.eval["precision"][0, :, :, 0, -1].mean()


def test_a_meter_counts_images():
    with pytest.raises(ValueError, match="1 images, got 2"):
        AccuracyMeter(labelled()).measure([found(), found()])


@pytest.mark.parametrize("on", [True, False])
def test_garbage_collection_is_left_as_it_was(on):
    was_on = gc.isenabled()
    try:
        (gc.enable if on else gc.disable)()
        AccuracyMeter(labelled()).measure([found()])
        assert gc.isenabled() is on
    finally:
        (gc.enable if was_on else gc.disable)()
