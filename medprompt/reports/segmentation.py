"""The masks of an image's findings as a DICOM Segmentation (PS3.3, A.51): binary, a segment a finding.

Each finding is a segment of its own, not each class: so masks that touch or overlap come back as they were, each with
its score, and has the tracking UID that the finding has in a structured report.

Its pixels are those of the frames that it refers to, one for one. Where these lie in the patient it says as the image
does; of an image that does not say so it has the references alone, which the standard allows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from highdicom import AlgorithmIdentificationSequence
from highdicom.color import CIELabColor
from highdicom.seg import SegmentDescription
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset, FileDataset
from pydicom.sr.codedict import codes

from medprompt.core.errors import InputError
from medprompt.core.overlay import COLOURS
from medprompt.reports import codes as concepts
from medprompt.reports.geometry import Plane, planes_of
from medprompt.reports.objects import Place, new_dataset, new_object, reference_to
from medprompt.reports.source import ReportSource
from medprompt.reports.write import finding_uid, means_of, numbered_frame, report_uid, stable_uid, version_of
from medprompt.results.run import Item, Run

SERIES_NUMBER = 9004
MOST_SEGMENTS = 65535
"""Segment numbers are 16 bits wide."""
FRAMES_AT_ONCE = 8
"""Bits of frames follow one another without a gap: of so many they fill whole bytes, whatever a frame's size."""


@dataclass(frozen=True)
class _Segment:
    """A finding: the frame it is in, its place among the frame's detections, what it is, and its tracking UID."""

    item: Item
    index: int
    row: dict[str, Any]
    tracking_uid: str

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Of the frame's size."""
        masks = self.item.detections.masks if self.item.detections is not None else None
        if masks is None:
            raise InputError(
                "The findings have boxes and no masks.",
                where=self.item.name,
                fix="leave seg= out, or make masks of the boxes with segment=",
            )
        one: NDArray[np.bool_] = masks[self.index]
        return one


def segmentation_uid(items: Sequence[Item], run: Run, source: ReportSource) -> str:
    """SOP instance UID of the segmentation of an image's frames."""
    said = [report_uid(item, run, source) for item in items]
    return stable_uid("segmentation", means_of(run), str(source.reference.SOPInstanceUID), json.dumps(said))


def planes_of_items(header: Dataset, items: Sequence[Item]) -> list[Plane] | None:
    """The plane of each finding's frame; None where the image does not place each of them."""
    return planes_of(header, [item.frame or 1 for item in items for _ in range(len(item.detections or ()))])


def segmentation_from_items(
    items: Sequence[Item], run: Run, source: ReportSource, header: Dataset, when: datetime
) -> FileDataset:
    """Make the segmentation of one image.

    Args:
        items: Its frames, of which at least one has a finding with a mask; those not analysed are counted.
        run: With what they were analysed.
        source: The image's patient and study.
        header: Its geometry, see ``medprompt.reports.geometry.image_and_header``.
        when: When it was made, with its time zone.

    Raises:
        InputError: Masks of another size than the image's pixels, or more findings than segments can be numbered.
    """
    segments = [one for item in items for one in _segments(item, report_uid(item, run, source))]
    size_hw = _size_hw(segments, header)
    place = Place(
        segmentation_uid(items, run, source),
        stable_uid("segmentation series", means_of(run), str(source.reference.SeriesInstanceUID)),
        SERIES_NUMBER,
        source.instance_number,
        f"medprompt: {run.intended_use}",
    )
    made: FileDataset = new_object(uid.SegmentationStorage, "SEG", place, source, run, when)
    del made.Laterality
    _set_image(made, size_hw, header)
    _set_content(made, items)
    made.CodingSchemeIdentificationSequence = [concepts.PRIVATE_SCHEME_ITEM]
    made.SegmentSequence = [_description(number, one, run) for number, one in enumerate(segments, start=1)]
    series = new_dataset(ReferencedInstanceSequence=[reference_to(source, None)])
    series.SeriesInstanceUID = source.reference.SeriesInstanceUID
    made.ReferencedSeriesSequence = [series]
    _set_frames(made, segments, source)
    planes = planes_of_items(header, items)
    if planes:
        _set_geometry(made, planes, header)
    else:
        made.PatientOrientation = None
    made.PixelData = _packed(segments)
    return made


def _segments(item: Item, report: str) -> Iterator[_Segment]:
    for index, row in enumerate(item.detections.rows() if item.detections is not None else ()):
        yield _Segment(item, index, row, finding_uid(report, index + 1))


def _size_hw(segments: Sequence[_Segment], header: Dataset) -> tuple[int, int]:
    if len(segments) > MOST_SEGMENTS:
        raise InputError(
            "There are more findings than segments can be numbered.",
            expected=f"at most {MOST_SEGMENTS}",
            got=f"{len(segments)}",
            fix="raise the threshold, or analyse fewer frames",
        )
    stated = int(header.get("Rows") or 0), int(header.get("Columns") or 0)
    sizes = {one.item.detections.size_hw for one in segments if one.item.detections is not None}
    if sizes != {stated}:
        raise InputError(
            "The masks are not of the image's size.",
            expected=f"{stated}, its Rows and Columns",
            got=f"{sorted(sizes)}",
            fix="analyse the file again, as it is now",
        )
    return stated


