"""Stored values become what a display shows: modality, then window, then inversion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jpeg_ls
import numpy as np
import pytest
from openjpeg.utils import encode_array
from pydicom import dcmread, uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate

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


def packed(first: int, entries: list[int], bits: int = 8) -> Dataset:
    """A table of bytes, two to a word (PS3.3, C.11.1.1.1: 8 bits allocated)."""
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(entries), first, bits])
    item.add_new("LUTData", "OW", bytes(entries) + b"\0" * (len(entries) % 2))
    return item


def without_data(item: Dataset) -> Dataset:
    del item.LUTData
    return item


def stating(item: Dataset, count: int, bits: int) -> Dataset:
    item.LUTDescriptor = [count, item.LUTDescriptor[1], bits]
    return item


TWELVE = {"BitsStored": 12, "HighBit": 11}
WHOLE = {**TWELVE, "WindowCenter": 2048, "WindowWidth": 4096}
HU = {**TWELVE, "RescaleSlope": 1, "RescaleIntercept": -1024}
"""Stored values from 0 up that mean -1024 and up, as in most CT."""

EIGHT = np.array([[0, 1, 2, 255]], np.uint8)
ENDS = np.array([[0, 2048, 4095]], np.uint16)

# What is shown, and part of the only warning; empty: none.
STANDARD: dict[str, tuple[np.ndarray, dict[str, Any], list[int], str]] = {
    # PS3.5 8.1.1: a sample reaches from HighBit down to HighBit - BitsStored + 1; other bits mean nothing.
    "high bit 15": (ENDS << 4, {**WHOLE, "HighBit": 15}, [0, 128, 255], ""),
    "high bit 15, other bits set": (ENDS << 4 | 15, {**WHOLE, "HighBit": 15}, [0, 128, 255], ""),
    "high bit 13, other bits set": (ENDS << 2 | 0xC003, {**WHOLE, "HighBit": 13}, [0, 128, 255], ""),
    "high bit 7 of 6 bits": (np.array([[0, 128, 252]], np.uint8), {"BitsStored": 6, "HighBit": 7}, [0, 130, 255], ""),
    "high bit 15, signed": (
        np.array([[-32768, 0, 32752]], np.int16),
        {**TWELVE, "HighBit": 15, "WindowCenter": 0, "WindowWidth": 4096},
        [0, 128, 255],
        "",
    ),
    "no high bit": (ENDS, {**WHOLE, "HighBit": None}, [0, 128, 255], ""),
    # C.11.2.1.1: the first value is SS where a rescale can make negative ones, whatever its VR: 64512 is -1024.
    "VOI LUT from -1024 in US": (
        np.array([[0, 1, 2, 9]], np.uint16),
        {**HU, "VOILUTSequence": [lut(64512, 16, [0, 32768, 65535])]},
        [0, 128, 255, 255],
        "",
    ),
    "VOI LUT from -1024 in SS": (
        np.array([[0, 1, 2, 9]], np.uint16),
        {**HU, "VOILUTSequence": [lut(-1024, 16, [0, 32768, 65535], signed=True)]},
        [0, 128, 255, 255],
        "",
    ),
    "VOI LUT from 40000, unsigned": (
        np.array([[0, 40000, 40001, 40002]], np.uint16),
        {"VOILUTSequence": [lut(40000, 16, [0, 32768, 65535])]},
        [0, 0, 128, 255],
        "",
    ),
    "VOI LUT from 40000 of signed pixels that a rescale lifts": (
        np.array([[-32768, 7232, 7233, 7234]], np.int16),
        {"RescaleSlope": 1, "RescaleIntercept": 32768, "VOILUTSequence": [lut(40000, 16, [0, 32768, 65535])]},
        [0, 0, 128, 255],
        "",
    ),
    "modality LUT from -2 in US": (
        np.array([[-3, -2, -1, 0]], np.int8),
        {"ModalityLUTSequence": [lut(65534, 8, [0, 128, 255])], "WindowCenter": 128, "WindowWidth": 256},
        [0, 0, 128, 255],
        "",
    ),
    # C.11.1.1.1: 8 bits an entry may be packed in bytes; 12 bits lie in words.
    "VOI LUT packed": (EIGHT, {"VOILUTSequence": [packed(0, [0, 100, 255])]}, [0, 100, 255, 255], ""),
    "VOI LUT packed, even": (EIGHT, {"VOILUTSequence": [packed(0, [0, 100, 200, 255])]}, [0, 100, 200, 255], ""),
    "modality LUT packed": (EIGHT, {"ModalityLUTSequence": [packed(1, [0, 200, 255])]}, [0, 0, 200, 255], ""),
    "modality LUT of 12 bits": (
        ENDS[:, :2] // 1024,
        {"ModalityLUTSequence": [lut(0, 12, [0, 1, 4095])], "WindowCenter": 2048, "WindowWidth": 4096},
        [0, 255],
        "",
    ),
    # C.11.1: its output is 0 … 2^n - 1, all of which is shown where there is no window.
    "modality LUT of 10 bits, no window": (
        EIGHT,
        {"ModalityLUTSequence": [lut(0, 10, [1, 512, 1023])]},
        [0, 128, 255, 255],
        "",
    ),
    "XA, whose modality LUT is no step of the display": (
        EIGHT,
        {"SOPClassUID": uid.XRayAngiographicImageStorage, "ModalityLUTSequence": [lut(0, 8, [9, 8, 7])]},
        [0, 1, 2, 255],
        "",
    ),
    "VOI LUT that states 16 bits and holds 12": (
        EIGHT,
        {"VOILUTSequence": [lut(0, 16, [0, 2048, 4095])]},
        [0, 128, 255, 255],
        "states 16 bits and holds 12",
    ),
    "VOI LUT that states 12 bits and holds 16": (
        EIGHT,
        {"VOILUTSequence": [lut(0, 12, [0, 32768, 65535])]},
        [0, 128, 255, 255],
        "states 12 bits and holds 16",
    ),
    "VOI LUT whose white is no white": (EIGHT, {"VOILUTSequence": [lut(0, 16, [0, 16384])]}, [0, 64, 64, 64], ""),
    "VOI LUT of 3 bits": (EIGHT, {"VOILUTSequence": [lut(0, 3, [0, 128, 255])]}, [0, 128, 255, 255], "states 3 bits"),
    "VOI LUT with entries missing": (
        EIGHT,
        {"VOILUTSequence": [stating(lut(0, 8, [0, 128, 255]), 9, 8)]},
        [0, 128, 255, 255],
        "another number of entries",
    ),
    "VOI LUT with entries too many": (
        EIGHT,
        {"VOILUTSequence": [stating(lut(0, 8, [0, 128, 200, 255, 255]), 2, 8)]},
        [0, 128, 128, 128],
        "another number of entries",
    ),
    "VOI LUT without data beside a window": (
        ENDS,
        {**WHOLE, "VOILUTSequence": [without_data(lut(0, 8, [1]))]},
        [0, 128, 255],
        "the VOI LUT of the file cannot be used",
    ),
    "modality LUT without data": (
        ENDS,
        {**WHOLE, "ModalityLUTSequence": [without_data(lut(0, 8, [1]))]},
        [0, 128, 255],
        "the modality LUT of the file cannot be used",
    ),
    "slope 0": (ENDS, {**WHOLE, "RescaleSlope": 0, "RescaleIntercept": 0}, [0, 128, 255], "the rescale of the file"),
    "a slope alone": (ENDS, {**WHOLE, "RescaleSlope": 2}, [0, 128, 255], "the rescale of the file"),
    "a slope past all numbers": (
        ENDS,
        {**WHOLE, "RescaleSlope": "1e308", "RescaleIntercept": 0},
        [0, 128, 255],
        "the rescale of the file",
    ),
    # C.11.1: 0.25 x - 7; C.11.2.1.2.1 in 128 around 128: ((x - 127.5) / 127 + 0.5) 255, so 540 is 128 is 128.504
    "a fractional slope": (
        np.array([[284, 540, 543, 796]], np.uint16),
        {"RescaleSlope": 0.25, "RescaleIntercept": -7, "WindowCenter": 128, "WindowWidth": 128},
        [0, 129, 130, 255],
        "",
    ),
    "an empty function": (ENDS, {**WHOLE, "VOILUTFunction": ""}, [0, 128, 255], ""),
    "an unknown function": (ENDS, {**WHOLE, "VOILUTFunction": "CUBIC"}, [0, 128, 255], "shown as LINEAR"),
    "a second window that can be used": (
        ENDS,
        {**TWELVE, "WindowCenter": [9, 2048], "WindowWidth": [0, 4096]},
        [0, 128, 255],
        "the window of the file cannot be used",
    ),
    # C.11.2.1.2.1: a width of 1 is a threshold, x <= c - 0.5 is black
    "a width of 1": (EIGHT, {"WindowCenter": 2, "WindowWidth": 1}, [0, 0, 255, 255], ""),
    "a window past all values": (EIGHT, {"WindowCenter": 9000, "WindowWidth": 10}, [0, 0, 0, 0], "next to nothing"),
}


@pytest.mark.parametrize("case", STANDARD)
@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian])
def test_the_standard(tmp_path: Path, case: str, syntax: uid.UID) -> None:
    stored, elements, expected, said = STANDARD[case]
    if syntax == uid.ExplicitVRBigEndian:
        elements = {**elements, **big_endian(stored, elements)}
    found, picture = levels(tmp_path, stored, syntax=syntax, **elements)
    assert found == expected
    assert len(picture.warnings) == bool(said)
    assert said in "".join(picture.warnings)


def big_endian(stored: np.ndarray, elements: dict[str, Any]) -> dict[str, Any]:
    """Pixels and packed tables with the bytes of each word swapped, which pydicom leaves to whoever writes them."""
    swapped = {"PixelData": stored.astype(stored.dtype.newbyteorder(">")).tobytes()}
    for name in ("VOILUTSequence", "ModalityLUTSequence"):
        for item in elements.get(name, []):
            if "LUTData" in item and item["LUTData"].VR == "OW":
                other = Dataset()
                other.update(item)
                other.add_new("LUTData", "OW", np.frombuffer(item.LUTData, ">u2").astype("<u2").tobytes())
                swapped[name] = [other]
    return swapped


LOSSLESS = [uid.JPEGLSLossless, uid.JPEG2000Lossless, uid.RLELossless]


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda syntax: syntax.name)
@pytest.mark.parametrize("high", [11, 15])
@pytest.mark.parametrize("signed", [False, True])
def test_unused_bits_of_compressed_samples(tmp_path: Path, syntax: uid.UID, high: int, signed: bool) -> None:
    """An overlay in them, or no sign: the picture is that of the samples alone."""
    samples = np.arange(-2048 * signed, 4096 - 2048 * signed).reshape(64, 64)
    mask = 0xFFF << high - 11
    noise = np.random.default_rng(0).integers(0, 1 << 16, samples.shape) & ~mask
    cells = ((samples << high - 11 & mask) | noise).astype(np.uint16).view(np.int16 if signed else np.uint16)
    elements = {**WHOLE, "HighBit": high, "WindowCenter": 2048 - 2048 * signed}
    plain = load_picture(write_dicom(tmp_path / "plain.dcm", cells, **elements)).pixels
    found = load_picture(compressed(tmp_path / "plain.dcm", tmp_path / "x.dcm", cells, syntax)).pixels
    np.testing.assert_array_equal(found, plain)
    expected = np.rint((samples + 2048 * signed) / 4095 * 255)
    assert np.abs(found[..., 0] - expected).max() <= 1


def compressed(plain: Path, path: Path, cells: np.ndarray, syntax: uid.UID) -> Path:
    """The file with its cells coded in all bits that are allocated."""
    dataset = dcmread(plain)
    if syntax == uid.RLELossless:
        dataset.BitsStored, high = 16, dataset.HighBit
        dataset.compress(syntax, cells, encoding_plugin="pydicom", generate_instance_uid=False)
        dataset.BitsStored, dataset.HighBit = 12, high
    else:
        coders = {
            uid.JPEGLSLossless: lambda: jpeg_ls.encode_array(cells.view(np.uint16)),
            uid.JPEG2000Lossless: lambda: encode_array(cells, bits_stored=16),
        }
        dataset.PixelData = encapsulate([bytes(coders[syntax]())])
        dataset["PixelData"].VR = "OB"
        dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(path)
    return path
