"""Boxes back from a structured report: the planar regions of TID 1500, by highdicom."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from highdicom.sr import GraphicTypeValues, MeasurementReport, PlanarROIMeasurementsAndQualitativeEvaluations, srread
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from medprompt.core.errors import ImageError, InputError
from medprompt.dicom.header import pydicom_at_work
from medprompt.prompts.schema import Code
from medprompt.reports import codes as concepts


@dataclass(frozen=True)
class Finding:
    """One planar region of a report.

    Attributes:
        box_xyxy: Left, top, right, bottom of its outline, in pixels of the frame.
        score: 0 … 1; None where the report gives no certainty in percent.
        code: What it is; None where the report does not say.
        label: The class as the prompts name it, where medprompt wrote the report; else the code's meaning, or empty.
        tracking_identifier: For people.
        tracking_uid: For machines.
        sop_instance_uid: The image.
        frame: Which of its frames, from 1; None where the report names none.
    """

    box_xyxy: tuple[float, float, float, float]
    score: float | None
    code: Code | None
    label: str
    tracking_identifier: str
    tracking_uid: str
    sop_instance_uid: str
    frame: int | None


@dataclass(frozen=True)
class Report:
    """What a report says.

    Attributes:
        sop_instance_uid: Its own.
        findings: Its planar regions, in their order.
        searched: Whether it says of each frame that a search ran to its end: without that, no findings mean nothing.
        warnings: Of the item, as the results have them.
        comments: The other comments: intended use, what was looked for.
    """

    sop_instance_uid: str
    findings: tuple[Finding, ...]
    searched: bool
    warnings: tuple[str, ...]
    comments: tuple[str, ...]


def report_from_file(path: Path) -> Report:
    """Read a report of template TID 1500, medprompt's own or another's.

    Raises:
        InputError: No such report, or a region that is no outline; no value of the file is quoted.
    """
    try:
        with pydicom_at_work(path, "reading the report"):
            document = srread(path)
            if not isinstance(document.content, MeasurementReport):
                raise TypeError("not TID 1500")
            return _report(str(document.SOPInstanceUID), document.content)
    except ImageError as error:
        raise InputError(
            "The report cannot be read.",
            where=str(path),
            expected="a DICOM SR of template TID 1500 whose regions are polylines",
            got=error.got,
        ) from None


def _report(uid: str, content: MeasurementReport) -> Report:
    frames = content.get_image_measurement_groups()
    said = [one.value for group in frames for one in group.get_qualitative_evaluations(concepts.SUMMARY)]
    comments = [str(text) for group in frames for text in _texts(group[0], concepts.COMMENT)]
    return Report(
        sop_instance_uid=uid,
        findings=tuple(map(_finding, content.get_planar_roi_measurement_groups(reference_type=codes.DCM.ImageRegion))),
        searched=bool(said) and all(value in (concepts.WITH_FINDINGS, concepts.WITHOUT_FINDINGS) for value in said),
        warnings=tuple(text.removeprefix(concepts.WARNING) for text in comments if text.startswith(concepts.WARNING)),
        comments=tuple(text for text in comments if not text.startswith(concepts.WARNING)),
    )


def _finding(group: PlanarROIMeasurementsAndQualitativeEvaluations) -> Finding:
    region = group.roi
    # The points of a circle or an ellipse do not span its bounding box.
    if region is None or region.graphic_type != GraphicTypeValues.POLYLINE:
        raise TypeError("not an outline")
    points = np.asarray(region.value, dtype=np.float64)
    (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
    image = region.ContentSequence[0].ReferencedSOPSequence[0]
    code = _code(group)
    return Finding(
        box_xyxy=(float(left), float(top), float(right), float(bottom)),
        score=_score(group),
        code=code,
        label=_label(group) or (code.meaning if code else ""),
        tracking_identifier=str(group.tracking_identifier or ""),
        tracking_uid=str(group.tracking_uid),
        sop_instance_uid=str(image.ReferencedSOPInstanceUID),
        frame=_frame(image),
    )


def _code(group: PlanarROIMeasurementsAndQualitativeEvaluations) -> Code | None:
    kind = group.finding_type
    if kind is None:
        return None
    return Code(scheme=str(kind.scheme_designator), value=str(kind.value), meaning=str(kind.meaning))


def _score(group: PlanarROIMeasurementsAndQualitativeEvaluations) -> float | None:
    for measurement in group.get_measurements(concepts.CERTAINTY):
        if measurement.unit == concepts.PERCENT and measurement.value is not None:
            return round(float(measurement.value) / 100, 6)
    return None


def _frame(image: Dataset) -> int | None:
    numbers = image.get("ReferencedFrameNumber")
    if numbers is None:
        return None
    if isinstance(numbers, int):
        return int(numbers)
    (only,) = numbers
    return int(only)


def _label(group: PlanarROIMeasurementsAndQualitativeEvaluations) -> str:
    texts = _texts(group[0], codes.DCM.AlgorithmParameters)
    return next((text.removeprefix("label=") for text in texts if text.startswith("label=")), "")


def _texts(item: Dataset, name: Any) -> Iterator[str]:
    """Values of an item's text children with a concept name."""
    for child in item.ContentSequence:
        if child.ValueType == "TEXT" and child.name == name:
            yield str(child.value)
