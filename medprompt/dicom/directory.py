"""DICOMDIR: the list of files on a medium, read as a list of paths and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from pydicom import dcmread, uid

from medprompt.core.errors import ImageError
from medprompt.core.files import resolve_within
from medprompt.dicom.header import pydicom_at_work


def files_of_directory(path: Path, stream: BinaryIO) -> list[Path]:
    """Files that a DICOMDIR lists, in its order; empty where a DICOM file is no DICOMDIR, or lists nothing.

    A listed file that does not exist is in the list all the same: its absence is for the results to tell.

    Raises:
        ImageError: A path in it leaves the DICOMDIR's folder.
    """
    try:
        with pydicom_at_work(path, "reading the directory"):
            stream.seek(0)
            dataset = dcmread(stream, specific_tags=["DirectoryRecordSequence"], stop_before_pixels=True)
            if dataset.file_meta.get("MediaStorageSOPClassUID") != uid.MediaStorageDirectoryStorage:
                return []
            records = dataset.get("DirectoryRecordSequence") or []
            parts = [record.ReferencedFileID for record in records if record.get("ReferencedFileID")]
            names = ["/".join([value] if isinstance(value, str) else value) for value in parts]
    except ImageError:
        return []  # then it is an item of its own, whose reading says what is wrong
    return [_listed(path, name) for name in names]


def _listed(path: Path, name: str) -> Path:
    if "\\" in name or resolve_within(path.parent, name) is None:
        raise ImageError(
            "A path in the DICOMDIR leaves its folder.",
            where=str(path),
            expected="files below the DICOMDIR",
            fix="do not use this DICOMDIR; give the folder of its images",
        )
    return path.parent / name
