"""What an engine answered, as detections: threshold, source pixels, suppression."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medprompt.core.boxes import nms
from medprompt.core.detections import Detections
from medprompt.core.manifest import Manifest, Postprocess, Preprocess
from medprompt.images.resize import box_scale, model_hw, own_size_hw
from medprompt.prompts.bank import PromptBank
from medprompt.runtime.masks import source_masks
from medprompt.runtime.outputs import MASKS, OUTPUTS


def decode(
    outputs: Mapping[str, NDArray[Any]],
    bank: PromptBank,
    manifest: Manifest,
    size_hw: tuple[int, int],
    *,
    index: int = 0,
    thresholds: NDArray[np.float32] | float = 0.0,
) -> Detections:
    """Read one image's detections out of a graph's outputs, which ``check_outputs`` has passed.

    It has those at or over the least score (float32 ``[C]``, one a class, or one for all), best first, with boxes in
    source pixels, not clipped to the image of ``size_hw``. Outputs are boxes ``[B, K, 4]``, scores, class and phrase
    ids ``[B, K]``, and masks ``[B, K, h, w]`` where the model makes some: they are made for what is left.
    """
    boxes, scores, class_ids, phrase_ids = (outputs[name][index] for name in OUTPUTS)
    post = manifest.postprocess
    least = np.full(len(bank.labels), thresholds, dtype=np.float32)
    kept = np.flatnonzero((scores >= least[class_ids]) & is_candidate(scores, post))
    order = kept[np.argsort(-scores[kept], kind="stable")]
    scale = np.array(box_scale(size_hw, manifest.preprocess) * 2, dtype=np.float32)
    found = Detections(
        boxes[order].astype(np.float32) * scale,
        scores[order].astype(np.float32),
        class_ids[order].astype(np.int64),
        phrase_ids[order].astype(np.int64),
        bank.labels,
        bank.texts,
        size_hw,
        warnings=(*_stretched(size_hw, manifest.preprocess), *_cut(scores, least, post)),
    )
    kept, told = _survivors(found, post, manifest.preprocess)
    found = _left(found, kept, told, post)
    if post.mask_threshold is None:
        return found
    masks = source_masks(outputs[MASKS][index][order[kept]], post.mask_threshold, size_hw, manifest.preprocess)
    return replace(found, masks=masks)


def _stretched(size_hw: tuple[int, int], spec: Preprocess) -> Iterator[str]:
    """A warning where the checkpoint's own processor would have made another size, by more than a pixel's rounding."""
    if spec.own_size is None:
        return
    own, seen = own_size_hw(size_hw, spec.own_size), model_hw(size_hw, spec)
    if max(abs(side - other) for side, other in zip(own, seen, strict=True)) > 1:
        yield (
            "The model saw {}x{} pixels (height x width) as {}x{}; the checkpoint's own processor would have made them "
            "{}x{}.".format(*size_hw, *seen, *own)
        )


def _cut(scores: NDArray[Any], least: NDArray[np.float32], post: Postprocess) -> Iterator[str]:
    """A warning where the graph may have left out detections that are over a threshold: all K rows are."""
    if post.level_top_k is not None:
        return  # rows that no candidate fills are there as well
    candidates = (post.queries or post.top_k + 1) * (len(least) if post.labels_per_query == "many" else 1)
    if post.top_k < candidates and scores.size and scores.min() >= least.min():
        yield (
            f"All {post.top_k} detections that the model returns an image reach the threshold: there may be more. "
            "Export with a larger top-K, or raise the threshold."
        )


def is_candidate(scores: NDArray[Any], post: Postprocess) -> NDArray[np.bool_]:
    """Which rows ``[K]`` may be detections, whatever the threshold."""
    return scores > 0 if post.score_rule == "centerness" else np.ones(len(scores), dtype=bool)


def suppressed(found: Detections, post: Postprocess, spec: Preprocess) -> Detections:
    """Drop what is too small, what better boxes overlap, then all but the best, as the rules say; best first."""
    return _left(found, *_survivors(found, post, spec), post)


def _survivors(found: Detections, post: Postprocess, spec: Preprocess) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Numbers of the detections that the rules leave, best first, and what a reader should know of it."""
    kept = np.arange(len(found))
    if post.min_side is not None:
        sides = found.boxes_xyxy[:, 2:] - found.boxes_xyxy[:, :2]
        kept = np.flatnonzero(sides.min(axis=1) > post.min_side)
    if post.nms_iou is not None:
        boxes, class_ids = found.boxes_xyxy[kept], None if post.nms_across_classes else found.class_ids[kept]
        pixel = _pixel(found.size_hw, spec) if post.nms_pixels == "inclusive" else (0.0, 0.0)
        kept = kept[nms(boxes, found.scores[kept], post.nms_iou, class_ids, pixel)]
    most = post.max_detections
    if most is None or len(kept) <= most:
        return kept, ()
    best = kept[found.scores[kept] >= found.scores[kept[most - 1]]]  # and those that tie with the last of them
    text = f"Of {len(kept)} detections at or over the threshold the {len(best)} best are kept: the model's own rule."
    return best, (text,)


def _left(found: Detections, kept: NDArray[np.int64], told: tuple[str, ...], post: Postprocess) -> Detections:
    """Those of these numbers, with the pixels that the rules add to every box."""
    left = replace(found[kept], warnings=(*found.warnings, *told))
    ends = np.array([0, 0, post.end_pixels, post.end_pixels], dtype=np.float32)
    return replace(left, boxes_xyxy=left.boxes_xyxy + ends) if post.end_pixels else left


def _pixel(size_hw: tuple[int, int], spec: Preprocess) -> tuple[float, float]:
    """Width and height of one pixel of the model's image in source pixels."""
    (width, height), (rows, columns) = box_scale(size_hw, spec), model_hw(size_hw, spec)
    return width / columns, height / rows
