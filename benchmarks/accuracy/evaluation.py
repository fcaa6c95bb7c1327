"""How accurate a bundle is on labelled images: COCO's figures and those of a reader study, with intervals.

With the checkpoint beside it, every figure's difference from PyTorch has a paired interval, and decisions are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from medprompt.benchmarks.accuracy.predictions import (
    Predictions,
    own_labels,
    predict_dataset,
    reference_of_checkpoint,
    short_name,
)
from medprompt.benchmarks.latency.machine import describe_machine
from medprompt.bundles.load import Bundle, load_bundle
from medprompt.core.detections import Detections
from medprompt.core.errors import DataError, InputError
from medprompt.core.manifest import ParityRecord
from medprompt.core.progress import Progress, Silent
from medprompt.data import DetectionSet, read_detection_set
from medprompt.metrics.agreement import check_decisions
from medprompt.metrics.bootstrap import RESAMPLES, Estimate, MatchedSet, Resampled, draw_images
from medprompt.metrics.coco import SizedAccuracy, measure_by_size
from medprompt.metrics.curves import every_image_once, froc, number, precision_recall_points
from medprompt.metrics.masks import resample_masks
from medprompt.metrics.matching import IOU, MAX_DETECTIONS, Matches
from medprompt.metrics.quality import box_shift, calibration, operating_point, operating_points, recall_by_size
from medprompt.prompts.bank import PromptBank
from medprompt.runtime.detector import Detector
from medprompt.runtime.verify import tolerance_of_device

Data = DetectionSet | Path | str
"""A data set, or what is read as one."""


@dataclass(frozen=True)
class SideResult:
    """The bundle, or PyTorch, on one set: ``matches`` at IoU 0.5, ``thresholds`` one score a class of the set.

    ``segm`` is ``coco`` by masks; None where these were not measured.
    """

    coco: SizedAccuracy
    matches: Matches
    resampled: Resampled
    thresholds: tuple[float, ...]
    segm: SizedAccuracy | None = None

    @cached_property
    def estimates(self) -> dict[str, Estimate]:
        """Figures with intervals, see ``figure_names``, ``resample_mask_precision`` and ``MaskQuality.resample``."""
        return self.resampled.estimates()

    def as_json(self) -> dict[str, Any]:
        """Everything measured."""
        matches, labels = self.matches, self.matches.labels
        rows, once = matches.reported(self.thresholds), every_image_once(matches.image_count)
        classes = list(zip(labels, matches.by_class, strict=True))
        return {
            "coco": _numbers(self.coco.overall),
            "coco_by_label": {label: _numbers(figures) for label, figures in self.coco.by_label.items()},
            **({} if self.segm is None else _segm(self.segm)),
            "estimates": {name: estimate.as_json() for name, estimate in self.estimates.items()},
            "froc": froc(matches.ranked, once).as_json(),
            "froc_by_label": {label: froc(ranked, once).as_json() for label, ranked in classes},
            "precision_recall_by_label": {label: precision_recall_points(ranked) for label, ranked in classes},
            "calibration": calibration(matches.ranked).as_json(),
            "calibration_by_label": {label: calibration(ranked).as_json() for label, ranked in classes},
            "thresholds": dict(zip(labels, self.thresholds, strict=True)),
            "reported": operating_point(matches, self.thresholds).as_json(),
            "reported_by_label": {
                label: point.as_json() for label, point in operating_points(matches, self.thresholds).items()
            },
            "reported_box_shift": box_shift(matches, rows).as_json(),
            "reported_recall_by_size": recall_by_size(matches, rows),
        }


@dataclass(frozen=True)
class SetResult:
    """The figures of one labelled set, and the bundle's decisions against PyTorch's where it was run."""

    predictions: Predictions
    bundle: SideResult
    reference: SideResult | None = None
    parity: ParityRecord | None = None

    @property
    def name(self) -> str:
        """The set's name, short."""
        return short_name(self.predictions.labelled.name)

    @cached_property
    def deltas(self) -> dict[str, Estimate]:
        """The bundle's figures less PyTorch's, paired; empty without a reference."""
        return self.bundle.resampled.less(self.reference.resampled) if self.reference else {}

    def as_json(self) -> dict[str, Any]:
        """Everything measured."""
        labelled = self.predictions.labelled
        return {
            "name": labelled.name,
            "labels": list(labelled.labels),
            "images": len(labelled.images),
            "boxes": sum(len(image.boxes_xyxy) for image in labelled.images),
            "dropped_boxes": list(labelled.dropped),
            "ignored_regions": sum(len(image.ignored_ids) for image in labelled.images),
            "label_warnings": list(labelled.warnings),
            "unread": list(self.predictions.unread),
            "bundle": self.bundle.as_json(),
            "reference": self.reference.as_json() if self.reference else None,
            "deltas": {name: estimate.as_json() for name, estimate in self.deltas.items()},
            "parity": self.parity.model_dump(mode="json") if self.parity else None,
        }


