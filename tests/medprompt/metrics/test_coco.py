from pathlib import Path

import numpy as np
import pytest

from medprompt import Detections
from medprompt.data import DetectionSet, LabelledImage
from medprompt.metrics.coco import measure_accuracy

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
