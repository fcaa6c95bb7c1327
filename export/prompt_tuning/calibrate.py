"""Phrase weights and class thresholds from labelled images: one scale for the phrases of a class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from medprompt.core.boxes import nms
from medprompt.core.detections import Detections
from medprompt.core.errors import DataError, PromptError
from medprompt.core.progress import Progress, Silent
from medprompt.data import DetectionSet
from medprompt.export.embed import bank_from_prompts
from medprompt.export.evaluation.evaluator import PromptEvaluator
from medprompt.export.prompt_tuning.score import raw_outputs
from medprompt.generation.calibration import (
    DIGITS,
    OperatingPoint,
    best_f1,
    hits_of_image,
    image_marks,
    scale_weights,
    sketch_of_marks,
)
from medprompt.prompts.schema import Calibration, PromptClass, Prompts


@dataclass(frozen=True)
class CalibrationRules:
    """What is calibrated, and how the record calls it.

    Attributes:
        weights, thresholds: Set phrase weights; set class thresholds.
        nms_iou: Suppression, within classes, before anything is counted; None: off. As the bundle's runtime has it.
        checkpoint, data, date: SHA-256 of the checkpoint, name of the labelled set, and YYYY-MM-DD, for the record.
    """

    weights: bool = True
    thresholds: bool = False
    nms_iou: float | None = None
    checkpoint: str = ""
    data: str = ""
    date: str | None = None


@dataclass(frozen=True)
class Calibrated:
    """Prompts with their new weights and thresholds, and what they were read from.

    Attributes:
        phrases: (label, phrase) → where the phrase alone decides best; empty where weights were not requested.
        classes: Label → where the class decides best, its phrases together; empty where thresholds were not requested.
        dropped: (label, phrase) of phrases that found nothing, and were left out.
    """

    prompts: Prompts
    phrases: dict[tuple[str, str], OperatingPoint]
    classes: dict[str, OperatingPoint]
    dropped: tuple[tuple[str, str], ...]


def calibrated_prompts(
    evaluator: PromptEvaluator, prompts: Prompts, rules: CalibrationRules, progress: Progress | None = None
) -> Calibrated:
    """Calibrate the classes that a labelled set has; others stay as they are.

    Weights: each phrase answers alone, within one class, and its F1-best threshold is found; its weight is the least
    such threshold of the good phrases of its class over its own, see ``scale_weights``. Thresholds: the classes answer
    together, as they are served, with the new weights, and each class gets its F1-best threshold.

    Raises:
        PromptError: Weights for prompts that are not pooled by max, or a class none of whose phrases finds anything.
        DataError: A set that shares no class with the prompts, or has no box of one.
    """
    progress = progress or Silent()
    if rules.weights:
        _refuse_other_pooling(prompts)
    chosen = prompts_for_labels(prompts, evaluator.labelled)
    _refuse_boxless(chosen, evaluator.labelled)
    points: dict[tuple[str, str], OperatingPoint] = {}
    dropped: tuple[tuple[str, str], ...] = ()
    if rules.weights:
        points = phrase_points(evaluator, chosen, rules.nms_iou, progress)
        dropped = tuple(key for key, point in points.items() if not point.f1)
        chosen = chosen.with_classes(_weighted_class(entry, points) for entry in chosen.classes)
    by_class = class_points(evaluator, chosen, rules.nms_iou) if rules.thresholds else {}
    record = Calibration(
        labels=tuple(entry.label for entry in chosen.classes),
        images=len(evaluator.labelled.images),
        sketch=sketch_of_marks(image_marks(evaluator.labelled)),
        **{name: getattr(rules, name) for name in ("data", "checkpoint", "weights", "thresholds", "date")},
    )
    return Calibrated(_written(prompts, chosen, by_class, record), points, by_class, dropped)


def _refuse_other_pooling(prompts: Prompts) -> None:
    if prompts.pooling != "max" or prompts.ensemble is not None:
        got = f"ensemble: {prompts.ensemble}" if prompts.ensemble else f"pooling: {prompts.pooling}"
        raise PromptError(
            "Weights can be calibrated for max pooling only.",
            expected="pooling: max, and no ensemble",
            got=got,
            fix="set 'pooling: max', or set thresholds alone: weights=False thresholds=True",
        )


def prompts_for_labels(prompts: Prompts, labelled: DetectionSet) -> Prompts:
    """The classes that a labelled set has, matched by label; case is ignored.

    Raises:
        DataError: It has none of them.
    """
    wanted = {label.casefold() for label in labelled.labels}
    classes = tuple(entry for entry in prompts.classes if entry.label.casefold() in wanted)
    if not classes:
        raise DataError(
            "The data set and the prompts have no class in common.",
            where=labelled.name,
            expected=", ".join(entry.label for entry in prompts.classes),
            got=", ".join(labelled.labels),
            fix="label the prompts' classes as the data set does",
        )
    return prompts.with_classes(classes)


def _refuse_boxless(prompts: Prompts, labelled: DetectionSet) -> None:
    empty = [entry.label for entry in prompts.classes if not sum(map(len, boxes_of_label(labelled, entry.label)))]
    if empty:
        raise DataError(
            "The data set has no box of a class, so there is nothing to calibrate it on.",
            where=labelled.name,
            got=", ".join(empty),
            fix="use a set that has, or take the class out of the prompts file",
        )


def boxes_of_label(labelled: DetectionSet, label: str) -> list[NDArray[np.float32]]:
    """Each image's boxes ``[M, 4]`` of one class."""
    class_id = [name.casefold() for name in labelled.labels].index(label.casefold())
    return [image.boxes_xyxy[image.class_ids == class_id] for image in labelled.images]


