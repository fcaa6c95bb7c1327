"""Structured reports read, made by the command, and judged by other software."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, MultiFrameGrayscaleByteSecondaryCaptureImageStorage

from medprompt.core.errors import InputError
from medprompt.reports.codes import PRIVATE_SCHEME
from medprompt.reports.files import read_report
from tests.medprompt.dicom.made import write_dicom
from tests.medprompt.reports.reported import BRIGHT, WHOLE, WSI, found, item_of, written

Infer = Callable[..., tuple[int, dict[str, Any], str]]


def as_circle(report: Dataset) -> None:
    region = report.ContentSequence[-1].ContentSequence[-1].ContentSequence[-1]
    region.GraphicType, region.GraphicData = "CIRCLE", [5.0, 5.0, 7.0, 5.0]


def as_another_template(report: Dataset) -> None:
    report.ContentTemplateSequence[0].TemplateIdentifier = "2000"


@pytest.mark.parametrize("spoil", [as_circle, as_another_template, None, b"", b"Zzyzx"])
def test_what_is_no_report_is_refused(image: Path, tmp_path: Path, spoil: Any) -> None:
    path = tmp_path / "spoilt.dcm"
    if isinstance(spoil, bytes):
        path.write_bytes(spoil)
    else:
        dataset = dcmread(image if spoil is None else written(item_of(image, found([[1, 2, 3, 4]])), tmp_path))
        if spoil is not None:
            spoil(dataset)
        dataset.save_as(path)
    with pytest.raises(InputError, match="report cannot be read") as caught:
        read_report(path)
    assert "Zzyzx" not in str(caught.value)


def test_a_region_of_others(image: Path, tmp_path: Path) -> None:
    """Without certainty, kind and label: what is not said is not made up."""
    path = written(item_of(image, found([[1, 2, 3, 4]])), tmp_path)
    dataset = dcmread(path)
    group = dataset.ContentSequence[-1].ContentSequence[-1]
    dropped = {"Finding", "Certainty of Finding", "Algorithm Parameters"}
    group.ContentSequence = [
        child for child in group.ContentSequence if child.ConceptNameCodeSequence[0].CodeMeaning not in dropped
    ]
    del dataset.ContentSequence[-1].ContentSequence[0]
    dataset.save_as(path)
    report = read_report(path)
    (finding,) = report.findings
    assert (finding.box_xyxy, finding.score, finding.code, finding.label) == ((1, 2, 3, 4), None, None, "")
    assert report.searched is False


def test_through_the_command(infer: Infer, tmp_path: Path) -> None:
    """Bright and dark frames, a file without pixels; then the same run once more."""
    study = tmp_path / "study"
    study.mkdir()
    multi = {**WHOLE, "SOPClassUID": MultiFrameGrayscaleByteSecondaryCaptureImageStorage, "NumberOfFrames": 2}
    write_dicom(study / "cine.dcm", np.stack([BRIGHT, BRIGHT // 250]), **multi)
    write_dicom(study / "plan.dcm", BRIGHT, PixelData=None, **WHOLE)
    code, results, said = infer(study, "--sr", tmp_path / "sr")
    assert code == 1  # the file without pixels
    assert sorted(path.name for path in (tmp_path / "sr").iterdir()) == ["cine-frame1.dcm", "cine-frame2.dcm"]
    bright, dark = (read_report(tmp_path / "sr" / f"cine-frame{frame}.dcm") for frame in (1, 2))
    rows = results["items"][0]["detections"]
    assert [list(one.box_xyxy) for one in bright.findings] == [row["box_xyxy"] for row in rows]
    assert [(one.label, one.score, one.frame) for one in bright.findings] == [(r["label"], r["score"], 1) for r in rows]
    assert (dark.findings, dark.searched) == ((), True)
    assert "Zzyzx" not in said
    before = {path.name: path.read_bytes() for path in (tmp_path / "sr").iterdir()}
    infer(study, "--sr", tmp_path / "sr", "--resume")
    assert {path.name: path.read_bytes() for path in (tmp_path / "sr").iterdir()} == before
    shutil.copy(study / "cine.dcm", tmp_path / "sr" / "cine-frame2.dcm")  # an image, where a report would be written
    for leave in ("--resume", "--force"):
        code, _, said = infer(study, "--sr", tmp_path / "sr", leave)
        assert code == 2 and "medprompt did not write it" in said
    assert (tmp_path / "sr" / "cine-frame2.dcm").read_bytes() == (study / "cine.dcm").read_bytes()


def test_the_command_says_what_has_no_report(infer: Infer, tmp_path: Path) -> None:
    from PIL import Image

    good = write_dicom(tmp_path / "good.dcm", BRIGHT, **WHOLE)
    nameless = write_dicom(tmp_path / "nameless.dcm", BRIGHT)
    Image.new("RGB", (30, 20), "white").save(tmp_path / "plain.png")
    code, _, said = infer(good, tmp_path / "plain.png", "--sr", tmp_path / "sr")
    assert (code, "1 analysed images have no report" in said) == (0, True)
    code, _, said = infer(good, nameless, "--sr", tmp_path / "sr", "--force")
    assert (code, "no StudyInstanceUID, SeriesInstanceUID" in said) == (1, True)
    assert [path.name for path in (tmp_path / "sr").iterdir()] == ["good.dcm"]
    code, _, said = infer(tmp_path / "plain.png", "--sr", tmp_path / "sr")
    assert (code, "none of these is one" in said) == (2, True)


@pytest.mark.parametrize("boxes", [[], [[1, 2, 3, 4], [0, 0, 30, 20]]], ids=["none", "two"])
@pytest.mark.parametrize(
    ("kind", "frame"), [(CTImageStorage, None), (MultiFrameGrayscaleByteSecondaryCaptureImageStorage, 2), (WSI, 2)]
)
@pytest.mark.parametrize("tool", ["dciodvfy", "dsrdump"])
def test_validators_find_no_fault(
    tmp_path: Path, tool: str, kind: str, frame: int | None, boxes: list[list[float]]
) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed (Debian: dicom3tools for dciodvfy, dcmtk for dsrdump)")
    path = write_dicom(tmp_path / "ct.dcm", BRIGHT, SOPClassUID=kind, **WHOLE)
    report = written(item_of(path, found(boxes), frame=frame, warnings=("a warning",)), tmp_path / "sr")
    done = subprocess.run([tool, str(report)], capture_output=True, text=True, check=False)
    said = (done.stderr if tool == "dsrdump" else done.stdout + done.stderr).splitlines()
    # A private scheme is unknown to dciodvfy by its nature; dcmtk's check of values does not know UTF-8.
    known = ("ComprehensiveSR", f"Unrecognized defined term <{PRIVATE_SCHEME}>", "does not support this Specific Char")
    assert [line for line in said if line and not any(word in line for word in known)] == []
    assert done.returncode == 0
