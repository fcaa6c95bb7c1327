"""What a report takes from its image: patient and study as they stand there, and the UIDs that name the image."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset

from medprompt.core.errors import InputError
from medprompt.dicom.header import pydicom_at_work
from medprompt.images.file import ImageFile

COPIED = (
    # Patient (PS3.3, C.7.1.1)
    *("PatientName", "PatientID", "IssuerOfPatientID", "IssuerOfPatientIDQualifiersSequence", "TypeOfPatientID"),
    *("OtherPatientIDsSequence", "PatientBirthDate", "PatientBirthTime", "PatientSex", "QualityControlSubject"),
    *("PatientSpeciesDescription", "PatientSpeciesCodeSequence", "PatientBreedDescription", "PatientBreedCodeSequence"),
    *("BreedRegistrationSequence", "ResponsiblePerson", "ResponsiblePersonRole", "ResponsibleOrganization"),
    *("PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence"),
    # General Study (C.7.2.1) and Patient Study (C.7.2.2)
    *("StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "StudyDescription", "ReferringPhysicianName"),
    *("AccessionNumber", "IssuerOfAccessionNumberSequence", "PatientAge", "PatientSize", "PatientWeight"),
    # Clinical Trial Subject (C.7.1.3) and Study (C.7.2.3)
    *("ClinicalTrialSponsorName", "ClinicalTrialProtocolID", "ClinicalTrialProtocolName", "ClinicalTrialSiteID"),
    *("ClinicalTrialSiteName", "ClinicalTrialSubjectID", "ClinicalTrialSubjectReadingID"),
    *("ClinicalTrialTimePointID", "ClinicalTrialTimePointDescription"),
    # The times above are in this zone (C.12.1)
    "TimezoneOffsetFromUTC",
)
"""Elements that the report has as the image has them, so that an archive files both under one patient and study."""

TYPE_2 = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"),
    *("ReferringPhysicianName", "AccessionNumber"),
)
"""Of these the ones that must be there, if only empty."""

NEEDED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
"""Without these an image cannot be referred to."""


@dataclass(frozen=True)
class ReportSource:
    """The image that a report speaks of.

    Attributes:
        reference: ``NEEDED``, and ``TYPE_2`` without a value: what highdicom would judge is copied as it stands.
        copied: Those of ``COPIED`` that the image has, text decoded.
        sha256: Hash of the file they were read from.
        instance_number: Of the image, at least 1.
    """

    reference: Dataset
    copied: Dataset
    sha256: str
    instance_number: int


def report_source(path: Path) -> ReportSource:
    """Read what a report needs of an image; the last is kept, for a file's frames come one after another.

    Raises:
        InputError: It cannot be read, or lacks one of ``NEEDED``; no value is quoted.
    """
    with pydicom_at_work(path, "reading patient and study"):
        stat = path.stat()
    return _report_source(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=1)
def _report_source(path: Path, _changed: int, _size: int) -> ReportSource:
    with ImageFile(path) as file:
        return source_of_file(file)


def source_of_file(file: ImageFile) -> ReportSource:
    """As ``report_source``, of a file that is open."""
    with pydicom_at_work(file.path, "reading patient and study"):
        file.stream.seek(0)
        tags = [*COPIED, *NEEDED, "SpecificCharacterSet", "InstanceNumber"]
        read = dcmread(file.stream, specific_tags=list(tags), stop_before_pixels=True)
        read.decode()
        missing = [name for name in NEEDED if not read.get(name)]
        number = str(read.get("InstanceNumber") or "")
        reference = _elements(read, NEEDED)
        for name in TYPE_2:
            setattr(reference, name, None)
        copied = _elements(read, COPIED)
    if missing:
        raise InputError(
            "A report cannot refer to the image.",
            where=str(file.path),
            expected=", ".join(NEEDED),
            got=f"no {', '.join(missing)}",
        )
    return ReportSource(reference, copied, file.sha256, max(1, int(number)) if number.isdecimal() else 1)


def _elements(read: Dataset, names: tuple[str, ...]) -> Dataset:
    chosen = Dataset()
    chosen.update({read[name].tag: read[name] for name in names if name in read})
    return chosen
