"""What was found in a DICOM frame, as a structured report: Comprehensive SR, template TID 1500, by highdicom.

A report is made of an item of the results and of its image's patient and study. One group of it speaks of the whole
frame: what was looked for, whether anything was found, warnings. Each detection is a group of its own (TID 1410).

Its UIDs are names for what it says (UUID of version 5 under the root 2.25, PS3.5, B.2): the same image, bundle,
prompts, engine, versions and detections give the same UIDs, and any other gives others.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import starmap
from typing import Any

import highdicom
import numpy as np
from highdicom import sr
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import VLWholeSlideMicroscopyImageStorage
from pydicom.valuerep import DA, DT, TM

from medprompt.reports import codes as concepts
from medprompt.reports.source import ReportSource
from medprompt.results.run import Item, Run

SERIES_NUMBER = 9001
"""Far from the numbers that a scanner gives the series of a study."""


@dataclass(frozen=True)
class Names:
    """The UIDs of a report, and the frame that it speaks of.

    Attributes:
        report: Its SOP instance UID.
        series: All reports of one run on one series of images.
        device: The bundle.
        image: SOP class and instance UID of the image.
        frames: The frame, where the file has several or is of a slide.
        part: Tells the frames of one report apart, where it speaks of several.
    """

    report: str
    series: str
    device: str
    image: tuple[str, str]
    frames: list[int] | None
    part: tuple[str, ...] = ()


def report_uid(item: Item, run: Run, source: ReportSource) -> str:
    """SOP instance UID of an item's report."""
    said = {name: value for name, value in item.as_json().items() if name not in ("file", "overlay")}
    return stable_uid("report", means_of(run), str(source.reference.SOPInstanceUID), json.dumps(said, sort_keys=True))


def report_from_item(item: Item, run: Run, source: ReportSource, when: datetime) -> sr.ComprehensiveSR:
    """Make the report of an analysed DICOM frame.

    Args:
        item: The frame, analysed; boxes in pixels of the stored frame. A report's boxes are clipped to it, since
            coordinates must be inside (PS3.3, table C.18.6-1).
        run: With what it was analysed.
        source: The frame's file.
        when: When the report was made, with its time zone.

    Raises:
        ValueError: The item was not analysed, or is of no DICOM file.
    """
    if item.detections is None or item.dicom is None:
        raise ValueError("expected an analysed DICOM frame: of any other nothing is known, and nothing is reported")
    names = _names(item, run, source)
    rows = list(item.detections.rows())
    size_hw = item.detections.size_hw
    findings = [finding_group(number, row, size_hw, run, names) for number, row in enumerate(rows, start=1)]
    groups = [frame_group(item, run, names), *findings]
    number = item.frame or source.instance_number
    return document(groups, [source], run, names, when, number=number)


def document(
    groups: Sequence[Any],
    sources: Sequence[ReportSource],
    run: Run,
    names: Names,
    when: datetime,
    *,
    number: int,
) -> sr.ComprehensiveSR:
    """The report of measurement groups; patient and study are the first source's."""
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=device_observer(run, names)),
        procedure_reported=concepts.PROCEDURE,
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    report = sr.ComprehensiveSR(
        evidence=[source.reference for source in sources],
        content=content,
        series_instance_uid=names.series,
        series_number=SERIES_NUMBER,
        sop_instance_uid=names.report,
        instance_number=number,
        manufacturer="medprompt",
        manufacturer_model_name="medprompt",
        software_versions=version_of(run),
        device_serial_number=run.bundle_sha256,
        series_description=concepts.long_string(f"medprompt: {run.intended_use}"),
        is_complete=True,
        is_final=False,
        is_verified=False,
        specific_character_set="ISO_IR 192",
        coding_schemes=[concepts.PRIVATE_SCHEME_ITEM],
    )
    report.update(sources[0].copied)
    set_time(report, when)
    return report


def _names(item: Item, run: Run, source: ReportSource) -> Names:
    image = str(source.reference.SOPClassUID), str(source.reference.SOPInstanceUID)
    frame = numbered_frame(item, source)
    return Names(
        report=report_uid(item, run, source),
        series=stable_uid("series", means_of(run), str(source.reference.SeriesInstanceUID)),
        device=stable_uid("device", run.bundle_sha256),
        image=image,
        frames=None if frame is None else [frame],
    )


def numbered_frame(item: Item, source: ReportSource) -> int | None:
    """The frame that a reference must name: where the file has several, or is of a slide."""
    slide = source.reference.SOPClassUID == VLWholeSlideMicroscopyImageStorage
    return item.frame or (1 if slide else None)


def finding_uid(report: str, number: int, *part: str) -> str:
    """Tracking UID of the detection of this number, from 1, in a report or a part of it."""
    return stable_uid("finding", report, *part, str(number))


def means_of(run: Run) -> str:
    """All that a report depends on beside the image and what was found in it."""
    means = {**run.head_json(), "intended_use": run.intended_use, "highdicom": highdicom.__version__}
    return json.dumps(means, sort_keys=True)


