"""What every DICOM object made here by pydicom alone begins with: patient and study, series, equipment, SOP common."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydicom import uid
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset

from medprompt.reports import codes as concepts
from medprompt.reports.source import TYPE_2, ReportSource
from medprompt.reports.write import set_time, version_of
from medprompt.results.run import Run


@dataclass(frozen=True)
class Place:
    """Where an object stands.

    Attributes:
        uid, series_uid: Of the object and its series.
        series_number, number: Of the series, and of the object in it.
        description: Of the series.
    """

    uid: str
    series_uid: str
    series_number: int
    number: int
    description: str


def new_object(sop_class: str, modality: str, place: Place, source: ReportSource, run: Run, when: datetime) -> Any:
    """An object in the study of its image, of which only its own modules are missing: a ``FileDataset``."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = uid.ExplicitVRLittleEndian, uid.UID(sop_class)
    meta.MediaStorageSOPInstanceUID = uid.UID(place.uid)
    made = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    made.SpecificCharacterSet = "ISO_IR 192"
    for name in TYPE_2:
        setattr(made, name, None)
    made.update(source.copied)
    made.SOPClassUID, made.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    made.SeriesInstanceUID, made.SeriesNumber = place.series_uid, place.series_number
    made.StudyInstanceUID = source.reference.StudyInstanceUID
    made.Modality, made.InstanceNumber, made.Laterality = modality, place.number, None
    made.SeriesDescription = concepts.long_string(place.description)
    made.Manufacturer = made.ManufacturerModelName = "medprompt"
    made.DeviceSerialNumber, made.SoftwareVersions = run.bundle_sha256, version_of(run)
    set_time(made, when)
    return made


def new_dataset(**elements: Any) -> Dataset:
    """A dataset, such as an item of a sequence, with these elements."""
    made = Dataset()
    for name, value in elements.items():
        setattr(made, name, value)
    return made


def reference_to(source: ReportSource, frame: int | None) -> Dataset:
    """A reference to an image, or to one of its frames."""
    image, numbered = source.reference, {} if frame is None else {"ReferencedFrameNumber": frame}
    return new_dataset(
        ReferencedSOPClassUID=image.SOPClassUID, ReferencedSOPInstanceUID=image.SOPInstanceUID, **numbered
    )
