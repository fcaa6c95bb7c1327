"""Structured reports: what they say of a frame, and that boxes come back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.uid import UID, CTImageStorage

from medprompt.core import errors
from medprompt.core.errors import EngineError, InputError
from medprompt.prompts.schema import Code
from medprompt.reports.codes import PRIVATE_SCHEME, finding_code
from medprompt.reports.files import read_report, write_reports
from medprompt.reports.source import report_source
from medprompt.reports.write import rectangle, report_from_item
from medprompt.results.run import PromptSubset
from tests.medprompt.dicom.made import SOP_UID, write_dicom
from tests.medprompt.reports.reported import (
    BLOOD_CELL,
    BRIGHT,
    LABELS,
    LATER,
    PATIENT,
    STUDY,
    UIDS,
    WHEN,
    WHOLE,
    WSI,
    found,
    item_of,
    run_of,
    texts,
    written,
)


def test_what_a_report_says(image: Path, tmp_path: Path) -> None:
    item = item_of(
        image,
        found([[1, 2.5, 11.25, 12], [3, 4, 5, 6.125]]),
        warnings=("grey levels 0 … 9 were shown",),
        prompt_set=PromptSubset("0123456789abcdef", ("red cell",)),
    )
    path = written(item, tmp_path / "sr")
    assert path.name == "ct.dcm"
    report = read_report(path)
    first, second = report.findings
    assert (first.box_xyxy, second.box_xyxy) == ((1, 2.5, 11.25, 12), (3, 4, 5, 6.125))
    assert (first.score, second.score) == (0.9, 0.123456)
    assert (first.label, second.label) == LABELS
    assert first.code == BLOOD_CELL
    assert second.code and (second.code.scheme, second.code.meaning) == (PRIVATE_SCHEME, LABELS[1])
    assert (first.tracking_identifier, second.tracking_identifier) == ("RBC 1", "cellule à étudier 2")
    assert len({report.sop_instance_uid, first.tracking_uid, second.tracking_uid}) == 3
    assert {(one.sop_instance_uid, one.frame) for one in report.findings} == {(SOP_UID, None)}
    assert (report.searched, report.warnings) == (True, item.warnings)
    looked_for = "Looked for: RBC (score 0.2 or more), cellule à étudier (score 0.05 or more)"
    assert report.comments == ("Research use only.", looked_for)
    said = texts(path)
    assert said.count(f"bundle_sha256={'b' * 64}") == 3
    for text in (f"bank_sha256={'c' * 64}", "engine=fake", "prompt_set=0123456789abcdef", "phrase=red cell"):
        assert said.count(text) == 1


def test_the_head_of_a_report(image: Path, tmp_path: Path) -> None:
    head = dcmread(written(item_of(image, found([])), tmp_path))
    source = dcmread(image)
    for name in (*PATIENT, *STUDY, "ReferringPhysicianName", "StudyInstanceUID"):
        assert head[name].value == source[name].value
    assert (head.Modality, head.SOPClassUID.name, head.InstanceNumber) == ("SR", "Comprehensive SR Storage", 7)
    assert (head.CompletionFlag, head.PreliminaryFlag, head.VerificationFlag) == (
        "COMPLETE",
        "PRELIMINARY",
        "UNVERIFIED",
    )
    assert (head.Manufacturer, head.SoftwareVersions, head.DeviceSerialNumber) == ("medprompt", "1.2", "b" * 64)
    assert head.SeriesDescription == "medprompt: Research use only."
    (study,) = head.CurrentRequestedProcedureEvidenceSequence
    (series,) = study.ReferencedSeriesSequence
    (reference,) = series.ReferencedSOPSequence
    assert (study.StudyInstanceUID, series.SeriesInstanceUID) == ("1.2.3", "1.2.3.4")
    assert (reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID) == (CTImageStorage, SOP_UID)


def test_nothing_found_is_said_of_what_was_looked_for(image: Path, tmp_path: Path) -> None:
    report = read_report(written(item_of(image, found([])), tmp_path))
    assert (report.findings, report.searched) == ((), True)
    assert "Looked for: RBC (score 0.2 or more)" in report.comments[1]


@pytest.mark.parametrize("changes", [{"detections": None, "code": "damaged"}, {"detections": None}, {"dicom": None}])
def test_what_was_not_analysed_has_no_report(image: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    item = replace(item_of(image, found([])), **changes)
    made = write_reports(run_of(item), tmp_path / "sr", when=WHEN)
    assert (made.written, made.missing, made.others) == ((), (), int("dicom" in changes))
    assert not (tmp_path / "sr").exists()
    with pytest.raises(ValueError, match="of any other nothing is known"):
        report_from_item(item, run_of(item), report_source(image), WHEN)


sizes = st.integers(1, 16384)
places = st.floats(-50, 16434, width=32)


@given(st.tuples(places, places, places, places), sizes, sizes)
def test_an_outline_spans_the_box_in_the_frame(box: tuple[float, ...], height: int, width: int) -> None:
    points = rectangle(list(box), (height, width))
    assert (points[0] == points[-1]).all()
    sides = [width, height, width, height]
    np.testing.assert_array_equal(
        [*points[0], *points[2]], np.clip(np.array(box, np.float32), 0, sides).astype(np.float32)
    )


@settings(max_examples=15, deadline=None)
@given(data=st.data(), height=sizes, width=sizes, count=st.integers(0, 3))
def test_boxes_come_back(image: Path, data: st.DataObject, height: int, width: int, count: int) -> None:
    def side(most: int) -> tuple[float, float]:
        one, other = (data.draw(st.floats(0, most, width=32)) for _ in "12")
        return min(one, other), max(one, other)

    boxes = []
    for _ in range(count):
        (left, right), (top, bottom) = side(width), side(height)
        boxes.append([left, top, right, bottom])
    detections = found(boxes, (height, width))
    item = item_of(image, detections, frame=data.draw(st.sampled_from([None, 1, 12])))
    path = image.parent / "round-trip.dcm"
    report_from_item(item, run_of(item), report_source(image), WHEN).save_as(path, enforce_file_format=True)
    findings = read_report(path).findings
    assert len(findings) == count
    back = np.array([one.box_xyxy for one in findings]).reshape(count, 4)
    np.testing.assert_allclose(back, detections.boxes_xyxy, rtol=0, atol=1e-3)
    np.testing.assert_allclose([one.score for one in findings], detections.scores, rtol=0, atol=1e-6)
    assert [one.label for one in findings] == [LABELS[one] for one in detections.class_ids]
    assert {one.frame for one in findings} <= {item.frame}


def test_the_same_is_named_the_same(image: Path, tmp_path: Path) -> None:
    item = item_of(image, found([[1, 2, 3, 4]]))
    first = written(item, tmp_path / "a").read_bytes()
    assert written(item, tmp_path / "b").read_bytes() == first
    assert written(item, tmp_path / "a", LATER).read_bytes() == first  # it was there already
    later = written(item, tmp_path / "c", LATER)
    assert later.read_bytes() != first
    assert read_report(later) == read_report(tmp_path / "a" / "ct.dcm")
    later.write_bytes(first[:200])  # another's, damaged
    assert written(item, tmp_path / "c").read_bytes() == first


@pytest.mark.parametrize(
    "changes",
    [
        {"bundle_sha256": "d" * 64},
        {"bank_sha256": "d" * 64},
        {"engine": "ort-cpu"},
        {"thresholds": (0.2, 0.06)},
        {"intended_use": "Triage"},
        {"versions": (("medprompt", "1.3"),)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_other_means_are_named_otherwise(image: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    item = item_of(image, found([[1, 2, 3, 4]]))
    before, after = (dcmread(written(item, tmp_path, **one)) for one in ({}, changes))
    assert before.SOPInstanceUID != after.SOPInstanceUID
    assert before.SeriesInstanceUID != after.SeriesInstanceUID
    other = dcmread(written(item_of(image, found([[1, 2, 3, 5]])), tmp_path, **changes))
    assert (other.SeriesInstanceUID, other.SOPInstanceUID != after.SOPInstanceUID) == (after.SeriesInstanceUID, True)


@pytest.mark.parametrize(
    ("label", "code", "expected"),
    [
        ("RBC", BLOOD_CELL, ("41898006", "SCT", "Erythrocyte")),
        ("RBC", Code(scheme="SCT", value="41898006"), ("41898006", "SCT", "RBC")),
        ("RBC", Code(scheme="X", value="1" * 20, meaning="m" * 70), ("1" * 20, "X", "m" * 64)),
        ("RBC", None, ("72ad63583210d6ff", PRIVATE_SCHEME, "RBC")),
        ("é" * 70, None, ("78dcf717205d89b7", PRIVATE_SCHEME, "é" * 64)),
        ("a\\b\nc", None, ("75d6af598bea28c3", PRIVATE_SCHEME, "a/b c")),
    ],
    ids=["whole", "no meaning", "long", "no code", "long label", "not of LO"],
)
def test_codes(label: str, code: Code | None, expected: tuple[str, str, str]) -> None:
    made = finding_code(label, code)
    assert (made.value, made.scheme_designator, made.meaning) == expected


@pytest.mark.filterwarnings("ignore")  # pydicom's, on the values that are ill-formed on purpose
@pytest.mark.parametrize(
    "elements",
    [
        {"PatientName": "Διονυσιος", "SpecificCharacterSet": "ISO_IR 126"},
        {"StudyTime": "14:04:38", "StudyDate": "1997.04.24", "PatientSex": "?"},
        {name: None for name in (*PATIENT, *STUDY, "ReferringPhysicianName", "InstanceNumber")},
        {"SOPClassUID": WSI},
        {"InstanceNumber": 0},
        {"TimezoneOffsetFromUTC": "+0300"},
        {"TimezoneOffsetFromUTC": "later"},
    ],
    ids=["Greek", "ill-formed", "empty", "slide", "number 0", "zone", "no zone"],
)
def test_any_identity_is_copied_as_it_stands(tmp_path: Path, elements: dict[str, Any]) -> None:
    stacked = np.stack([BRIGHT, BRIGHT])
    given = {name: value for name, value in {**WHOLE, **elements}.items() if value is not None}
    path = write_dicom(tmp_path / "two.dcm", stacked, NumberOfFrames=2, **given)
    report = written(item_of(path, found([[1, 2, 3, 4]]), frame=2), tmp_path / "sr")
    head, source = dcmread(report), dcmread(path)
    for name in (*PATIENT, *STUDY, "ReferringPhysicianName"):
        assert (head[name].value or None) == (source.get(name) or None)
    (finding,) = read_report(report).findings
    assert (report.name, finding.frame, head.InstanceNumber) == ("two-frame2.dcm", 2, 2)
    region = highdicom.sr.srread(report).content.get_planar_roi_measurement_groups()[0].roi
    assert region is not None
    assert region.get("PixelOriginInterpretation") == ("FRAME" if elements.get("SOPClassUID") == WSI else None)
    if elements.get("TimezoneOffsetFromUTC") == "+0300":
        assert (head.ContentDate, head.ContentTime) == ("20260304", "080607")


def test_a_slide_of_one_frame(tmp_path: Path) -> None:
    """Its box is of the frame, which need not be the whole slide."""
    path = write_dicom(tmp_path / "slide.dcm", BRIGHT, **WHOLE, SOPClassUID=WSI)
    report = written(item_of(path, found([[1, 2, 3, 4]])), tmp_path / "sr")
    (group,) = highdicom.sr.srread(report).content.get_planar_roi_measurement_groups()
    assert (group.roi.PixelOriginInterpretation, read_report(report).findings[0].frame) == ("FRAME", 1)


@pytest.mark.parametrize("name", ["SOPInstanceUID", "SOPClassUID", *UIDS])
def test_an_image_that_cannot_be_referred_to(tmp_path: Path, name: str) -> None:
    path = write_dicom(tmp_path / "ct.dcm", BRIGHT, **WHOLE)
    item = item_of(path, found([]))
    dataset = dcmread(path)
    delattr(dataset, name)
    dataset.save_as(path)
    ((missing, reason),) = write_reports(run_of(item), tmp_path / "sr", when=WHEN).missing
    assert missing is item
    assert f"no {name}" in reason


def test_an_image_of_a_private_class(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "ct.dcm", BRIGHT, **WHOLE, SOPClassUID=UID("1.2.3.999"))
    ((_, reason),) = write_reports(run_of(item_of(path, found([]))), tmp_path / "sr", when=WHEN).missing
    assert "making the report failed" in reason


@pytest.mark.parametrize("new", [b"", b"\0" * 128 + b"DICMnothing", None])
def test_a_file_that_changed_since(tmp_path: Path, new: bytes | None) -> None:
    """Its report would speak of pixels that nobody looked at. A report that an earlier run left is pointed out."""
    path = write_dicom(tmp_path / "ct.dcm", BRIGHT, **WHOLE)
    item = item_of(path, found([]))
    report = written(item, tmp_path / "sr")
    path.unlink()
    if new is None:
        write_dicom(path, BRIGHT, **{**WHOLE, "PatientID": "other"})
    else:
        path.write_bytes(new)
    made = write_reports(run_of(item), tmp_path / "sr", when=WHEN)
    assert (made.written, len(made.missing), made.outdated) == ((), 1, (report,))
    assert ("changed" in made.missing[0][1]) == (new is None)
    assert "Zzyzx" not in made.missing[0][1]


def test_an_unwritable_folder(image: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        write_reports(run_of(item_of(image, found([]))), tmp_path / "file" / "sr", when=WHEN)


def test_without_highdicom(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(errors, "find_spec", lambda name: None)
    for call in (lambda: write_reports(run_of(), tmp_path), lambda: read_report(tmp_path)):
        with pytest.raises(EngineError, match=r"pip install .pydicom"):
            call()