def stable_uid(kind: str, *parts: str) -> str:
    """A UID that names what its parts say."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(['medprompt', kind, *parts])).int}"


def version_of(run: Run) -> str:
    """The version of medprompt that made the run."""
    return dict(run.versions).get("medprompt", "not known")


def device_observer(run: Run, names: Names) -> sr.ObserverContext:
    """The observer: this software with this bundle."""
    about = sr.DeviceObserverIdentifyingAttributes(
        uid=names.device,
        name="medprompt",
        manufacturer_name="medprompt",
        model_name=f"medprompt {version_of(run)}",
        serial_number=run.bundle_sha256,
    )
    return sr.ObserverContext(observer_type=codes.DCM.Device, observer_identifying_attributes=about)


def frame_group(item: Item, run: Run, names: Names) -> sr.MeasurementsAndQualitativeEvaluations:
    """TID 1501 on the frame as a whole: "nothing found" is said of it, with what was looked for."""
    found = concepts.WITH_FINDINGS if item.detections else concepts.WITHOUT_FINDINGS
    asked = {"prompt_set": item.prompt_set.hash} if item.prompt_set else {}
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(stable_uid("frame", names.report, *names.part), concepts.WHOLE_FRAME),
        algorithm_id=algorithm(run, {"bank_sha256": run.bank_sha256, "engine": run.engine, **asked}),
        qualitative_evaluations=[sr.QualitativeEvaluation(concepts.SUMMARY, found)],
        source_images=[sr.SourceImageForMeasurementGroup(*names.image, names.frames)],
    )
    looked_for = ", ".join(starmap("{} (score {:g} or more)".format, zip(run.labels, run.thresholds, strict=True)))
    comments = [run.intended_use, f"Looked for: {looked_for}", *(f"{concepts.WARNING}{text}" for text in item.warnings)]
    group[0].ContentSequence.extend(
        sr.TextContentItem(concepts.COMMENT, text, sr.RelationshipTypeValues.CONTAINS) for text in comments if text
    )
    return group


def finding_group(
    number: int, row: dict[str, Any], size_hw: tuple[int, int], run: Run, names: Names
) -> sr.PlanarROIMeasurementsAndQualitativeEvaluations:
    """TID 1410 on one detection."""
    label: str = row["label"]
    index = run.labels.index(label)
    about = {"label": label, "phrase": row["phrase"], "threshold": f"{run.thresholds[index]:g}"}
    return sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(finding_uid(names.report, number, *names.part), f"{label} {number}"),
        referenced_region=_region(row["box_xyxy"], size_hw, names),
        finding_type=concepts.finding_code(label, run.codes[index] if run.codes else None),
        algorithm_id=algorithm(run, about),
        measurements=[sr.Measurement(concepts.CERTAINTY, round(100 * row["score"], 4), concepts.PERCENT)],
    )


def algorithm(run: Run, about: dict[str, str]) -> sr.AlgorithmIdentification:
    """Software, bundle, and what else identifies how the answer was made."""
    parameters = {"bundle_sha256": run.bundle_sha256, **about}
    return sr.AlgorithmIdentification("medprompt", version_of(run), list(starmap("{}={}".format, parameters.items())))


def _region(box_xyxy: list[float], size_hw: tuple[int, int], names: Names) -> sr.ImageRegion:
    """The box as a closed line. Its coordinates count as those of detections do: from the corner of the first pixel."""
    # Of a slide, coordinates without this would be of the whole slide rather than of the frame.
    tiled = names.image[0] == VLWholeSlideMicroscopyImageStorage
    return sr.ImageRegion(
        sr.GraphicTypeValues.POLYLINE,
        rectangle(box_xyxy, size_hw),
        sr.SourceImageForRegion(*names.image, names.frames),
        sr.PixelOriginInterpretationValues.FRAME if tiled else None,
    )


def rectangle(box_xyxy: list[float], size_hw: tuple[int, int]) -> NDArray[np.float32]:
    """The closed outline of a box, clipped to the frame.

    Returns:
        float32 ``[5, 2]``: columns and rows of the corners, the first once more at the end.
    """
    height, width = size_hw
    left, top, right, bottom = np.clip(np.asarray(box_xyxy, dtype=np.float32), 0, [width, height, width, height])
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom], [left, top]], dtype=np.float32)


def set_time(report: Dataset, when: datetime) -> None:
    """In the zone that the copied times of the study are in, where the image names it; else in the machine's."""
    offset = str(report.get("TimezoneOffsetFromUTC") or "")
    try:
        there = when.astimezone(datetime.strptime(offset, "%z").tzinfo)
    except ValueError:
        there = when.astimezone()
    report.ContentDate = report.InstanceCreationDate = DA(there.date())
    report.ContentTime = report.InstanceCreationTime = TM(there.time())
    for equipment in report.get("ContributingEquipmentSequence") or []:
        if "ContributionDateTime" in equipment:
            equipment.ContributionDateTime = DT(there.replace(tzinfo=None))