def phrase_points(
    evaluator: PromptEvaluator, prompts: Prompts, nms_iou: float | None = None, progress: Progress | None = None
) -> dict[tuple[str, str], OperatingPoint]:
    """(label, phrase) → where the phrase alone decides best. All phrases are encoded together, as they are served."""
    progress = progress or Silent()
    plain = prompts.model_copy(update={"ensemble": None})
    bank = bank_from_prompts(evaluator.features.family, plain)
    keys = [(entry.label, phrase.text) for entry in plain.classes for phrase in entry.phrases]
    found: list[list[Detections]] = [[] for _ in keys]
    progress.step(f"{len(keys)} phrases on {len(evaluator.labelled.images)} images", len(evaluator.labelled.images))
    for raw, entry in zip(raw_outputs(evaluator.features, bank), evaluator.labelled.images, strict=True):
        for index, kept in enumerate(found):  # each phrase a class of its own: its names are not those of the bank
            isolated = replace(raw, logits=raw.logits[..., index : index + 1])
            alone = evaluator.selected(isolated, torch.ones(1, 1), bank, entry.size_hw)
            kept.append(_suppressed(alone, nms_iou))
        progress.advance()
    return {
        key: _point(detections, boxes_of_label(evaluator.labelled, key[0]))
        for key, detections in zip(keys, found, strict=True)
    }


def _suppressed(found: Detections, nms_iou: float | None) -> Detections:
    return found if nms_iou is None else found[nms(found.boxes_xyxy, found.scores, nms_iou, found.class_ids)]


def _point(found: Sequence[Detections], boxes: Sequence[NDArray[np.float32]]) -> OperatingPoint:
    hits = [hits_of_image(d.boxes_xyxy, d.scores, own) for d, own in zip(found, boxes, strict=True)]
    return best_f1(np.concatenate([d.scores for d in found]), np.concatenate(hits), sum(map(len, boxes)))


def class_points(
    evaluator: PromptEvaluator, prompts: Prompts, nms_iou: float | None = None
) -> dict[str, OperatingPoint]:
    """Label → where the class decides best, all classes answering together as they are served."""
    bank = bank_from_prompts(evaluator.features.family, prompts)
    found = [_suppressed(detections, nms_iou) for detections in evaluator.detections(bank)]
    return {
        label: _point([d[d.class_ids == class_id] for d in found], boxes_of_label(evaluator.labelled, label))
        for class_id, label in enumerate(bank.labels)
    }


def _weighted_class(entry: PromptClass, points: dict[tuple[str, str], OperatingPoint]) -> PromptClass:
    found = [phrase for phrase in entry.phrases if points[entry.label, phrase.text].f1]
    if not found:
        raise PromptError(
            "No phrase of a class finds a single box, so their scores have no scale.",
            where=entry.label,
            fix="word the class otherwise; see medprompt prompts search",
        )
    weights = scale_weights([points[entry.label, phrase.text] for phrase in found])
    return entry.with_phrases(p.model_copy(update={"weight": w}) for p, w in zip(found, weights, strict=True))


def _written(prompts: Prompts, chosen: Prompts, points: dict[str, OperatingPoint], record: Calibration) -> Prompts:
    """The whole file with the calibrated classes in their positions, and the record of it."""
    ready = {entry.label: entry for entry in chosen.classes}
    set_now = {label: round(point.threshold, DIGITS) for label, point in points.items() if point.f1}  # 0 reports all
    for label, threshold in set_now.items():
        ready[label] = ready[label].model_copy(update={"threshold": threshold})
    record = record.model_copy(update={"chosen": set_now or None})
    classes = tuple(ready.get(entry.label, entry) for entry in prompts.classes)
    return prompts.model_copy(update={"classes": classes, "calibration": (*_older(prompts, record), record)})


def _older(prompts: Prompts, record: Calibration) -> Iterator[Calibration]:
    """Earlier records, less what the new one sets anew.

    A class whose weights are older than its thresholds keeps both records: both sets of images have been seen.
    """
    for old in prompts.calibration or ():
        stays = old.weights > record.weights or old.thresholds > record.thresholds
        labels = tuple(label for label in old.labels if stays or label not in record.labels)
        if labels:
            yield old.model_copy(update={"labels": labels})
