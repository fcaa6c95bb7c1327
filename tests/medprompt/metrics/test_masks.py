"""Figures of masks: average precision as pycocotools has it, IoU, Dice and boundary F1 of masks that can be counted."""

from __future__ import annotations

import contextlib
import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from medprompt.core.detections import Detections
from medprompt.core.errors import DataError
from medprompt.core.masks import Masks
from medprompt.data.outlines import Outline
from medprompt.metrics.bootstrap import draw_images
from medprompt.metrics.coco import SIZED_FIGURES, measure_by_size
from medprompt.metrics.curves import every_image_once, precision_by_recall
from medprompt.metrics.masks import (
    TOLERANCE,
    boundary,
    boundary_f1,
    mask_figures,
    measure_masks,
    resample_mask_precision,
)
from medprompt.metrics.matching import EVERY_AREA, IOUS, MAX_DETECTIONS, Matcher
from medprompt.metrics.quality import SIZES
from tests.medprompt.metrics.cases import SIZE_HW, found, labelled
from tests.medprompt.metrics.test_against_pycocotools import AGREE, with_crowds

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of pycocotools
ROWS, COLUMNS = np.mgrid[: SIZE_HW[0], : SIZE_HW[1]]


def ellipses(boxes: Any, random: np.random.Generator) -> Masks:
    """A mask in each box, with some columns left out."""
    pixels = []
    for left, top, right, bottom in np.asarray(boxes, float):
        y, x = (top + bottom) / 2, (left + right) / 2
        shape = ((ROWS - y) / (bottom - top)) ** 2 + ((COLUMNS - x) / (right - left)) ** 2 <= 0.25
        pixels.append(shape & (COLUMNS % 7 != random.integers(0, 20)))
    return Masks.of(np.array(pixels, bool).reshape(-1, *SIZE_HW))


def outlines(masks: Masks) -> tuple[Outline, ...]:
    return tuple(Outline(masks.rle(row), "test") for row in range(len(masks)))


def with_masks(seed: int, crowds: float, stated: bool) -> Any:
    """A random set whose objects, crowds and detections are ellipses; areas are stated or counted."""
    truth, answers = with_crowds(seed, crowds, masks=False, images=8, most=8, noise=3.0)
    random, images = np.random.default_rng(seed), []
    for image in truth.images:
        own, ignored = ellipses(image.boxes_xyxy, random), ellipses(image.ignored_xyxy, random)
        areas = own.areas * random.uniform(0.8, 1.2, len(own)) if stated else None
        shapes = {"outlines": outlines(own), "ignored_outlines": outlines(ignored)}
        images.append(replace(image, areas=areas, **shapes))
    answers = [replace(one, masks=ellipses(one.boxes_xyxy, random)) for one in answers]
    return replace(truth, images=tuple(images)), answers


