"""faster-coco-eval against the reference implementation of COCO's evaluation, on what goes wrong first."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest

from medprompt.metrics.coco import MAX_DETECTIONS, SIZED_FIGURES, AccuracyMeter, _coco_labels, _coco_results
from tests.medprompt.metrics.cases import found, labelled, random_set

AGREE = 1e-6


def by_pycocotools(truth: Any, answers: Any) -> Any:
    """Precision ``[IoU, recall, class, area]``."""
    pytest.importorskip("pycocotools")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = _coco_labels(truth)
        coco.createIndex()
        rows = [{k: v for k, v in row.items() if k != "segmentation"} for row in _coco_results(truth, answers)]
        evaluation = COCOeval(coco, coco.loadRes(rows), "bbox")
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
    assert np.abs(AccuracyMeter(truth)._precision(answers, areas=4) - theirs).max() <= AGREE
    measured = AccuracyMeter(truth).measure_by_size(answers).overall
    means = [theirs[..., 0], theirs[0, ..., 0], theirs[5, ..., 0], *(theirs[..., size] for size in (1, 2, 3))]
    for figure, precision in zip(SIZED_FIGURES, means, strict=True):
        valid = precision[precision > -1]
        assert measured[figure] == pytest.approx(valid.mean() if valid.size else np.nan, abs=AGREE, nan_ok=True)


def test_sizes_without_labels_are_not_measured_even_where_nothing_is_found() -> None:
    measured = AccuracyMeter(labelled([((0, 0, 20, 20), 0)])).measure_by_size([found([])])
    assert measured.overall["ap"] == measured.overall["ap_small"] == 0.0
    assert np.isnan(measured.overall["ap_large"])
    assert np.isnan(measured.by_label["WBC"]["ap50"])
