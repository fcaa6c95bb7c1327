"""Stored values become what a display shows: modality, then window, then inversion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medprompt.core.picture import Picture
from medprompt.images.read import load_picture
from tests.medprompt.dicom.made import lut, write_dicom

CT = np.array([[-1024, 0, 40, 3000]], dtype=np.int16)


def levels(folder: Path, stored: np.ndarray, **elements: Any) -> tuple[list[int], Picture]:
    picture = load_picture(write_dicom(folder / "x.dcm", stored, **elements))
    assert picture.pixels.dtype == np.uint8
    assert (picture.pixels == picture.pixels[..., :1]).all()
    return picture.pixels[..., 0].reshape(-1).tolist(), picture


def window(picture: Picture) -> Any:
    assert picture.dicom is not None
    return picture.dicom["window"]


WINDOWS: dict[str, tuple[np.ndarray, dict[str, Any], list[int]]] = {
    # PS3.3 C.11.2.1.2.1: ((x - (c - 0.5)) / (w - 1) + 0.5) * 255, so 40 in 40/400 is (0.5 / 399 + 0.5) * 255 = 127.8
    "linear": (CT, {"WindowCenter": 40, "WindowWidth": 400}, [0, 102, 128, 255]),
    "rescaled": (
        CT.view(np.uint16) * 0 + np.array([[0, 1024, 1064, 4024]], dtype=np.uint16),
        {"WindowCenter": 40, "WindowWidth": 400, "RescaleSlope": 1, "RescaleIntercept": -1024},
        [0, 102, 128, 255],
    ),
    # c 2048, w 4096: C.11.2's own example, the whole range of 12 bits
    "12 bits": (
        np.array([[0, 2048, 4095]], dtype=np.uint16),
        {"WindowCenter": 2048, "WindowWidth": 4096, "BitsStored": 12, "HighBit": 11},
        [0, 128, 255],
    ),
    "linear exact": (
        np.array([[0, 50, 100]], dtype=np.uint16),
        {"WindowCenter": 50, "WindowWidth": 100, "VOILUTFunction": "LINEAR_EXACT"},
        [0, 128, 255],
    ),
    # 255 / (1 + exp(-4 (x - c) / w)) at x = c + w / 2: 1 / (1 + exp(-2)) = 0.8808
    "sigmoid": (
        np.array([[0, 500, 550]], dtype=np.uint16),
        {"WindowCenter": 500, "WindowWidth": 100, "VOILUTFunction": "SIGMOID"},
        [0, 128, 225],
    ),
    "the first of two": (CT, {"WindowCenter": [40, 500], "WindowWidth": [400, 2000]}, [0, 102, 128, 255]),
    "a falling rescale": (
        np.array([[0, 500, 1000]], dtype=np.uint16),
        {"WindowCenter": -500, "WindowWidth": 1001, "RescaleSlope": -1, "RescaleIntercept": 0},
        [255, 128, 0],
    ),
    "8 bits, none": (np.array([[0, 77, 255]], dtype=np.uint8), {}, [0, 77, 255]),
    "signed 8 bits, none": (np.array([[-128, 0, 127]], dtype=np.int8), {}, [0, 128, 255]),
    "1 of 8 bits, none": (np.array([[0, 1]], dtype=np.uint8), {"BitsStored": 1, "HighBit": 0}, [0, 255]),
    "unused bits are masked": (
        np.array([[0xF000, 0xF800, 0x0FFF]], dtype=np.uint16),
        {"WindowCenter": 2048, "WindowWidth": 4096, "BitsStored": 12, "HighBit": 11},
        [0, 128, 255],
    ),
    "a sign in 12 bits": (
        np.array([[0x0800, 0x0000, 0x07FF]], dtype=np.int16),
        {"WindowCenter": 0, "WindowWidth": 4096, "BitsStored": 12, "HighBit": 11},
        [0, 128, 255],
    ),
    "VOI LUT of 16 bits": (
        np.array([[0, 10, 11, 12, 90]], dtype=np.uint16),
        {"VOILUTSequence": [lut(10, 16, [0, 32768, 65535])], "WindowCenter": 1, "WindowWidth": 1},
        [0, 0, 128, 255, 255],
    ),
    "VOI LUT after a rescale": (
        np.array([[0, 10, 11, 12]], dtype=np.uint16),
        {"VOILUTSequence": [lut(20, 16, [0, 32768, 65535])], "RescaleSlope": 1, "RescaleIntercept": 10},
        [0, 0, 128, 255],
    ),
    "VOI LUT of bytes for 12 bits": (
        np.array([[0, 255, 256, 4095, 60000]], dtype=np.uint16),
        {"VOILUTSequence": [lut(0, 8, [place // 16 for place in range(4096)])]},
        [0, 15, 16, 255, 255],
    ),
    "modality LUT": (
        np.array([[3, 4, 5]], dtype=np.uint8),
        {"ModalityLUTSequence": [lut(3, 8, [0, 128, 255])], "WindowCenter": 128, "WindowWidth": 256},
        [0, 128, 255],
    ),
}


@pytest.mark.parametrize("case", WINDOWS)
def test_windows(tmp_path: Path, case: str) -> None:
    stored, elements, expected = WINDOWS[case]
    found, picture = levels(tmp_path, stored, **elements)
    assert found == expected
    assert picture.warnings == ()


@pytest.mark.parametrize("case", WINDOWS)
def test_the_inversion_comes_last(tmp_path: Path, case: str) -> None:
    stored, elements, expected = WINDOWS[case]
    found, picture = levels(tmp_path, stored, **elements, PhotometricInterpretation="MONOCHROME1")
    assert found == [255 - level for level in expected]
    assert picture.dicom is not None
    assert picture.dicom["inverted"] is True


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        (
            {"WindowCenter": [40, 500], "WindowWidth": [400, 2000]},
            {"source": "file", "centre": 40, "width": 400, "function": "LINEAR", "available": 2},
        ),
        ({"VOILUTSequence": [lut(0, 8, [0, 255])] * 3}, {"source": "voi_lut", "available": 3}),
    ],
)
def test_the_window_is_on_record(tmp_path: Path, elements: dict[str, Any], expected: dict[str, Any]) -> None:
    _, picture = levels(tmp_path, CT, **elements)
    assert window(picture) == expected


def ramp() -> np.ndarray:
    """1,000 values: 0 … 999."""
    return np.arange(1000, dtype=np.uint16).reshape(10, 100)


def test_without_a_window_percentiles_are_shown_and_it_is_said(tmp_path: Path) -> None:
    found, picture = levels(tmp_path, ramp())
    assert window(picture) == {"source": "percentile", "low": 4, "high": 994}
    assert (found[4], found[499], found[994], found[999]) == (0, 128, 255, 255)
    assert len(picture.warnings) == 1
    assert "grey levels 4 … 994 were shown" in picture.warnings[0]


@pytest.mark.parametrize(
    "padding", [{"PixelPaddingValue": 60000}, {"PixelPaddingValue": 60000, "PixelPaddingRangeLimit": 60009}]
)
def test_padding_does_not_count(tmp_path: Path, padding: dict[str, int]) -> None:
    padded = np.vstack([ramp(), np.full((30, 100), 60000, np.uint16)])
    if len(padding) == 2:
        padded[10:20] = 60009
    _, picture = levels(tmp_path, padded, **padding)
    assert (window(picture)["low"], window(picture)["high"]) == (4, 994)


def test_signed_padding(tmp_path: Path) -> None:
    stored = np.vstack([ramp().astype(np.int16), np.full((30, 100), -2000, np.int16)])
    _, picture = levels(tmp_path, stored, PixelPaddingValue=-2000)
    assert (window(picture)["low"], window(picture)["high"]) == (4, 994)


def test_percentiles_are_of_what_the_values_mean(tmp_path: Path) -> None:
    _, picture = levels(tmp_path, ramp(), RescaleSlope=-2, RescaleIntercept=10)
    assert (window(picture)["low"], window(picture)["high"]) == (-1980, 0)


@pytest.mark.parametrize("padding", [{}, {"PixelPaddingValue": 7}])
def test_a_frame_of_one_value_is_black(tmp_path: Path, padding: dict[str, int]) -> None:
    found, _ = levels(tmp_path, np.full((2, 2), 7, np.uint16), **padding)
    assert found == [0, 0, 0, 0]


@pytest.mark.parametrize(("centre", "width"), [(40, 0), (40, 0.5), (40, -3)])
def test_a_window_without_a_width_is_not_used(tmp_path: Path, centre: float, width: float) -> None:
    found, picture = levels(tmp_path, np.array([[0, 255]], np.uint8), WindowCenter=centre, WindowWidth=width)
    assert found == [0, 255]
    assert picture.warnings == ("the window of the file cannot be used",)
