"""DICOM through the command: items, boxes, and nothing of the patient."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medprompt.core.errors import ImageError
from medprompt.images.read import find_images
from tests.medprompt.dicom.made import SOP_UID, sequence_item, write_dicom

Infer = Callable[..., tuple[int, dict[str, Any], str]]
BRIGHT = np.full((20, 30), 240, np.uint8)


def test_a_frame_is_an_item(infer: Infer, tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "cine.dcm", np.stack([BRIGHT, BRIGHT // 250, BRIGHT]), NumberOfFrames=3)
    code, results, said = infer(path, "--overlays", tmp_path / "o", "--coco", tmp_path / "c.json")
    assert code == 0
    assert [item["frame"] for item in results["items"]] == [1, 2, 3]
    assert [len(item["detections"]) for item in results["items"]] == [4, 0, 4]
    assert [item["dicom"]["sop_instance_uid"] for item in results["items"]] == [SOP_UID] * 3
    assert results["items"][0]["size_hw"] == [20, 30]
    assert "cine.dcm#frame 2" in said
    assert sorted(one.name for one in (tmp_path / "o").iterdir()) == [f"cine-frame{n}.png" for n in (1, 2, 3)]
    assert '"frame": 3' in (tmp_path / "c.json").read_text()
    assert [item["frame"] for item in infer(path, "--frames", "2-9")[1]["items"]] == [2, 3]
    assert infer(path, "--frames", "7-9")[0] == 2
    assert infer(path, "--frames", "some")[0] == 2


def test_boxes_of_the_monochrome1_twin(infer: Infer, tmp_path: Path) -> None:
    stored = np.random.default_rng(1).integers(0, 4096, (24, 36), dtype=np.uint16)
    common = {"BitsStored": 12, "HighBit": 11, "WindowCenter": 2048, "WindowWidth": 1200}
    dark = write_dicom(tmp_path / "2.dcm", stored, **common)
    bright = write_dicom(tmp_path / "1.dcm", 4095 - stored, PhotometricInterpretation="MONOCHROME1", **common)
    code, results, _ = infer(dark, bright, "--threshold", "0")
    assert code == 0
    first, second = results["items"]
    assert first["detections"] == second["detections"]
    assert len(first["detections"]) == 4
    assert (first["dicom"]["inverted"], second["dicom"]["inverted"]) == (False, True)


@pytest.mark.filterwarnings("ignore")
def test_a_patients_name_is_nowhere(infer: Infer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In the elements where it belongs, in those that are read, and in files that fail in each way."""
    planted = {
        "PatientName": "Zzyzx^Quimby",
        "PatientID": "ZZYZX-1",
        "InstitutionName": "Zzyzx",
        "ImageComments": "Zzyzx Quimby",
        "RequestAttributesSequence": [sequence_item(RequestedProcedureDescription="Zzyzx")],
    }
    good = write_dicom(tmp_path / "good.dcm", BRIGHT, BurnedInAnnotation="YES", **planted)
    cases = {
        "photometric": {"PhotometricInterpretation": "ZZYZX QUIMBY"},
        "rows": {"Rows": 5000},
        "window": {"WindowCenter": 5, "WindowWidth": 5, "VOILUTFunction": "ZZYZX"},
        "report": {"PixelData": None},
    }
    paths = [write_dicom(tmp_path / f"{name}.dcm", BRIGHT, **planted, **more) for name, more in cases.items()]
    torn = tmp_path / "torn.dcm"
    torn.write_bytes(good.read_bytes()[:-400])
    for path in (good, *paths, torn):
        assert b"zzyzx" in path.read_bytes().lower()
    caplog.clear()
    code, results, said = infer(good, *paths, torn)
    assert code == 1
    assert caplog.text == ""
    assert [item["status"] for item in results["items"]] == [
        *("OK_WITH_WARNINGS", "REJECTED", "REJECTED", "OK_WITH_WARNINGS", "REJECTED", "REJECTED")
    ]
    assert "burned-in" in results["items"][0]["warnings"][0]
    assert "zzyzx" not in said.lower()
    for written in tmp_path.rglob("*.json"):
        assert "zzyzx" not in written.read_text().lower()


def directory(folder: Path, *names: list[str]) -> Path:
    records = [sequence_item(DirectoryRecordType="PATIENT", PatientName="X")]
    records += [sequence_item(DirectoryRecordType="IMAGE", ReferencedFileID=name) for name in names]
    elements = {"SOPClassUID": "1.2.840.10008.1.3.10", "DirectoryRecordSequence": records}
    return write_dicom(folder / "DICOMDIR", **elements)


def test_a_folder_of_a_medium(infer: Infer, tmp_path: Path) -> None:
    """By its DICOMDIR and by its files: each once, in the list's order; what is listed and missing is an error."""
    medium = tmp_path / "medium"
    (medium / "A").mkdir(parents=True)
    for name in ("I2", "I1", "1.2.840.7"):
        write_dicom(medium / "A" / name, BRIGHT)
    (medium / "A" / "NOTES").write_text("no image")
    listed = directory(medium, ["A", "I2"], ["A", "I1"], ["A", "GONE"])
    names = ["I2", "I1", "GONE"]
    assert [path.name for path in find_images([listed])] == names
    assert sorted(path.name for path in find_images([medium])) == sorted([*names, "1.2.840.7"])
    code, results, _ = infer(listed)
    assert (code, [item["status"] for item in results["items"]]) == (1, ["OK", "OK", "ERROR"])


@pytest.mark.filterwarnings("ignore")  # pydicom's, when such files are written
@pytest.mark.parametrize("name", [["..", "secret"], ["A", "..", "..", "x"], ["/etc", "passwd"]])
def test_a_directory_that_leaves_its_folder(tmp_path: Path, name: list[str]) -> None:
    with pytest.raises(ImageError, match="leaves its folder"):
        find_images([directory(tmp_path, name)])


def test_a_directory_of_nothing_stands_for_itself(infer: Infer, tmp_path: Path) -> None:
    code, results, _ = infer(directory(tmp_path))
    assert (code, results["items"][0]["code"]) == (2, "no_pixels")
