"""Segmentations: masks come back as they were, of images with a place in the patient and without."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from highdicom.seg import segread
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.uid import (
    UID,
    CTImageStorage,
    EnhancedCTImageStorage,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    SecondaryCaptureImageStorage,
)

from medprompt.core.masks import Masks
from medprompt.reports.codes import PRIVATE_SCHEME
from medprompt.reports.files import read_report, write_segmentations
from medprompt.results.run import Item
from tests.medprompt.dicom.made import SOP_UID, sequence_item, write_dicom
from tests.medprompt.reports.reported import (
    BLOOD_CELL,
    BRIGHT,
    LABELS,
    LATER,
    PATIENT,
    STUDY,
    WHEN,
    WHOLE,
    WSI,
    found,
    item_of,
    masked,
    run_of,
    written,
)

PLANE = {"ImagePositionPatient": [0, 0.1, 5.5], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
PLACED = {"FrameOfReferenceUID": "1.2.3.9", **PLANE, "PixelSpacing": [0.5, 0.25], "SliceThickness": 1}
SHARED = sequence_item(
    PlaneOrientationSequence=[sequence_item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
    PixelMeasuresSequence=[sequence_item(PixelSpacing=[0.5, 0.25], SliceThickness=1)],
)


def per_frame(*positions: Any) -> list[Any]:
    return [sequence_item(PlanePositionSequence=[sequence_item(ImagePositionPatient=one)]) for one in positions]


ENHANCED = {
    "SOPClassUID": EnhancedCTImageStorage,
    "NumberOfFrames": 4,
    "FrameOfReferenceUID": "1.2.3.9",
    "SharedFunctionalGroupsSequence": [SHARED],
    "PerFrameFunctionalGroupsSequence": per_frame(*([0, 0, float(row)] for row in range(4))),
}
KINDS: dict[str, tuple[dict[str, Any], bool]] = {
    "ct": ({"SOPClassUID": CTImageStorage, **PLACED}, True),
    "secondary capture": ({"SOPClassUID": SecondaryCaptureImageStorage}, False),
    "cine": ({"SOPClassUID": MultiFrameGrayscaleByteSecondaryCaptureImageStorage, "NumberOfFrames": 4}, False),
    "enhanced ct": (ENHANCED, True),
    "slide": ({"SOPClassUID": WSI, "NumberOfFrames": 4}, False),
}
"""Kinds of images, each with whether it says where its pixels lie in the patient."""


def image_with(path: Path, elements: dict[str, Any], size_hw: tuple[int, int] = (20, 30)) -> Path:
    stored = np.full(size_hw, 250, np.uint8)
    frames = elements.get("NumberOfFrames")
    return write_dicom(path, np.stack([stored] * frames) if frames else stored, **{**WHOLE, **elements})


def items_of(path: Path, elements: dict[str, Any]) -> list[Item]:
    """Findings in one frame; of several in the first and third, none in the second, and the fourth was not analysed."""
    if "NumberOfFrames" not in elements:
        return [item_of(path, masked(3))]
    frames = [item_of(path, masked(count, seed=count), frame=row) for row, count in enumerate((2, 0, 1), start=1)]
    return [*frames, item_of(path, None, frame=4)]


def all_masks(items: Sequence[Item]) -> NDArray[np.bool_]:
    return np.stack([mask for item in items if item.detections for mask in item.detections.masks or ()])


def segmented(items: Sequence[Item], folder: Path, **changes: Any) -> Path:
    (path,) = write_segmentations(run_of(*items, **changes), folder, when=WHEN).written
    return path


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[list[Item], bool]:
    elements, placed = KINDS[request.param]
    return items_of(image_with(tmp_path / "image.dcm", elements), elements), placed


def test_masks_come_back_to_pydicom_and_highdicom(kind: tuple[list[Item], bool], tmp_path: Path) -> None:
    items, placed = kind
    path = segmented(items, tmp_path / "seg")
    assert path.name == "image.dcm"
    head, expected = dcmread(path), all_masks(items)
    np.testing.assert_array_equal(head.pixel_array.astype(bool), expected)
    assert ("FrameOfReferenceUID" in head, "PatientOrientation" in head) == (placed, not placed)
    assert [
        one.DerivationImageSequence[0].SourceImageSequence[0].get("ReferencedFrameNumber")
        for one in head.PerFrameFunctionalGroupsSequence
    ] == [item.frame for item in items for _ in range(len(item.detections or ()))]
    volume = segread(path)
    if items[0].frame is None:
        (pixels,) = volume.get_pixels_by_source_instance([SOP_UID])
        np.testing.assert_array_equal(pixels.transpose(2, 0, 1).astype(bool), expected)
        return
    pixels = volume.get_pixels_by_source_frame(SOP_UID, [1, 2, 3], assert_missing_frames_are_empty=True)
    place = np.array([0, 0, 2])  # frame of each segment
    np.testing.assert_array_equal(pixels[place, :, :, [0, 1, 2]].astype(bool), expected)
    assert pixels.sum() == expected.sum()


def test_validators_find_no_fault(kind: tuple[list[Item], bool], tmp_path: Path) -> None:
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy is not installed (Debian: dicom3tools)")
    done = subprocess.run(
        ["dciodvfy", str(segmented(kind[0], tmp_path / "seg"))], capture_output=True, text=True, check=False
    )
    # A private scheme is unknown to dciodvfy by its nature.
    known = ("Segmentation", f"Unrecognized defined term <{PRIVATE_SCHEME}>")
    assert [
        line
        for line in (done.stdout + done.stderr).splitlines()
        if not line.startswith(known[0]) and line and known[1] not in line
    ] == []
    assert done.returncode == 0


def test_what_a_segmentation_says(tmp_path: Path) -> None:
    image = image_with(tmp_path / "ct.dcm", KINDS["ct"][0])
    item = item_of(image, masked(2))
    head = dcmread(segmented([item], tmp_path / "seg"))
    source = dcmread(image)
    for name in (*PATIENT, *STUDY, "StudyInstanceUID", "FrameOfReferenceUID", "Rows", "Columns"):
        assert head[name].value == source[name].value
    assert (head.Modality, head.SOPClassUID.name, head.SeriesNumber) == ("SEG", "Segmentation Storage", 9004)
    assert head.SeriesInstanceUID not in (source.SeriesInstanceUID, head.SOPInstanceUID)
    assert (head.SeriesDescription, head.ContentDescription) == ("medprompt: Research use only.", "Research use only")
    assert (head.SegmentationType, head.DeviceSerialNumber, head.SoftwareVersions) == ("BINARY", "b" * 64, "1.2")
    (series,) = head.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == "1.2.3.4"
    assert series.ReferencedInstanceSequence[0].ReferencedSOPInstanceUID == SOP_UID
    first, second = head.SegmentSequence
    assert (first.SegmentLabel, second.SegmentLabel) == ("RBC 1", "cellule à étudier 2")
    kinds = [one.SegmentedPropertyTypeCodeSequence[0] for one in (first, second)]
    assert (kinds[0].CodeValue, kinds[0].CodingSchemeDesignator) == (BLOOD_CELL.value, BLOOD_CELL.scheme)
    assert (kinds[1].CodingSchemeDesignator, kinds[1].CodeMeaning) == (PRIVATE_SCHEME, LABELS[1])
    assert first.SegmentDescription == "score 0.9000; Research use only."
    algorithm = first.SegmentationAlgorithmIdentificationSequence[0]
    assert (first.SegmentAlgorithmType, algorithm.AlgorithmName, algorithm.AlgorithmVersion) == (
        "AUTOMATIC",
        "medprompt",
        "1.2",
    )
    for text in (f"bundle_sha256={'b' * 64}", "engine=fake", "score=0.9", "threshold=0.2", "phrase=red cell"):
        assert text in algorithm.AlgorithmParameters
    assert first.RecommendedDisplayCIELabValue != second.RecommendedDisplayCIELabValue
    groups = head.PerFrameFunctionalGroupsSequence[1]
    assert groups.PlanePositionSequence[0].ImagePositionPatient == PLANE["ImagePositionPatient"]
    measures = head.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert (measures.PixelSpacing, measures.SliceThickness) == ([0.5, 0.25], 1)


def test_a_finding_has_one_tracking_uid_in_report_and_segmentation(tmp_path: Path) -> None:
    image = image_with(tmp_path / "cine.dcm", KINDS["cine"][0])
    items = [item_of(image, masked(2, seed=row), frame=row) for row in (1, 2)]
    segments = dcmread(segmented(items, tmp_path / "seg")).SegmentSequence
    reports = [read_report(written(item, tmp_path / "sr")) for item in items]
    reported = [(one.tracking_uid, one.tracking_identifier) for report in reports for one in report.findings]
    assert [(one.TrackingUID, one.TrackingID) for one in segments] == reported
    assert len({uid for uid, _ in reported}) == 4


def test_frames_that_nobody_looked_at_are_counted(tmp_path: Path) -> None:
    elements = KINDS["cine"][0]
    items = items_of(image_with(tmp_path / "cine.dcm", elements), elements)
    head = dcmread(segmented(items, tmp_path / "seg"))
    assert head.ContentDescription == "Research use only, 3 of 4 frames analysed"
    assert [one.SegmentLabel for one in head.SegmentSequence] == [
        "RBC 1, frame 1",
        "cellule à étudier 2, frame 1",
        "RBC 1, frame 3",
    ]


@pytest.mark.parametrize("count", [1, 7, 8, 9, 17])
def test_bits_of_frames_follow_one_another(tmp_path: Path, count: int) -> None:
    """Of 35 pixels each, no frame but each eighth begins with a byte."""
    image = image_with(tmp_path / "ct.dcm", KINDS["ct"][0], (5, 7))
    item = item_of(image, masked(count, (5, 7)))
    pixels = dcmread(segmented([item], tmp_path / "seg")).pixel_array.reshape(count, 5, 7)
    np.testing.assert_array_equal(pixels.astype(bool), all_masks([item]))


def test_a_finding_without_a_pixel_is_still_a_segment(tmp_path: Path) -> None:
    image = image_with(tmp_path / "ct.dcm", KINDS["ct"][0])
    item = item_of(image, replace(masked(1), masks=Masks.of(np.zeros((1, 20, 30), dtype=bool))))
    head = dcmread(segmented([item], tmp_path / "seg"))
    assert (len(head.SegmentSequence), int(head.pixel_array.sum())) == (1, 0)


def test_nothing_found_has_no_segmentation(tmp_path: Path) -> None:
    image = image_with(tmp_path / "ct.dcm", KINDS["ct"][0])
    item = item_of(image, masked(2))
    path = segmented([item], tmp_path / "seg")
    made = write_segmentations(run_of(replace(item, detections=masked(0))), tmp_path / "seg", when=WHEN)
    assert (made.written, made.missing, made.empty, made.outdated) == ((), (), 1, (path,))
    lost = replace(item, detections=None, code="damaged")
    plain = replace(item_of(image, masked(1)), path=tmp_path / "plain.png", dicom=None)
    made = write_segmentations(run_of(lost, plain), tmp_path / "other", when=WHEN)
    assert (made.written, made.missing, made.empty, made.others) == ((), (), 0, 1)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    "broken",
    [
        {"FrameOfReferenceUID": None},
        {"ImagePositionPatient": None},
        {"ImagePositionPatient": [0, 0]},
        {"ImageOrientationPatient": []},
        {"PixelSpacing": None},
        {"PixelSpacing": "0.5"},
    ],
    ids=str,
)
def test_a_place_that_is_not_whole_is_none(tmp_path: Path, broken: dict[str, Any]) -> None:
    elements = {name: value for name, value in {**PLACED, **broken}.items() if value is not None}
    item = item_of(image_with(tmp_path / "ct.dcm", {"SOPClassUID": CTImageStorage, **elements}), masked(2))
    made = write_segmentations(run_of(item), tmp_path / "seg", when=WHEN)
    head = dcmread(made.written[0])
    assert (made.unplaced, "FrameOfReferenceUID" in head) == (1, False)
    assert "PlanePositionSequence" not in head.PerFrameFunctionalGroupsSequence[0]
    np.testing.assert_array_equal(head.pixel_array.astype(bool), all_masks([item]))


@pytest.mark.parametrize(
    "positions", [[[0, 0, 0], [0, 0, 1]], [[0, 0, 0], [0, 0, 1], [0, 0], [0, 0, 3]]], ids=["too few", "half a place"]
)
def test_frames_without_a_place(tmp_path: Path, positions: list[Any]) -> None:
    """The third frame has a finding, and no whole position."""
    elements = {**ENHANCED, "PerFrameFunctionalGroupsSequence": per_frame(*positions)}
    items = items_of(image_with(tmp_path / "ct.dcm", elements), elements)
    made = write_segmentations(run_of(*items), tmp_path / "seg", when=WHEN)
    assert (made.unplaced, "FrameOfReferenceUID" in dcmread(made.written[0])) == (1, False)


def test_what_cannot_be_made_is_said(tmp_path: Path) -> None:
    nameless = item_of_nameless(tmp_path)
    image = image_with(tmp_path / "ct.dcm", KINDS["ct"][0])
    small = item_of(image, masked(1, (10, 10)))
    changed = replace(item_of(image_with(tmp_path / "b.dcm", KINDS["ct"][0]), masked(1)), sha256="0" * 64)
    boxes = item_of(image_with(tmp_path / "boxes.dcm", KINDS["ct"][0]), found([[1, 2, 3, 4]]))
    made = write_segmentations(run_of(nameless, small, changed, boxes), tmp_path / "seg", when=WHEN)
    assert made.written == ()
    reasons = [reason for _, reason in made.missing]
    assert "no StudyInstanceUID" in reasons[0]
    assert reasons[1] == "The masks are not of the image's size. ([(10, 10)])"
    assert reasons[2] == "the file was changed after it was analysed"
    assert reasons[3] == "The findings have boxes and no masks."


def item_of_nameless(folder: Path) -> Item:
    path = write_dicom(folder / "nameless.dcm", BRIGHT, SeriesInstanceUID="1.2.3.4")
    sha256 = item_of(image_with(folder / "other.dcm", {}), None).sha256
    return Item(path, masked(1), sha256=sha256, dicom={"frame": 1})


def test_the_same_is_named_the_same(tmp_path: Path) -> None:
    image = image_with(tmp_path / "ct.dcm", KINDS["ct"][0])
    item = item_of(image, masked(2))
    path = segmented([item], tmp_path / "seg")
    first = path.read_bytes()
    write_segmentations(run_of(item), tmp_path / "seg", when=LATER)
    assert path.read_bytes() == first
    others = [replace(item, detections=masked(2, seed=9)), replace(item, detections=found([[1, 2, 11, 12]]))]
    uids = {dcmread(segmented([others[0]], tmp_path / "other")).SOPInstanceUID, dcmread(path).SOPInstanceUID}
    assert len(uids) == 2 and all(UID(one).is_valid for one in uids)
