"""A study's images → its objects: the report, presentation states and key images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

from pydicom.dataset import Dataset

from medprompt.core.errors import ImageError, InputError
from medprompt.core.frames import frame_policy_from_text
from medprompt.dicom.header import pydicom_at_work
from medprompt.images.sources import find_sources
from medprompt.reports.source import TYPE_2, ReportSource, report_source
from medprompt.reports.study import StudyResult, study_report
from medprompt.reports.visible import key_images, presentation_states
from medprompt.results.run import Run
from medprompt.runtime.batch import infer_images
from medprompt.runtime.detector import Detector
from medprompt.runtime.dicom_node.rows import Instance, Job

Analyse = Callable[[Sequence[Path]], Run]
"""Files → what was found in them, an item a frame."""


def analysis_with(detector: Detector, frames: str) -> Analyse:
    """The analysis of a node by a detector."""
    policy = frame_policy_from_text(frames)
    return lambda paths: infer_images(detector, find_sources(paths, policy))


def objects_of(job: Job, run: Run) -> tuple[str, list[bytes]]:
    """Make a job's objects, the same bytes each time.

    Returns:
        SOP instance UID of the report; the files, the report last: what it is found with is there before it.
    """
    instances = {one.file: one for one in job.instances}
    sources = {path: _source(one) for path, one in instances.items()}
    donor = next((one for one in sources.values() if "StudyInstanceUID" in one.copied), None)
    for one in sources.values():
        if donor and one.copied is not donor.copied and "StudyInstanceUID" not in one.copied:
            one.copied.update(donor.copied)
    study = StudyResult(run, tuple(sources[item.path] for item in run.items), job.earlier)
    when = datetime.fromtimestamp(job.made, UTC)
    with pydicom_at_work(Path("study"), "making the results"):
        made = [*presentation_states(study, when), *key_images(study, when), study_report(study, when)]
        return study.uid("report"), list(map(_encoded, made))


def _source(instance: Instance) -> ReportSource:
    """The image's patient and study; of one that cannot be read so far, the UIDs that it came with."""
    try:
        source = report_source(instance.file)
        return ReportSource(source.reference, source.copied, instance.sha256, source.instance_number)
    except (ImageError, InputError):
        reference = Dataset()
        for name in TYPE_2:
            setattr(reference, name, None)
        reference.SOPClassUID, reference.SOPInstanceUID = instance.sop_class, instance.sop
        reference.StudyInstanceUID, reference.SeriesInstanceUID = instance.study, instance.series
        return ReportSource(reference, Dataset(), instance.sha256, 1)


def _encoded(made: Dataset) -> bytes:
    content = BytesIO()
    made.save_as(content, enforce_file_format=True)
    return content.getvalue()
