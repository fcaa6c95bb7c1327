"""An evaluation for people: tables, and one CSV row an image."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medprompt.benchmarks.accuracy.evaluation import EvaluationReport, SetResult, SideResult
from medprompt.core.files import atomic_write
from medprompt.core.output_kinds import file_kind
from medprompt.core.terminal import Table
from medprompt.metrics.bootstrap import Estimate
from medprompt.metrics.coco import SIZED_FIGURES, SizedAccuracy
from medprompt.metrics.curves import FALSE_POSITIVES, every_image_once, froc
from medprompt.metrics.masks import MASK_FIGURES, MASK_PRECISIONS
from medprompt.metrics.matching import IOU, MAX_DETECTIONS, Flags, Matches
from medprompt.metrics.quality import (
    SMALL_PX2,
    box_shift,
    calibration,
    operating_point,
    operating_points,
    recall_by_size,
)

COCO_COLUMNS = ("class", "boxes", "AP", "AP50", "AP75", "AP small", "AP medium", "AP large", "AP50 (95 %)")


def tables(report: EvaluationReport) -> Iterator[Table]:
    """What the command line prints: three tables a set, one more with masks, and the differences from PyTorch."""
    for entry in report.sets:
        yield _coco_table(entry, report)
        if entry.bundle.segm is not None:
            yield _mask_table(entry.name, entry.bundle, entry.bundle.segm)
        yield _froc_table(entry.name, entry.bundle, report)
        yield _reported_table(entry.name, entry.bundle)
        if entry.deltas:
            yield _delta_table(entry, report)


def operating_table(entry: SetResult) -> Table:
    """What a user of the bundle meets at its own thresholds: sensitivity, precision, false positives an image."""
    side, matches = entry.bundle, entry.bundle.matches
    scores = [f"{score:g}" for score in side.thresholds]
    points = {"all": operating_point(matches, side.thresholds), **operating_points(matches, side.thresholds)}
    rows = []
    for (label, point), score in zip(points.items(), ["", *scores], strict=True):
        figures = point.as_json()
        shares = (_number(figures[name]) for name in ("sensitivity", "precision", "false_positives_an_image"))
        rows.append((label, score, *shares, str(point.true_positives + point.missed)))
    columns = ("class", "threshold", "sensitivity", "precision", "false positives an image", "boxes")
    caption = f"{matches.image_count} images; right: an unclaimed labelled box of the class is met at IoU {IOU:g}"
    return Table(f"{entry.name}: at the bundle's own thresholds", columns, rows, caption)


def _coco_table(entry: SetResult, report: EvaluationReport) -> Table:
    matches, coco, estimates = entry.bundle.matches, entry.bundle.coco, entry.bundle.estimates
    counts = np.bincount(matches.box_classes, minlength=len(matches.labels))
    rows = [("all", str(counts.sum()), *_shown(coco.overall), str(estimates["ap50"]))]
    rows += [
        (label, str(count), *_shown(coco.by_label[label]), str(estimates[f"ap50/{label}"]))
        for label, count in zip(matches.labels, counts, strict=True)
    ]
    caption = (
        f"{matches.image_count} images, engine {report.device}; no more than {MAX_DETECTIONS} detections an image and "
        f"class count; intervals: bootstrap over images, {report.resamples} draws, seed {report.seed}"
    )
    return Table(f"{entry.name}: COCO", COCO_COLUMNS, rows, caption)


def _shown(figures: dict[str, float]) -> list[str]:
    return [_number(figures[name]) for name in SIZED_FIGURES]


def _mask_table(name: str, side: SideResult, segm: SizedAccuracy) -> Table:
    figures = ("segm_ap50", *MASK_FIGURES)
    rows = [
        (label, _number(coco["ap"]), *(str(side.estimates[f"{figure}{ending}"]) for figure in figures))
        for label, ending, coco in (
            ("all", "", segm.overall),
            *((label, f"/{label}", coco) for label, coco in segm.by_label.items()),
        )
    ]
    columns = ("class", "AP", "AP50 (95 %)", "mask IoU (95 %)", "Dice (95 %)", "boundary F1 (95 %)")
    caption = (
        "AP by masks, not boxes; the others: all masks of a class in an image together, at the bundle's thresholds, "
        "mean over images that have the class or where it is reported"
    )
    return Table(f"{name}: masks", columns, rows, caption)


def _froc_table(name: str, side: SideResult, report: EvaluationReport) -> Table:
    matches = side.matches
    once = every_image_once(matches.image_count)
    columns = ("class", *(f"{rate:g}" for rate in FALSE_POSITIVES), "mean (95 %)")
    whole = froc(matches.ranked, once)
    rows = [("all", *map(_number, whole.sensitivities), str(side.estimates["sensitivity"]))]
    rows += [
        (label, *map(_number, froc(ranked, once).sensitivities), str(side.estimates[f"sensitivity/{label}"]))
        for label, ranked in zip(matches.labels, matches.by_class, strict=True)
    ]
    intervals = ", ".join(f"{r:g}: {side.estimates[f'sensitivity@{r:g}']}" for r in (0.5, 1.0, 8.0))
    caption = f"all at {intervals}; the curve ends at {whole.reached:.1f} false positives an image"
    return Table(f"{name}: sensitivity at false positives an image (IoU 0.5)", columns, rows, caption)


def _reported_table(name: str, side: SideResult) -> Table:
    matches = side.matches
    reported = matches.reported(side.thresholds)
    point = operating_point(matches, side.thresholds).as_json()
    shift, sizes = box_shift(matches, reported).as_json(), recall_by_size(matches, reported)
    small, centre, side_px = sizes["small"], shift["centre_px"], shift["side_px"]
    rows = [
        ("sensitivity", _number(point["sensitivity"]), f"{point['true_positives']} found, {point['missed']} missed"),
        ("precision", _number(point["precision"]), f"{point['false_positives']} false positives"),
        ("false positives an image", _number(point["false_positives_an_image"]), ""),
        ("recall of small boxes", _number(small["recall"]), f"{small['labelled']} under {SMALL_PX2**0.5:.0f}² px"),
        ("centre shift, median px", _number(centre["median"]), f"p95 {_number(centre['p95'])}"),
        ("largest side shift, median px", _number(side_px["median"]), f"p95 {_number(side_px['p95'])}"),
        ("calibration error (ECE)", _number(calibration(matches.ranked).ece), "all scores from 0.05"),
    ]
    thresholds = ", ".join(f"{label} {score:g}" for label, score in zip(matches.labels, side.thresholds, strict=True))
    return Table(f"{name}: as reported, from {thresholds}", ("", "", ""), rows)


def _delta_table(entry: SetResult, report: EvaluationReport) -> Table:
    masks = (*MASK_PRECISIONS, *MASK_FIGURES) if entry.bundle.segm is not None else ()
    names = ("ap", "ap50", *masks, "sensitivity", *(f"sensitivity@{rate:g}" for rate in FALSE_POSITIVES))
    theirs = entry.reference.estimates if entry.reference else {}
    rows = [
        (name, _number(entry.bundle.estimates[name].value), _number(theirs[name].value), _signed(entry.deltas[name]))
        for name in names
    ]
    parity = entry.parity
    caption = "" if parity is None else f"{parity.kept:.2%} of {parity.decisions} decisions kept"
    return Table(f"{entry.name}: bundle less PyTorch, paired", ("", "bundle", "PyTorch", "Δ (95 %)"), rows, caption)


def _signed(delta: Estimate) -> str:
    return f"{delta.value:+.4f} ({delta.low:+.4f} … {delta.high:+.4f})"


def _number(value: float | None) -> str:
    return "-" if value is None or np.isnan(value) else f"{value:.3f}"


SIDE_COLUMNS = ("true_positives", "false_positives", "missed", "small_found", "median_centre_shift_px")


IMAGE_COLUMNS = ("data", "image", "width", "height", "labelled", "small_labelled")
IMAGE_TABLE = file_kind("a table of images", ",".join(IMAGE_COLUMNS))


def write_csv(report: EvaluationReport, path: Path) -> None:
    """Write one row an image: what is labelled, and what is reported at the bundle's thresholds.

    Raises:
        InputError: The path cannot be written to.
    """
    compared = any(entry.reference for entry in report.sets)
    columns = [*IMAGE_COLUMNS, *SIDE_COLUMNS]
    columns += [f"pytorch_{name}" for name in SIDE_COLUMNS] if compared else []
    with atomic_write(path) as aside, aside.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(columns)
        for entry in report.sets:
            writer.writerows(_csv_rows(entry))


def _csv_rows(entry: SetResult) -> Iterator[Sequence[Any]]:
    sides = [side for side in (entry.bundle, entry.reference) if side is not None]
    reported = [side.matches.reported(side.thresholds) for side in sides]
    for index, image in enumerate(entry.predictions.labelled.images):
        height, width = image.size_hw
        matches = entry.bundle.matches
        labelled = matches.box_images == index
        small = labelled & _small(matches)
        cells: list[Any] = [entry.name, image.path.name, width, height, int(labelled.sum()), int(small.sum())]
        for side, rows in zip(sides, reported, strict=True):
            cells.extend(_side_cells(side.matches, rows & (side.matches.images == index), index))
        yield cells


def _small(matches: Matches) -> Flags:
    sides = matches.truth_xyxy[:, 2:] - matches.truth_xyxy[:, :2]
    small: Flags = sides.prod(axis=1) < SMALL_PX2
    return small


def _side_cells(matches: Matches, rows: Flags, index: int) -> list[Any]:
    """``SIDE_COLUMNS`` of the detections of one image."""
    true, found = int((rows & matches.hits).sum()), matches.found(rows)
    shift = box_shift(matches, rows).as_json()["centre_px"]["median"]
    return [
        true,
        int(rows.sum()) - true,
        int((matches.box_images == index).sum()) - true,
        int((found & _small(matches)).sum()),
        "" if shift is None else round(shift, 3),
    ]