@dataclass(frozen=True)
class EvaluationReport:
    """All sets, on one engine and machine (see ``describe_machine``); ``resamples`` and ``seed`` of the intervals."""

    sets: tuple[SetResult, ...]
    device: str
    bundle_sha256: str
    bank_sha256: str
    resamples: int
    seed: int
    machine: dict[str, Any]

    @property
    def failed(self) -> tuple[SetResult, ...]:
        """Sets on which the bundle decides otherwise than PyTorch."""
        return tuple(entry for entry in self.sets if entry.parity and not entry.parity.passed)

    @property
    def unread(self) -> tuple[str, ...]:
        """Every image that could not be read."""
        return tuple(line for entry in self.sets for line in entry.predictions.unread)

    def as_json(self) -> dict[str, Any]:
        """Everything measured."""
        return {
            "device": self.device,
            "bundle_sha256": self.bundle_sha256,
            "bank_sha256": self.bank_sha256,
            "matching": {"rule": "greedy by score, within image and class", "iou": IOU},
            "most_detections_an_image_and_class": MAX_DETECTIONS,
            "intervals": {
                "level": 0.95,
                "method": "percentile bootstrap over images",
                "resamples": self.resamples,
                "seed": self.seed,
            },
            "sets": [entry.as_json() for entry in self.sets],
            "machine": self.machine,
        }


def evaluate_bundle(
    bundle: Bundle | Path | str,
    data: Data | Sequence[Data],
    *,
    checkpoint: Path | str | None = None,
    bank: PromptBank | None = None,
    device: str = "auto",
    threads: int | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    strict: bool = False,
    masks: bool = False,
    progress: Progress | None = None,
) -> EvaluationReport:
    """Measure a bundle on labelled images, each set with the phrases of its own classes.

    Args:
        bundle: A bundle, or its folder.
        data: Labelled images: ``FILE.json`` (COCO), ``FOLDER:SPLIT`` (VOC), ``data.yaml:SPLIT`` (YOLO), a set that was
            read, or several of these. Their categories are matched to the classes by name.
        checkpoint: The checkpoint that the bundle was made from, to compare with.
        bank: Prompts to use instead of the bundle's own.
        device: The bundle's engine.
        threads: CPU threads of the engine and of PyTorch; their own choice where None.
        resamples: Draws of the intervals.
        seed: Of the draws.
        strict: Stop at an image that cannot be read; else it is left out and listed.
        masks: Refuse what has no masks to measure; else they are measured where bundle and labels have some.
        progress: Notified of each image.

    Raises:
        DataError: A category without a class, no image that can be read, or no masks where they are demanded.
        InputError: See ``load_bundle``, ``reference_of_checkpoint`` and ``Detector.load``.
    """
    progress = progress or Silent()
    several = [data] if isinstance(data, str | Path | DetectionSet) else data
    labelled = [one if isinstance(one, DetectionSet) else read_detection_set(str(one)) for one in several]
    loaded = load_bundle(bundle)
    prompts_used = loaded.bank if bank is None else bank
    labelled = [one.covered_by(prompts_used.labels) for one in labelled]
    if masks:
        _check_masks(loaded, labelled)
    banks = [prompts_used.subset(own_labels(prompts_used, entry)) for entry in labelled]
    reference = reference_of_checkpoint(loaded, Path(checkpoint), threads) if checkpoint else None
    results, served = [], device
    for entry, own in zip(labelled, banks, strict=True):
        with Detector.load(loaded, device, prompts=own, threshold=0.0, threads=threads) as detector:
            served = detector.choice.device
            progress.step(f"detect on {short_name(entry.name)}", len(entry.images))
            predictions = predict_dataset(detector, entry, progress, reference, strict)
            progress.step(f"measure on {short_name(entry.name)}")
            results.append(evaluate_predictions(predictions, detector, resamples, seed))
    return EvaluationReport(
        tuple(results), served, loaded.sha256, prompts_used.content_hash(), resamples, seed, describe_machine()
    )