def segm_by_pycocotools(truth: Any, answers: Any) -> Any:
    """Precision ``[IoU, recall, class, area]``."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    annotations = [
        {"image_id": n, "category_id": int(class_id), "segmentation": masks.rle(row), "iscrowd": crowd}
        | {"area": float(areas[row]), "bbox": [0, 0, 1, 1]}
        for n, image in enumerate(truth.images)
        for crowd, masks, ids, areas in (
            (0, image.masks, image.class_ids, image.masks.areas if image.areas is None else image.areas),
            (1, image.ignored_masks, image.ignored_ids, image.ignored_masks.areas),
        )
        for row, class_id in enumerate(ids)
    ]
    results = [
        {"image_id": n, "category_id": int(one.class_ids[row]), "segmentation": one.masks.rle(row)}
        | {"score": float(one.scores[row])}
        for n, one in enumerate(answers)
        for row in range(len(one))
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": n, "height": 400, "width": 400} for n in range(len(truth.images))],
            "annotations": [{"id": n, **row} for n, row in enumerate(annotations, start=1)],
            "categories": [{"id": n, "name": label} for n, label in enumerate(truth.labels)],
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "segm")
        evaluation.params.maxDets = [1, 10, MAX_DETECTIONS]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"][..., -1]


@pytest.mark.parametrize(("seed", "crowds", "stated"), [(3, 0.0, False), (4, 0.0, True), (5, 0.3, False)])
def test_average_precision_by_masks_is_that_of_pycocotools(seed: int, crowds: float, stated: bool) -> None:
    truth, answers = with_masks(seed, crowds, stated)
    theirs = segm_by_pycocotools(truth, answers)
    matcher, once = Matcher(truth, answers, masks=True), every_image_once(len(answers))
    ours = [
        [[precision_by_recall(ranked, once) for ranked in one.by_class] for one in matcher.match(IOUS, (areas,))]
        for areas in (EVERY_AREA, *SIZES.values())
    ]
    assert np.abs(np.nan_to_num(np.array(ours), nan=-1.0).transpose(1, 3, 2, 0) - theirs).max() <= AGREE
    measured = measure_by_size(truth, answers, masks=True).overall
    means = [theirs[..., 0], theirs[0, ..., 0], theirs[5, ..., 0], *(theirs[..., size] for size in (1, 2, 3))]
    for figure, precision in zip(SIZED_FIGURES, means, strict=True):
        valid = precision[precision > -1]
        assert measured[figure] == pytest.approx(valid.mean() if valid.size else np.nan, abs=AGREE, nan_ok=True)
    drawn = resample_mask_precision(truth, answers, draw_images(len(answers), 20))
    assert drawn.estimates()["segm_ap"].value == pytest.approx(measured["ap"])
    assert drawn.estimates()["segm_ap50/WBC"].low < drawn.estimates()["segm_ap50/WBC"].high
    assert measured["ap"] != measure_by_size(truth, answers).overall["ap"]


def rectangle(top: int, left: int, bottom: int, right: int) -> Any:
    return (ROWS >= top) & (ROWS < bottom) & (COLUMNS >= left) & (COLUMNS < right)


SQUARE = rectangle(100, 100, 200, 200)
REACH = int(TOLERANCE * np.hypot(*SIZE_HW))  # 4 pixels


@pytest.mark.parametrize(
    ("reported", "iou", "dice", "edges"),
    [
        pytest.param(SQUARE, 1.0, 1.0, 1.0, id="equal"),
        pytest.param(np.zeros(SIZE_HW, bool), 0.0, 0.0, 0.0, id="nothing reported"),
        pytest.param(rectangle(100, 150, 200, 250), 1 / 3, 0.5, None, id="half"),
        pytest.param(rectangle(100, 100 + REACH, 200, 200 + REACH), 96 / 104, 0.96, 1.0, id="shifted within reach"),
        pytest.param(rectangle(100 + 9, 100 + 9, 191, 191), 0.6724, 0.80411, 0.0, id="edges apart"),
        pytest.param(rectangle(300, 300, 310, 310), 0.0, 0.0, 0.0, id="elsewhere"),
    ],
)
def test_figures_of_two_masks(reported: Any, iou: float, dice: float, edges: float | None) -> None:
    for wanted, other in ((SQUARE, reported), (reported, SQUARE)):
        measured = mask_figures(wanted, other)
        assert measured[:2] == pytest.approx((iou, dice), abs=1e-5)
        assert edges is None or measured[2] == pytest.approx(edges)


def test_nothing_says_nothing() -> None:
    assert np.isnan(mask_figures(np.zeros((3, 3), bool), np.zeros((3, 3), bool))).all()
    assert np.isnan(boundary_f1(np.zeros((3, 3), bool), np.zeros((3, 3), bool)))


@pytest.mark.parametrize("seed", range(6))
def test_boundary_f1_is_that_of_distances(seed: int) -> None:
    random = np.random.default_rng(seed)
    size = (int(random.integers(150, 400)), int(random.integers(150, 400)))
    first, second = (ndimage.gaussian_filter(random.random(size), 9) > 0.505 for _ in range(2))
    reach = TOLERANCE * np.hypot(*size)
    edges = [mask & ~ndimage.binary_erosion(mask, border_value=0) for mask in (first, second)]
    near = [ndimage.distance_transform_edt(~edge) <= reach for edge in edges]
    recall, precision = near[1][edges[0]].mean(), near[0][edges[1]].mean()
    assert boundary_f1(first, second) == pytest.approx(2 * recall * precision / (recall + precision))
    assert np.array_equal(boundary(first), edges[0])


def masked(*rows: Any) -> Detections:
    """Detections of mask, class and score, best first."""
    pixels = Masks.of(np.array([mask for mask, _, _ in rows], bool).reshape(-1, *SIZE_HW))
    boxes = [(box.tolist(), class_id, score) for box, (_, class_id, score) in zip(pixels.boxes_xyxy, rows, strict=True)]
    return replace(found(boxes), masks=pixels)


def set_of(*images: Any) -> Any:
    """Images of masks and their classes."""
    rows, shapes = [], []
    for one in images:
        pixels = Masks.of(np.array([mask for mask, _ in one], bool).reshape(-1, *SIZE_HW))
        rows.append([(box.tolist(), class_id) for box, (_, class_id) in zip(pixels.boxes_xyxy, one, strict=True)])
        shapes.append(outlines(pixels))
    truth = labelled(*rows)
    images = [replace(image, outlines=own) for image, own in zip(truth.images, shapes, strict=True)]
    return replace(truth, images=tuple(images))


LEFT, RIGHT = rectangle(100, 100, 200, 150), rectangle(100, 150, 200, 200)


def test_masks_of_a_class_count_together_at_its_threshold() -> None:
    truth = set_of([(SQUARE, 0)], [(LEFT, 0), (RIGHT, 0), (SQUARE, 1)], [])
    answers = [
        masked((LEFT, 0, 0.9), (RIGHT, 0, 0.4), (SQUARE, 1, 0.3)),  # the right half is under the threshold
        masked((SQUARE, 0, 0.8)),  # one mask for two objects; the other class is missed
        masked((LEFT, 1, 0.95)),  # where nothing is
    ]
    measured = measure_masks(truth, answers, (0.5, 0.9))
    np.testing.assert_allclose(measured.values[..., 1], [[2 / 3, np.nan], [1, 0], [np.nan, 0]])
    figures = measured.resample(draw_images(3, 200)).estimates()
    assert figures["dice"].value == pytest.approx((2 / 3 + 1) / 4)
    assert (figures["dice/RBC"].value, figures["mask_iou/RBC"].value) == pytest.approx((5 / 6, 0.75))
    assert figures["dice/WBC"].value == 0
    assert figures["dice"].low < figures["dice"].value < figures["dice"].high


def test_pixels_of_a_crowd_are_left_out() -> None:
    truth = set_of([(LEFT, 0)])
    crowd = {"ignored_xyxy": np.float32([[150, 100, 200, 200]]), "ignored_ids": np.array([0])}
    ignoring = replace(truth, images=(replace(truth.images[0], **crowd),))
    answers = [masked((SQUARE, 0, 0.9))]
    assert measure_masks(truth, answers, (0.5, 0.5)).values[0, 0, 0] == pytest.approx(0.5)
    assert measure_masks(ignoring, answers, (0.5, 0.5)).values[0, 0, 0] == 1


def test_a_draw_without_the_class_has_no_figure() -> None:
    measured = measure_masks(set_of([(LEFT, 0)], []), [masked((LEFT, 0, 0.9)), masked()], (0.5, 0.5))
    resampled = measured.resample(np.array([[0, 2], [2, 0]]))
    assert np.isnan(resampled.draws[0]).all()
    assert resampled.draws[1, :3].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("truth", "answers", "message"),
    [
        (set_of([(LEFT, 0)]), [replace(masked((LEFT, 0, 0.9)), masks=None)], "the model makes none"),
        (labelled([((0, 0, 9, 9), 0)]), [masked((LEFT, 0, 0.9))], "without an outline"),
    ],
)
def test_where_there_are_no_masks_there_are_no_figures(truth: Any, answers: Any, message: str) -> None:
    for measure in (
        lambda: measure_masks(truth, answers, (0.5, 0.5)),
        lambda: measure_by_size(truth, answers, masks=True),
    ):
        with pytest.raises(DataError, match=message):
            measure()
