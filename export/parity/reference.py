"""What PyTorch decides: the checkpoint run as transformers documents it, and an own decision rule in numpy.

Nothing here is shared with the graph or the runtime (but the box functions): a mistake there must show as a
difference.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from medprompt.core.boxes import nms, xyxy_from_cxcywh
from medprompt.core.detections import Detections
from medprompt.core.manifest import Postprocess, Preprocess
from medprompt.core.masks import Masks
from medprompt.export.families.base import Family, RawOutputs
from medprompt.images.resize import model_hw
from medprompt.metrics.agreement import TIE
from medprompt.prompts.schema import Prompts


def reference_detections(
    family: Family, image_rgb: NDArray[np.uint8], prompts: Prompts, postprocess: Postprocess
) -> Detections:
    """Detect in an image, uint8 ``[H, W, 3]``, with transformers' own processor and model; see ``decide``."""
    raw = family.reference(image_rgb, prompts.texts, prompts.task)
    size_hw = (image_rgb.shape[0], image_rgb.shape[1])
    return decide(raw, prompts, postprocess, family.preprocess(), size_hw)


def decide(
    raw: RawOutputs, prompts: Prompts, postprocess: Postprocess, preprocess: Preprocess, size_hw: tuple[int, int]
) -> Detections:
    """Turn the raw outputs of one image into detections, in float64.

    Args:
        raw: ``B`` = 1.
        prompts: Classes and phrases, in the order of the logits' last axis; their pooling counts.
        postprocess: Top-K, labels a query, suppression; not its pooling.
        preprocess: Says whether boxes are relative to the source or to its padded square.
        size_hw: Size of the source image in pixels.
    """
    phrase_scores = raw.logits[0].double().sigmoid().numpy()
    class_scores, speakers = _pooled(phrase_scores, prompts)
    queries, classes = _candidates(class_scores, postprocess.labels_per_query)
    scores = class_scores[queries, classes]
    best = _best_of_levels(scores, queries, raw.levels, postprocess)
    queries, classes = queries[best], classes[best]
    boxes = xyxy_from_cxcywh(raw.boxes_cxcywh[0].double().numpy()[queries]) * _box_scale(size_hw, preprocess)
    found = Detections(
        boxes.astype(np.float32),
        scores[best].astype(np.float32),
        classes.astype(np.int64),
        speakers[queries, classes].astype(np.int64),
        tuple(entry.label for entry in prompts.classes),
        prompts.texts,
        size_hw,
        masks=_masks(raw, queries, postprocess, preprocess, size_hw),
    )
    if postprocess.min_side is not None:
        found = found[np.diff(found.boxes_xyxy.reshape(-1, 2, 2), axis=1).min(axis=(1, 2)) > postprocess.min_side]
    if postprocess.nms_iou is not None:
        class_ids = None if postprocess.nms_across_classes else found.class_ids
        height, width = _box_scale(size_hw, preprocess)[[1, 0]] / model_hw(size_hw, preprocess)
        pixel = (width, height) if postprocess.nms_pixels == "inclusive" else (0.0, 0.0)
        found = found[nms(found.boxes_xyxy, found.scores, postprocess.nms_iou, class_ids, pixel)]
    most = postprocess.max_detections
    found = found if most is None or len(found) <= most else found[found.scores >= found.scores[most - 1]]
    found.boxes_xyxy[:, 2:] += postprocess.end_pixels
    return found


def _masks(
    raw: RawOutputs,
    queries: NDArray[np.int64],
    postprocess: Postprocess,
    preprocess: Preprocess,
    size_hw: tuple[int, int],
) -> Masks | None:
    """Masks of queries ``[K]``, resized and cut as transformers' ``post_process_instance_segmentation`` does."""
    least = postprocess.mask_threshold
    if raw.masks is None or least is None:
        return None
    logits = raw.masks(torch.from_numpy(queries)[None])[0]
    width, height = (round(side) for side in _box_scale(size_hw, preprocess)[:2].tolist())
    # One at a time: all of a large source's would be gigabytes.
    resized = (
        torch.nn.functional.interpolate(one[None, None], size=(height, width), mode="bilinear", align_corners=False)
        for one in logits.sigmoid()
    )
    found = [Masks.of((one[0, :, : size_hw[0], : size_hw[1]] > least).numpy()) for one in resized]
    return Masks.joined(found, size_hw)


def _best_of_levels(
    scores: NDArray[np.float64], queries: NDArray[np.int64], levels: tuple[int, ...], postprocess: Postprocess
) -> NDArray[np.int64]:
    """Indices of the best of all, or of each level's queries, best first; with the rule ``centerness`` none of 0."""
    if postprocess.level_top_k is None:
        return _best(scores, postprocess.top_k)
    ends = np.cumsum(levels)
    kept = []
    for start, end in zip([0, *ends], ends, strict=False):
        own = np.flatnonzero((queries >= start) & (queries < end) & (scores > 0))
        kept.append(own[_best(scores[own], postprocess.level_top_k)])
    every = np.concatenate(kept)
    best: NDArray[np.int64] = every[np.argsort(-scores[every], kind="stable")]
    return best


def _best(scores: NDArray[np.float64], top_k: int) -> NDArray[np.int64]:
    """Indices of the ``top_k`` best, and of all that tie with the last: which of those an engine keeps is chance."""
    order = np.argsort(-scores, kind="stable").astype(np.int64)
    if len(order) <= top_k:
        return order
    best: NDArray[np.int64] = order[scores[order] >= scores[order[top_k - 1]] - TIE]
    return best


def _pooled(phrase_scores: NDArray[np.float64], prompts: Prompts) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Class scores ``[Q, C]`` and the phrase that spoke loudest for each ``[Q, C]``, class by class."""
    scores, speakers, start = [], [], 0
    for entry in prompts.classes:
        weights = np.array([phrase.weight for phrase in entry.phrases])
        weighted = phrase_scores[:, start : start + len(weights)] * weights
        mean = weighted.sum(axis=1) / weights.sum()
        scores.append(mean if prompts.pooling == "mean" else weighted.max(axis=1))
        speakers.append(start + weighted.argmax(axis=1))
        start += len(weights)
    return np.stack(scores, axis=1), np.stack(speakers, axis=1)


def _candidates(
    class_scores: NDArray[np.float64], labels_per_query: str
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Query and class of everything that may become a detection."""
    queries, classes = class_scores.shape
    if labels_per_query == "one":
        return np.arange(queries), class_scores.argmax(axis=1)
    return np.repeat(np.arange(queries), classes), np.tile(np.arange(classes), queries)


def _box_scale(size_hw: tuple[int, int], preprocess: Preprocess) -> NDArray[np.float64]:
    height, width = size_hw
    if preprocess.pad == "square":
        height = width = max(size_hw)
    return np.array([width, height, width, height], dtype=np.float64)