def evaluate_predictions(
    predictions: Predictions, detector: Detector, resamples: int = RESAMPLES, seed: int = 0
) -> SetResult:
    """Measure the predictions on one set; the thresholds and tolerances of the bundle that predicted them hold."""
    draws = draw_images(len(predictions.labelled.images), resamples, seed)
    thresholds = reporting_thresholds(predictions.labelled.labels, detector)
    masked = detector.manifest.postprocess.mask_threshold is not None

    def side(found: Sequence[Detections]) -> SideResult:
        labelled, matched = predictions.labelled, MatchedSet(predictions.labelled, found)
        coco, resampled = measure_by_size(labelled, found), matched.resample(draws)
        if not (masked and labelled.masked):
            return SideResult(coco, matched.at_half, resampled, thresholds)
        resampled = resampled.beside(resample_masks(labelled, found, thresholds, draws))
        segm = measure_by_size(labelled, found, masks=True)
        return SideResult(coco, matched.at_half, resampled, thresholds, segm)

    bundle = side(predictions.bundle)
    if not predictions.reference:
        return SetResult(predictions, bundle)
    return SetResult(predictions, bundle, side(predictions.reference), _parity(predictions, detector))


def reporting_thresholds(labels: Sequence[str], detector: Detector) -> tuple[float, ...]:
    """What the bundle reports from, whatever the detector was loaded with: one score a label of a set."""
    default = detector.manifest.default_threshold
    own = {entry.label.casefold(): entry.threshold for entry in detector.bank.prompts.classes}
    chosen = (own[label.casefold()] for label in labels)
    return tuple(default if one is None else one for one in chosen)


def _check_masks(bundle: Bundle, labelled: Sequence[DetectionSet]) -> None:
    """Refuse a bundle or a set that has no masks to measure."""
    if bundle.manifest.postprocess.mask_threshold is None:
        raise InputError(
            "The bundle makes no masks.",
            where=str(bundle.path),
            expected="a family that makes masks",
            got=bundle.manifest.family,
            fix="measure its boxes: leave masks= out",
        )
    for one in labelled:
        if not one.masked:
            raise DataError(
                "The labels have no masks to measure against.",
                where=one.name,
                expected="a segmentation of each object",
                got="boxes without an outline",
                fix="label the outlines (COCO segmentations, YOLO polygons), or leave masks= out",
            )


def _segm(accuracy: SizedAccuracy) -> dict[str, Any]:
    return {
        "segm": _numbers(accuracy.overall),
        "segm_by_label": {label: _numbers(figures) for label, figures in accuracy.by_label.items()},
    }


def _numbers(figures: dict[str, float]) -> dict[str, float | None]:
    return {name: number(value) for name, value in figures.items()}


def _parity(predictions: Predictions, detector: Detector) -> ParityRecord:
    return check_decisions(
        list(zip(predictions.reference, predictions.bundle, strict=True)),
        detector.manifest.default_threshold,
        tolerance_of_device(detector.bundle, detector.choice.device),
        predictions.labelled.name,
        detector.manifest.postprocess.top_k,
    )