def _set_image(made: Dataset, size_hw: tuple[int, int], header: Dataset) -> None:
    made.ImageType = ["DERIVED", "PRIMARY"]
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.Rows, made.Columns = size_hw
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 1, 1, 0, 0
    made.LossyImageCompression = header.get("LossyImageCompression") or "00"
    for name in ("LossyImageCompressionRatio", "LossyImageCompressionMethod"):
        if name in header and made.LossyImageCompression == "01":
            made[name] = header[name]


def _set_content(made: Dataset, items: Sequence[Item]) -> None:
    """That frames were not analysed is said: without a segment, a frame would seem to be one without findings."""
    analysed = sum(item.detections is not None for item in items)
    frames = f", {analysed} of {len(items)} frames analysed" if items[0].frame is not None else ""
    made.ContentLabel, made.ContentDescription = "MEDPROMPT", f"Research use only{frames}"
    made.ContentCreatorName = None
    made.SegmentationType, made.SegmentsOverlap = "BINARY", "UNDEFINED"


def _description(number: int, one: _Segment, run: Run) -> SegmentDescription:
    item, row = one.item, one.row
    label: str = row["label"]
    index = run.labels.index(label)
    frame = "" if item.frame is None else f", frame {item.frame}"
    parameters = {"bundle_sha256": run.bundle_sha256, "bank_sha256": run.bank_sha256, "engine": run.engine}
    about = {"phrase": row["phrase"], "threshold": f"{run.thresholds[index]:g}", "score": f"{row['score']:g}"}
    algorithm = AlgorithmIdentificationSequence(
        "medprompt", codes.cid7162.ArtificialIntelligence, version_of(run), parameters=parameters | about
    )
    made = SegmentDescription(
        segment_number=number,
        segment_label=concepts.long_string(f"{label} {one.index + 1}{frame}"),
        segmented_property_category=concepts.REGION,
        segmented_property_type=concepts.finding_code(label, run.codes[index] if run.codes else None),
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm,
        tracking_uid=one.tracking_uid,
        tracking_id=f"{label} {one.index + 1}",
        display_color=CIELabColor.from_string(COLOURS[index % len(COLOURS)]),
    )
    made.SegmentDescription = f"score {row['score']:.4f}; {run.intended_use}"[:1024]
    return made


def _set_frames(made: Dataset, segments: Sequence[_Segment], source: ReportSource) -> None:
    """Dimensions and functional groups, a frame a segment."""
    organisation = stable_uid("segment numbers", made.SOPInstanceUID)
    made.DimensionOrganizationSequence = [new_dataset(DimensionOrganizationUID=organisation)]
    made.DimensionIndexSequence = [
        new_dataset(
            DimensionOrganizationUID=organisation,
            DimensionIndexPointer=0x0062000B,
            FunctionalGroupPointer=0x0062000A,
            DimensionDescriptionLabel="Segment Number",
        )
    ]
    made.NumberOfFrames = len(segments)
    made.SharedFunctionalGroupsSequence = [Dataset()]
    made.PerFrameFunctionalGroupsSequence = [
        _groups(number, reference_to(source, numbered_frame(one.item, source)))
        for number, one in enumerate(segments, start=1)
    ]


def _groups(number: int, image: Dataset) -> Dataset:
    """Functional groups of one frame; a segment has one frame, so that its number alone tells frames apart."""
    image.SpatialLocationsPreserved = "YES"
    image.PurposeOfReferenceCodeSequence = [concepts.SOURCE_IMAGE]
    return new_dataset(
        FrameContentSequence=[new_dataset(DimensionIndexValues=[number])],
        SegmentIdentificationSequence=[new_dataset(ReferencedSegmentNumber=number)],
        DerivationImageSequence=[
            new_dataset(DerivationCodeSequence=[concepts.SEGMENTATION], SourceImageSequence=[image])
        ],
    )


def _set_geometry(made: Dataset, planes: Sequence[Plane], header: Dataset) -> None:
    made.FrameOfReferenceUID = header.FrameOfReferenceUID
    made.PositionReferenceIndicator = header.get("PositionReferenceIndicator")
    shared = made.SharedFunctionalGroupsSequence[0]
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [planes[0].orientation], [planes[0].measures]
    for groups, plane in zip(made.PerFrameFunctionalGroupsSequence, planes, strict=True):
        groups.PlanePositionSequence = [plane.position]


def _packed(segments: Sequence[_Segment]) -> bytes:
    """The masks' bits in the order of segments, the first pixel in the lowest bit (PS3.5, 8.1.1)."""
    packed = b"".join(_parts(segments))
    return packed + b"\0" * (len(packed) % 2)


def _parts(segments: Sequence[_Segment]) -> Iterator[bytes]:
    for start in range(0, len(segments), FRAMES_AT_ONCE):
        bits = np.concatenate([one.mask.ravel() for one in segments[start : start + FRAMES_AT_ONCE]])
        yield np.packbits(bits, bitorder="little").tobytes()
