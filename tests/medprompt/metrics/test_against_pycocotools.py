"""Our average precision against the reference implementation of COCO's evaluation, on what goes wrong first."""

from __future__ import annotations

import contextlib
import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from medprompt.core.boxes import area
from medprompt.metrics.coco import SIZED_FIGURES, measure_by_size
from medprompt.metrics.curves import every_image_once, precision_by_recall
from medprompt.metrics.matching import EVERY_AREA, IOUS, MAX_DETECTIONS, Matcher
from medprompt.metrics.quality import SIZES
from tests.medprompt.metrics.cases import found, labelled, random_set

AGREE = 1e-12


def coco_labels(truth: Any) -> dict[str, Any]:
    annotations = [
        {"image_id": n, "category_id": int(class_id), "bbox": [*box[:2], *(box[2:] - box[:2])], "iscrowd": crowd}
        | {"area": size}
        for n, image in enumerate(truth.images)
        for crowd, boxes, ids, areas in (
            (0, image.boxes_xyxy, image.class_ids, image.areas),
            (1, image.ignored_xyxy, image.ignored_ids, None),
        )
        for box, class_id, size in zip(
            boxes.astype(float), ids, area(boxes.astype(float)) if areas is None else areas, strict=True
        )
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


def with_crowds(seed: int, crowds: float, masks: bool, **settings: Any) -> Any:
    """A random set with a share of its boxes, and much of some images, as crowds; masks fill their boxes in part."""
    truth, answers = random_set(seed, **settings)
    random = np.random.default_rng(seed)
    images = []
    for image in truth.images:
        crowd = random.random(len(image.class_ids)) < crowds
        boxes, ids = image.boxes_xyxy[crowd], image.class_ids[crowd]
        if random.random() < crowds:
            boxes, ids = (
                np.append(boxes, np.float32([[50, 0, 400, 380]]), axis=0),
                np.append(ids, random.integers(0, 2)),
            )
        kept = image.boxes_xyxy[~crowd]
        areas = area(kept.astype(float)) * random.uniform(0.3, 1.0, len(kept)) if masks else None
        changes = {"boxes_xyxy": kept, "class_ids": image.class_ids[~crowd], "areas": areas}
        images.append(replace(image, ignored_xyxy=boxes, ignored_ids=ids, **changes))
    return replace(truth, images=tuple(images)), answers


CASES = {
    "crowds": with_crowds(11, 0.3, masks=False, images=25),
    "crowds where objects are dense": with_crowds(12, 0.4, masks=False, images=20, most=30, noise=2.0),
    "nothing but crowds on many images": with_crowds(13, 0.9, masks=False, images=20),
    "mask areas": with_crowds(14, 0.0, masks=True, images=25),
    "mask areas and crowds": with_crowds(15, 0.3, masks=True, images=40, most=20),
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


REGION = np.array([[0, 0, 100, 100]], dtype=np.float32)


@pytest.mark.parametrize(
    ("box", "label", "counts"),
    [
        ((10, 10, 40, 40), 0, False),  # on the crowd, however small
        ((60, 0, 140, 100), 0, False),  # half of it, so at IoU 0.5
        ((61, 0, 141, 100), 0, True),
        ((10, 10, 40, 40), 1, True),  # another class
        ((200, 200, 240, 240), 0, True),
    ],
)
def test_what_is_found_on_a_crowd_counts_neither_as_hit_nor_as_mistake(box: Any, label: int, counts: bool) -> None:
    plain = labelled([((300, 300, 350, 350), 0)])
    image = replace(plain.images[0], ignored_xyxy=REGION, ignored_ids=np.array([0]))
    truth = replace(plain, images=(image,))
    matches = Matcher(truth, [found([(box, label, 0.9), (box, label, 0.8)])]).match()[0]
    assert len(matches.scores) == (2 if counts else 0)
    assert (len(matches.box_images), matches.hits.any()) == (1, False)


def test_an_object_on_a_crowd_is_found_first() -> None:
    plain = labelled([((10, 10, 40, 40), 0)])
    truth = replace(plain, images=(replace(plain.images[0], ignored_xyxy=REGION, ignored_ids=np.array([0])),))
    matches = Matcher(truth, [found([((10, 10, 40, 40), 0, 0.9), ((10, 10, 40, 40), 0, 0.8)])]).match()[0]
    assert (matches.answers.tolist(), matches.scores.round(2).tolist()) == ([0], [0.9])
