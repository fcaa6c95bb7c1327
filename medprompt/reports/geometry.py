"""Where the pixels of an image's frames lie in the patient, as far as the image says so wholly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.valuerep import DS

from medprompt.dicom.header import pydicom_at_work
from medprompt.images.file import ImageFile
from medprompt.reports.objects import new_dataset
from medprompt.reports.source import ReportSource, source_of_file

NEEDED = (
    ("PlanePositionSequence", "ImagePositionPatient", 3),
    ("PlaneOrientationSequence", "ImageOrientationPatient", 6),
)
"""Functional groups that place a frame, with the element in it and how many numbers that has (PS3.3, C.7.6.16.2)."""

MEASURES = {"SliceThickness": 1, "SpacingBetweenSlices": 1}
"""What else is said with the spacing, where it is."""

READ = (
    *("FrameOfReferenceUID", "PositionReferenceIndicator", "ImagePositionPatient", "ImageOrientationPatient"),
    *("PixelSpacing", *MEASURES, "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"),
    *("Rows", "Columns", "NumberOfFrames"),
)


@dataclass(frozen=True)
class Plane:
    """Of one frame, items of functional groups: upper left pixel, directions of rows and columns, spacing."""

    position: Dataset
    orientation: Dataset
    measures: Dataset


def image_and_header(path: Path) -> tuple[ReportSource, Dataset]:
    """Patient and study of a file, and its elements ``READ``, of the same bytes.

    Raises:
        InputError: It cannot be read, or lacks what a reference needs.
    """
    with ImageFile(path) as file:
        source = source_of_file(file)
        with pydicom_at_work(path, "reading the geometry"):
            file.stream.seek(0)
            header = dcmread(file.stream, specific_tags=list(READ), stop_before_pixels=True)
            header.decode()
    return source, header


def planes_of(header: Dataset, frames: Sequence[int]) -> list[Plane] | None:
    """The planes of frames, from 1; None where the image does not place each of them, or not in one orientation."""
    if not header.get("FrameOfReferenceUID"):
        return None
    planes = [_plane(header, frame) for frame in frames]
    whole = [plane for plane in planes if plane is not None]
    if len(whole) < len(frames) or any(one.orientation != whole[0].orientation for one in whole):
        return None
    return whole


def _plane(header: Dataset, frame: int) -> Plane | None:
    position, orientation = (_group(header, frame, *needed) for needed in NEEDED)
    measures = _group(header, frame, "PixelMeasuresSequence", "PixelSpacing", 2)
    return Plane(position, orientation, measures) if position and orientation and measures else None


def _group(header: Dataset, frame: int, name: str, element: str, count: int) -> Dataset | None:
    """Of the frame's own functional groups, of those shared, or of the file itself."""
    frames, shared = header.get("PerFrameFunctionalGroupsSequence"), header.get("SharedFunctionalGroupsSequence")
    groups = [*(frames or [])[frame - 1 : frame], *(shared or [])[:1]]
    items = [item for group in groups for item in (group.get(name) or [])[:1]]
    if not frames and not shared:
        items.append(header)
    for item in items:
        if _numbers(item.get(element), count):
            counts = {element: count, **(MEASURES if element == "PixelSpacing" else {})}
            values = {one: _numbers(item.get(one), many) for one, many in counts.items()}
            return new_dataset(**{one: numbers for one, numbers in values.items() if numbers})
    return None


def _numbers(value: Any, count: int) -> list[Any]:
    """So many decimal strings; none where the value is something else. Files have longer ones than the VR allows."""
    values = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    try:
        numbers = [float(one) for one in values]
    except (TypeError, ValueError):
        return []
    whole = len(numbers) == count and all(map(math.isfinite, numbers))
    return [DS(one, auto_format=True) for one in numbers] if whole else []
