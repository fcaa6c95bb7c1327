"""Numbers that are none, wherever a header may have them: never in results, never silent, never the end of a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.datadict import dictionary_VR

from medprompt.dicom.numbers import NUMBERS
from medprompt.images.read import load_picture
from medprompt.reports.source import COPIED
from tests.medprompt.dicom.made import sequence_item, write_dicom

RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)
PLAIN: dict[str, Any] = {"BitsStored": 12, "HighBit": 11, "WindowCenter": 2048, "WindowWidth": 4096}
RESCALE = {"RescaleSlope": 1, "RescaleIntercept": 0}
PLACE = "77777777"
"""Written where a value is to stand; DS and IS are text of any length."""

NONE = ["NaN", "nan", "inf", "-inf", "Infinity", "1e999", "-1e999", "abc", "4 0", "1.5.2", "--5"]


def planted(folder: Path, name: str, text: str, level: str = "file") -> Path:
    """A file whose element ``name``, of both values where it has two, is ``text``."""
    pair = name.endswith(("Spacing", "Ratio"))
    value: Any = [PLACE, PLACE] if pair else PLACE
    elements: dict[str, Any] = {**PLAIN, **(RESCALE if name.startswith("Rescale") else {})}
    if level == "file":
        elements[name] = value
    else:
        macro = {"W": "FrameVOILUTSequence", "R": "PixelValueTransformationSequence", "P": "PixelMeasuresSequence"}
        group = sequence_item(**{macro[name[0]]: [sequence_item(**{name: value})]})
        elements[f"{level}FunctionalGroupsSequence"] = [group]
    path = write_dicom(folder / f"{name}.dcm", RAMP, **elements)
    content = path.read_bytes()
    assert PLACE.encode() in content
    path.write_bytes(content.replace(PLACE.encode(), text.ljust(8).encode()))
    return path


CASES = [(name, "file") for name in NUMBERS] + [
    (name, level)
    for level in ("Shared", "PerFrame")
    for name in ("WindowCenter", "WindowWidth", "RescaleIntercept", "RescaleSlope", "PixelSpacing")
]


@pytest.mark.parametrize("text", NONE)
@pytest.mark.parametrize(("name", "level"), CASES)
def test_what_is_no_number_is_not_used_and_is_said(tmp_path: Path, name: str, level: str, text: str) -> None:
    picture = load_picture(planted(tmp_path, name, text, level))
    assert f"not written as a finite number: {name}" in picture.warnings
    levels = picture.pixels[..., 0].astype(int)
    assert (levels[0, 0], levels[-1, -1]) == (0, 255)
    assert np.abs(levels - np.rint(RAMP / 4095 * 255)).max() <= 2  # percentiles where the window is lost
    json.dumps(picture.dicom, allow_nan=False)


def test_a_decimal_comma_is_read_and_said(tmp_path: Path) -> None:
    picture = load_picture(planted(tmp_path, "WindowCenter", "1000,5"))
    assert picture.dicom is not None
    assert picture.dicom["window"]["centre"] == 1000.5
    assert picture.warnings == ("not written as a finite number: WindowCenter",)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e308])
@pytest.mark.parametrize("name", ["WindowCenter", "WindowWidth", "RescaleIntercept", "RescaleSlope"])
def test_binary_numbers(tmp_path: Path, name: str, value: float) -> None:
    """In FD, which the standard does not have there; sizes that no computation with 16 bits needs."""
    path = write_dicom(tmp_path / "x.dcm", RAMP, **PLAIN, **RESCALE)
    dataset = dcmread(path)
    del dataset[name]
    dataset.add_new(name, "FD", value)
    dataset.save_as(path)
    picture = load_picture(path)
    assert picture.warnings
    json.dumps(picture.dicom, allow_nan=False)


Infer = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.mark.parametrize("text", ["NaN", "-inf"])
def test_a_run_goes_on_with_reports(infer: Infer, tmp_path: Path, text: str) -> None:
    """Each element on its own file, those that a report copies too: results are JSON, reports are written."""
    copied = [name for name in COPIED if dictionary_VR(name) in ("DS", "FD", "FL", "IS")]
    assert copied == ["PatientSize", "PatientWeight"]
    (tmp_path / "in").mkdir()
    for name in (*NUMBERS, *copied):
        path = planted(tmp_path / "in", name, text)
        dataset = dcmread(path)
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.PatientID = "1.2.3", "1.2.3.4", "7"
        dataset.save_as(path)
    code, results, said = infer(tmp_path / "in", "--sr", tmp_path / "sr", "--csv", tmp_path / "r.csv")
    assert (code, "Traceback" in said) == (0, False)
    statuses = {Path(item["file"]).stem: item["status"] for item in results["items"]}
    assert statuses == {name: "OK" if name in copied else "OK_WITH_WARNINGS" for name in (*NUMBERS, *copied)}
    assert len(list((tmp_path / "sr").iterdir())) == len(statuses)
    json.dumps(results, allow_nan=False)
    assert "nan" not in (tmp_path / "r.csv").read_text().lower()
