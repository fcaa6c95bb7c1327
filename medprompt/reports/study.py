"""One structured report on all that arrived of a study: each frame has its group, and so has one that was not read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from highdicom import sr

from medprompt.reports import codes as concepts
from medprompt.reports.source import ReportSource
from medprompt.reports.write import Names, algorithm, document, finding_group, frame_group, numbered_frame, stable_uid
from medprompt.results.run import Item, Run


@dataclass(frozen=True)
class StudyResult:
    """What was found in a study.

    Attributes:
        run: All that was analysed together; an item a frame.
        sources: The image of each item.
        earlier: SOP instance UIDs of reports on other images of the study that stand beside this one.
    """

    run: Run
    sources: tuple[ReportSource, ...]
    earlier: tuple[str, ...] = ()

    def uid(self, kind: str, *parts: str) -> str:
        """UID of an object on this study: by its images' content, bundle, prompts and thresholds, and nothing else."""
        images = sorted({(str(one.reference.SOPInstanceUID), one.sha256) for one in self.sources})
        run = self.run
        means = [run.bundle_sha256, run.bank_sha256, *run.labels, *map(repr, run.thresholds)]
        return stable_uid(f"study {kind}", json.dumps([images, means]), *parts)

    @property
    def frames(self) -> Iterator[tuple[Item, ReportSource]]:
        """Items, each with its image."""
        return zip(self.run.items, self.sources, strict=True)

    @property
    def images(self) -> list[ReportSource]:
        """The images, each once."""
        return list({str(one.reference.SOPInstanceUID): one for one in self.sources}.values())


def study_report(study: StudyResult, when: datetime) -> sr.ComprehensiveSR:
    """The report, TID 1500. Frames that were not analysed are named with their status.

    Args:
        study: At least one item.
        when: When the report was made, with its time zone.
    """
    groups: list[Any] = []
    for index, (item, source) in enumerate(study.frames):
        groups.extend(_groups(item, study, _names(study, item, source, index)))
    groups[0][0].ContentSequence.extend(
        sr.TextContentItem(concepts.COMMENT, f"Stands beside: {uid}", sr.RelationshipTypeValues.CONTAINS)
        for uid in study.earlier
    )
    names = _names(study, study.run.items[0], study.sources[0], 0)
    return document(groups, study.images, study.run, names, when, number=1 + len(study.earlier))


def not_analysed(item: Item) -> str:
    """What may be told of an item without detections: no text of an error, which can quote a file."""
    return f"Not analysed: {item.status}{f' {item.code}' if item.code else ''}"


def _names(study: StudyResult, item: Item, source: ReportSource, index: int) -> Names:
    image = str(source.reference.SOPClassUID), str(source.reference.SOPInstanceUID)
    frame = numbered_frame(item, source)
    return Names(
        report=study.uid("report"),
        series=study.uid("report series"),
        device=stable_uid("device", study.run.bundle_sha256),
        image=image,
        frames=None if frame is None else [frame],
        part=(str(index),),
    )


def _groups(item: Item, study: StudyResult, names: Names) -> list[Any]:
    if item.detections is None:
        return [_missing_group(item, study.run, names)]
    rows = enumerate(item.detections.rows(), start=1)
    size_hw = item.detections.size_hw
    findings = [finding_group(number, row, size_hw, study.run, names) for number, row in rows]
    return [frame_group(item, study.run, names), *findings]


def _missing_group(item: Item, run: Run, names: Names) -> sr.MeasurementsAndQualitativeEvaluations:
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(stable_uid("frame", names.report, *names.part), concepts.WHOLE_FRAME),
        algorithm_id=algorithm(run, {"bank_sha256": run.bank_sha256, "engine": run.engine}),
        qualitative_evaluations=[sr.QualitativeEvaluation(concepts.SUMMARY, concepts.NOT_ANALYSED)],
        source_images=[sr.SourceImageForMeasurementGroup(*names.image, names.frames)],
    )
    group[0].ContentSequence.append(
        sr.TextContentItem(concepts.COMMENT, not_analysed(item), sr.RelationshipTypeValues.CONTAINS)
    )
    return group
