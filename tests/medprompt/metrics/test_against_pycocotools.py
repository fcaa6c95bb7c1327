"""Our average precision against the reference implementation of COCO's evaluation, on what goes wrong first."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest

from medprompt.metrics.coco import SIZED_FIGURES, measure_by_size
from medprompt.metrics.curves import every_image_once, precision_by_recall
from medprompt.metrics.matching import EVERY_AREA, IOUS, MAX_DETECTIONS, Matcher
from medprompt.metrics.quality import SIZES
from tests.medprompt.metrics.cases import found, labelled, random_set

AGREE = 1e-12


def coco_labels(truth: Any) -> dict[str, Any]:
    annotations = [
        {"image_id": n, "category_id": int(class_id), "bbox": [*box[:2], *(box[2:] - box[:2])], "iscrowd": 0}
        | {"area": (box[2] - box[0]) * (box[3] - box[1])}
        for n, image in enumerate(truth.images)
        for box, class_id in zip(image.boxes_xyxy.astype(float), image.class_ids, strict=True)
    ]
    return {
        "images": [{"id": n, "height": 400, "width": 400} for n in range(len(truth.images))],
        "annotations": [{"id": n, **row} for n, row in enumerate(annotations, start=1)],
        "categories": [{"id": n, "name": label} for n, label in enumerate(truth.labels)],
    }


def coco_results(answers: Any) -> list[dict[str, Any]]:
    return [
        {"image_id": n, "category_id": int(class_id), "bbox": [*box[:2], *(box[2:] - box[:2])], "score": float(score)}
        for n, one in enumerate(answers)
        for box, class_id, score in zip(one.boxes_xyxy.astype(float), one.class_ids, one.scores, strict=True)
    ]


def our_precision(truth: Any, answers: Any) -> Any:
    """Precision ``[IoU, recall, class, area]``; -1 where nothing is labelled."""
    matcher, once = Matcher(truth, answers), every_image_once(len(answers))
    by_area = [
        [
            [precision_by_recall(ranked, once) for ranked in matches.by_class]
            for matches in matcher.match(IOUS, (areas,))
        ]
        for areas in (EVERY_AREA, *SIZES.values())
    ]
    return np.nan_to_num(np.array(by_area), nan=-1.0).transpose(1, 3, 2, 0)


def by_pycocotools(truth: Any, answers: Any) -> Any:
    """Precision ``[IoU, recall, class, area]``."""
    pytest.importorskip("pycocotools")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = coco_labels(truth)
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(coco_results(answers)), "bbox")
        evaluation.params.maxDets = [1, 10, MAX_DETECTIONS]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"][..., -1]


def crowded(count: int) -> Any:
    """One image of ``count`` objects, each found twice, and one empty image with a detection."""
    boxes = [(25 * (n % 15), 25 * (n // 15), 25 * (n % 15) + 20, 25 * (n // 15) + 20) for n in range(count)]
    truth = labelled([(box, 0) for box in boxes], [])
    rows = [(box, 0, 0.5 + n / 1000) for n, box in enumerate(boxes)]
    shifted = [((x + 2, y + 1, r + 2, b), 0, 0.3 + n / 1000) for n, (x, y, r, b) in enumerate(boxes)]
    return truth, [found([*rows[::2], *shifted[1::2]]), found([(boxes[0], 0, 0.4)])]


CASES = {
    "many images": random_set(1, images=20),
    "empty images": random_set(2, images=12, empty=6),
    "150 objects an image": crowded(150),
    "225 objects an image": crowded(225),
    "seeds and sizes": random_set(7, images=30, most=20, noise=2.0),
    "one class without labels": (
        labelled([((5, 5, 60, 60), 0)]),
        [found([((5, 5, 60, 50), 0, 0.9), ((5, 5, 9, 9), 1, 1)])],
    ),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", CASES)
def test_every_precision_agrees(name: str) -> None:
    truth, answers = CASES[name]
    theirs = by_pycocotools(truth, answers)
    assert np.abs(our_precision(truth, answers) - theirs).max() <= AGREE
    measured = measure_by_size(truth, answers).overall
    means = [theirs[..., 0], theirs[0, ..., 0], theirs[5, ..., 0], *(theirs[..., size] for size in (1, 2, 3))]
    for figure, precision in zip(SIZED_FIGURES, means, strict=True):
        valid = precision[precision > -1]
        assert measured[figure] == pytest.approx(valid.mean() if valid.size else np.nan, abs=AGREE, nan_ok=True)


def test_sizes_without_labels_are_not_measured_even_where_nothing_is_found() -> None:
    measured = measure_by_size(labelled([((0, 0, 20, 20), 0)]), [found([])])
    assert measured.overall["ap"] == measured.overall["ap_small"] == 0.0
    assert np.isnan(measured.overall["ap_large"])
    assert np.isnan(measured.by_label["WBC"]["ap50"])
