"""Accuracy by what is known about images: scanner, site, stain. And shifts of boxes in millimetres."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medprompt.benchmarks.accuracy.evaluation import EvaluationReport, SetResult
from medprompt.core.errors import DataError
from medprompt.core.terminal import Table
from medprompt.metrics.bootstrap import Estimate, MatchedSet, draw_images
from medprompt.metrics.quality import box_shift

FILE, SPACING = "file", "spacing_mm"
"""Columns of the table of images with a meaning of their own: an image's name, and millimetres a pixel."""

Metadata = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class Slice:
    """The images of a set that share a value of a field.

    Attributes:
        ap50, sensitivity: Of the bundle, with intervals over these images.
        delta_ap: The bundle's AP less PyTorch's, paired; None without a reference.
        centre_mm: Median distance of reported true positives from their labels; None where no spacing is known.
    """

    data: str
    field: str
    value: str
    images: int
    boxes: int
    ap50: Estimate
    sensitivity: Estimate
    delta_ap: Estimate | None
    centre_mm: float | None

    def as_json(self) -> dict[str, Any]:
        """Everything measured."""
        figures = {"ap50": self.ap50.as_json(), "sensitivity": self.sensitivity.as_json()}
        delta = self.delta_ap.as_json() if self.delta_ap else None
        return {**vars(self), **figures, "delta_ap": delta}

    def row(self) -> tuple[str, ...]:
        """For the table."""
        mm = "-" if self.centre_mm is None else f"{self.centre_mm:.3f}"
        delta = "-" if self.delta_ap is None else str(self.delta_ap)
        counts = (str(self.images), str(self.boxes))
        return (self.data, f"{self.field}: {self.value}", *counts, str(self.ap50), str(self.sensitivity), delta, mm)


def metadata_from_csv(path: Path) -> Metadata:
    """Read a table of images: a column ``file`` (names without folders), any others, ``spacing_mm`` among them.

    Raises:
        DataError: It cannot be read, has no column ``file``, names a file twice, or a spacing is no positive number.
    """
    try:
        with path.open(newline="", encoding="utf-8") as handle:
            rows = list(csv.DictReader(handle))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError("The table of images cannot be read.", where=str(path), got=str(error)) from error
    if not rows or FILE not in rows[0]:
        raise DataError(
            "The table of images names no files.",
            where=str(path),
            expected=f"rows, and a column {FILE}",
            got="none",
            fix="write a header and a row an image, its name without folders",
        )
    names = [row[FILE] for row in rows]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(
            "The table of images names a file twice.",
            where=str(path),
            got=", ".join(twice[:5]),
            fix="keep one row of each; images of one name in several folders need names of their own",
        )
    for row in rows:
        _spacing(row, path)
    return {row[FILE]: {key: value for key, value in row.items() if key and key != FILE} for row in rows}


def _spacing(row: Mapping[str, str], path: Path | str = "") -> float | None:
    text = (row.get(SPACING) or "").strip()
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 < value < float("inf"):
        raise DataError(
            "A pixel spacing is not valid.",
            where=f"{path}, {row.get(FILE)}",
            expected="millimetres a pixel, above 0",
            got=repr(text),
            fix="correct it, or leave the cell empty where the spacing is not known",
        )
    return value


def slices_of_report(report: EvaluationReport, metadata: Metadata) -> list[Slice]:
    """Measure each set again by each value of each column, and whole where a spacing is known.

    Raises:
        DataError: An image that was measured is not in the table.
    """
    return [part for entry in report.sets for part in _slices(entry, report, metadata)]


def _slices(entry: SetResult, report: EvaluationReport, metadata: Metadata) -> Iterator[Slice]:
    names = [image.path.name for image in entry.predictions.labelled.images]
    absent = [name for name in names if name not in metadata]
    if absent:
        raise DataError(
            "Images are missing in the table of images.",
            where=entry.name,
            got=f"{len(absent)}: {', '.join(absent[:5])}",
            fix="add a row for each",
        )
    about = [metadata[name] for name in names]
    fields = [field for field in about[0] if field != SPACING]
    if any(_spacing(row) for row in about):
        yield _measured(entry, report, "all", "images", range(len(names)), about)
    for field in fields:
        for value in sorted({row.get(field) or "" for row in about}):
            indices = [index for index, row in enumerate(about) if (row.get(field) or "") == value]
            yield _measured(entry, report, field, value, indices, about)


def _measured(
    entry: SetResult,
    report: EvaluationReport,
    field: str,
    value: str,
    indices: Sequence[int],
    about: Sequence[Mapping[str, str]],
) -> Slice:
    predictions = entry.predictions
    labelled = replace(predictions.labelled, images=tuple(predictions.labelled.images[index] for index in indices))
    draws = draw_images(len(indices), report.resamples, report.seed)
    own = MatchedSet(labelled, [predictions.bundle[index] for index in indices])
    figures = own.resample(draws)
    estimates = figures.estimates()
    delta = None
    if predictions.reference:
        other = MatchedSet(labelled, [predictions.reference[index] for index in indices]).resample(draws)
        delta = figures.less(other)["ap"]
    return Slice(
        entry.name,
        field,
        value,
        len(indices),
        sum(len(image.boxes_xyxy) for image in labelled.images),
        estimates["ap50"],
        estimates["sensitivity"],
        delta,
        _centre_mm(own, entry.bundle.thresholds, [_spacing(about[index]) for index in indices]),
    )


def _centre_mm(own: MatchedSet, thresholds: Sequence[float], spacings: Sequence[float | None]) -> float | None:
    matches = own.at_half
    reported = matches.reported(thresholds)
    scale = np.array([np.nan if one is None else one for one in spacings])
    shifts = box_shift(matches, reported).centres * scale[matches.images[reported & matches.hits]]
    known = shifts[np.isfinite(shifts)]
    return float(np.median(known)) if len(known) else None


def slices_table(parts: Sequence[Slice]) -> Table:
    """One row a slice."""
    columns = ("set", "images of", "images", "boxes", "AP50 (95 %)", "sensitivity", "ΔAP", "centre shift mm")
    return Table("By what is known about the images", columns, [part.row() for part in parts], "")
