"""Colours become RGB, what a reader should know is said, and what may not be analysed is refused by name."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread, uid

from medprompt.core import errors, picture
from medprompt.core.errors import EngineError, ImageError
from medprompt.core.packages import install_command
from medprompt.dicom import header
from medprompt.images.read import load_image, load_picture
from tests.medprompt.dicom.made import SOP_UID, write_dicom

RGB = np.array([[[0, 128, 255], [10, 20, 30]]], dtype=np.uint8)
GREY = np.array([[0, 255]], dtype=np.uint8)


def palette(bits: int, entries: list[list[int]], first: int = 0) -> dict[str, Any]:
    """Elements of a palette; each entry is red, green, blue."""
    elements: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for place, name in enumerate(("Red", "Green", "Blue")):
        column = np.array([entry[place] for entry in entries], dtype=f"<u{bits // 8}").tobytes()
        elements[f"{name}PaletteColorLookupTableDescriptor"] = [len(entries), first, bits]
        elements[f"{name}PaletteColorLookupTableData"] = column + b"\0" * (len(column) % 2)
    return elements


def segmented(bits: int, entries: list[list[int]], first: int) -> dict[str, Any]:
    """The same as one discrete segment (PS3.3, C.7.9.2.1)."""
    elements = palette(bits, entries, first)
    for place, name in enumerate(("Red", "Green", "Blue")):
        del elements[f"{name}PaletteColorLookupTableData"]
        content = np.array([0, len(entries), *(entry[place] for entry in entries)], f"<u{bits // 8}").tobytes()
        elements[f"Segmented{name}PaletteColorLookupTableData"] = content + b"\0" * (len(content) % 2)
    return elements


COLOURS: dict[str, tuple[np.ndarray, dict[str, Any], list[list[int]]]] = {
    "RGB": (RGB, {}, [[0, 128, 255], [10, 20, 30]]),
    "planar": (
        np.array([[[10, 20, 30], [40, 50, 60]]], np.uint8),
        {"PlanarConfiguration": 1},
        [[10, 30, 50], [20, 40, 60]],
    ),
    "16 bits": (RGB.astype(np.uint16) * 257, {}, [[0, 128, 255], [10, 20, 30]]),
    "12 bits": (
        np.array([[[0, 2056, 4095], [161, 321, 482]]], np.uint16),
        {"BitsStored": 12, "HighBit": 11},
        [[0, 128, 255], [10, 20, 30]],
    ),
    # PS3.3 C.7.6.3.1.2: Y 76, Cb 85, Cr 255 is pure red; Y = Cb = Cr = 128 is mid grey
    "YBR": (
        np.array([[[76, 85, 255], [128, 128, 128]]], np.uint8),
        {"PhotometricInterpretation": "YBR_FULL"},
        [[254, 0, 0], [128, 128, 128]],
    ),
    "palette": (
        np.array([[0, 1, 2, 9]], np.uint8),
        palette(8, [[1, 2, 3], [255, 0, 7]]),
        [[1, 2, 3], [255, 0, 7], [255, 0, 7], [255, 0, 7]],
    ),
    "palette of 16 bits": (
        np.array([[4, 5, 6]], np.uint8),
        palette(16, [[0, 257, 65535], [25700, 0, 0]], first=5),
        [[0, 1, 255], [0, 1, 255], [100, 0, 0]],
    ),
    # PS3.3 C.7.9.2: one discrete entry 10, then a line of two entries to 30
    "segmented palette": (
        np.array([[0, 1, 2]], np.uint8),
        {
            "PhotometricInterpretation": "PALETTE COLOR",
            **{f"{c}PaletteColorLookupTableDescriptor": [3, 0, 8] for c in ("Red", "Green", "Blue")},
            **{
                f"Segmented{c}PaletteColorLookupTableData": bytes([0, 1, 10, 1, 2, 30])
                for c in ("Red", "Green", "Blue")
            },
        },
        [[10, 10, 10], [20, 20, 20], [30, 30, 30]],
    ),
    "palette shorter than its values": (
        np.array([[0, 300]], np.uint16),
        palette(8, [[9, 9, 9]] * 255 + [[1, 2, 3]]),
        [[9, 9, 9], [1, 2, 3]],
    ),
}


LOW = [[0, 1, 2], [255, 128, 7]]
PALETTES: dict[str, tuple[np.ndarray, dict[str, Any], list[list[int]], str]] = {
    "16 bits that hold 8": (np.array([[0, 1]], np.uint8), palette(16, LOW), LOW, "states 16 bits and holds 8"),
    "16 bits that hold 12": (
        np.array([[0, 1]], np.uint8),
        palette(16, [[0, 16, 4095], [2048, 4095, 0]]),
        [[0, 1, 255], [128, 255, 0]],
        "states 16 bits and holds 12",
    ),
    "16 bits, dark in one colour": (
        np.array([[0, 1]], np.uint8),
        palette(16, [[0, 255, 65535], [257, 0, 0]]),
        [[0, 1, 255], [1, 0, 0]],
        "",
    ),
    "bytes that state 16 bits": (
        np.array([[0, 1]], np.uint8),
        {
            **palette(8, LOW),
            **{f"{c}PaletteColorLookupTableDescriptor": [2, 0, 16] for c in ("Red", "Green", "Blue")},
        },
        LOW,
        "states 16 bits and holds 8",
    ),
    "words that state 8 bits": (
        np.array([[0, 1]], np.uint8),
        {
            **palette(16, [[0, 257, 514], [65535, 32896, 1799]]),
            **{f"{c}PaletteColorLookupTableDescriptor": [2, 0, 8] for c in ("Red", "Green", "Blue")},
        },
        LOW,
        "states 8 bits and holds 16",
    ),
    "entries missing": (
        np.array([[0, 9]], np.uint8),
        {
            **palette(16, [[0, 257, 514], [65535, 32896, 1799]]),
            **{f"{c}PaletteColorLookupTableDescriptor": [9, 0, 16] for c in ("Red", "Green", "Blue")},
        },
        LOW,
        "another number of entries",
    ),
    "from -1": (np.array([[-2, 0]], np.int8), palette(8, LOW, first=-1), LOW, ""),
    "segmented, from -1": (np.array([[-2, 0]], np.int8), segmented(8, LOW, first=-1), LOW, ""),
    "segmented, from 65535": (
        np.array([[0, 65535]], np.uint16),
        segmented(8, [[9, 9, 9], *LOW], first=0xFFFE),
        [[9, 9, 9], LOW[0]],
        "",
    ),
    "in the high bits": (
        np.array([[0x0F, 0x1F]], np.uint8),
        {**palette(8, LOW), "BitsStored": 4, "HighBit": 7},
        LOW,
        "",
    ),
}


@pytest.mark.parametrize("case", PALETTES)
def test_palettes(tmp_path: Path, case: str) -> None:
    stored, elements, expected, said = PALETTES[case]
    picture = load_picture(write_dicom(tmp_path / "x.dcm", stored, **elements))
    assert picture.pixels.reshape(-1, 3).tolist() == expected
    assert len(picture.warnings) == bool(said)
    assert said in "".join(picture.warnings)


@pytest.mark.parametrize("make", [palette, segmented], ids=lambda make: str(make.__name__))
@pytest.mark.parametrize("first", [-1, -200, -32768])
def test_a_first_value_below_0_that_is_stated_as_unsigned(tmp_path: Path, first: int, make: Callable[..., Any]) -> None:
    path = write_dicom(tmp_path / "x.dcm", np.array([[first, first + 1]], np.int16), **make(8, LOW, first=first))
    dataset = dcmread(path)
    for colour in ("Red", "Green", "Blue"):
        dataset.add_new(f"{colour}PaletteColorLookupTableDescriptor", "US", [2, first & 0xFFFF, 8])
    dataset.save_as(path)
    assert load_picture(path).pixels.reshape(-1, 3).tolist() == LOW


def test_a_palette_of_big_endian_words(tmp_path: Path) -> None:
    elements = palette(16, [[0, 257, 514], [65535, 32896, 1799]])
    for name in [name for name in elements if name.endswith("Data")]:
        elements[name] = np.frombuffer(elements[name], "<u2").astype(">u2").tobytes()
    path = write_dicom(tmp_path / "x.dcm", np.array([[0, 1]], np.uint8), uid.ExplicitVRBigEndian, **elements)
    assert load_picture(path).pixels.reshape(-1, 3).tolist() == LOW


@pytest.mark.parametrize("case", COLOURS)
def test_colours(tmp_path: Path, case: str) -> None:
    stored, elements, expected = COLOURS[case]
    picture = load_picture(write_dicom(tmp_path / "x.dcm", stored, **elements))
    assert picture.pixels.dtype == np.uint8
    assert picture.pixels.reshape(-1, 3).tolist() == expected
    assert picture.warnings == ()
    assert picture.dicom is not None
    assert (picture.dicom["window"], picture.dicom["inverted"]) == (None, False)


WARNINGS: dict[str, tuple[dict[str, Any], str]] = {
    "burned in": ({"BurnedInAnnotation": "YES"}, "burned-in annotation"),
    "for processing": ({"PresentationIntentType": "FOR PROCESSING"}, "for processing"),
    "supplemental": ({"PixelPresentation": "COLOR"}, "supplemental colours"),
    "aspect": ({"PixelAspectRatio": [2, 1]}, "2 times as high as wide"),
    "spacing": ({"PixelSpacing": [0.5, 1]}, "0.5 times as high as wide"),
    "two centres and a width": ({"WindowCenter": [128, 40], "WindowWidth": 256}, "number of window centres"),
    "a centre and two widths": ({"WindowCenter": 128, "WindowWidth": [256, 40]}, "number of window centres"),
    "a shape of MONOCHROME1": ({"PresentationLUTShape": "INVERSE"}, "presentation LUT shape contradicts"),
    "a shape of MONOCHROME2": (
        {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "IDENTITY"},
        "presentation LUT shape contradicts",
    ),
    "imager": ({"ImagerPixelSpacing": [1, 0.8]}, "1.25 times as high as wide"),
}


@pytest.mark.parametrize("case", WARNINGS)
def test_warnings(tmp_path: Path, case: str) -> None:
    elements, expected = WARNINGS[case]
    picture = load_picture(write_dicom(tmp_path / "x.dcm", GREY, **elements))
    assert len(picture.warnings) == 1
    assert expected in picture.warnings[0]
    assert picture.pixels.shape == (1, 2, 3)


@pytest.mark.parametrize(
    "elements",
    [
        {"BurnedInAnnotation": "NO"},
        {"PixelAspectRatio": [1, 1]},
        {"PixelSpacing": [0.5, 0.504]},
        {"PixelSpacing": [0, 0]},
        {"PixelSpacing": None, "ImagerPixelSpacing": [2, 2]},
        {"PresentationIntentType": "FOR PRESENTATION"},
        {"PresentationLUTShape": "IDENTITY"},
        {"PresentationLUTShape": ""},
        {"PresentationLUTShape": "INVERSE", "PhotometricInterpretation": "MONOCHROME1"},
        {"WindowCenter": [128, 40], "WindowWidth": [256, 80]},
    ],
)
def test_nothing_to_warn_of(tmp_path: Path, elements: dict[str, Any]) -> None:
    elements = {name: value for name, value in elements.items() if value is not None}
    assert load_picture(write_dicom(tmp_path / "x.dcm", GREY, **elements)).warnings == ()


def test_the_record_names_the_frame_and_no_more(tmp_path: Path) -> None:
    assert load_picture(write_dicom(tmp_path / "x.dcm", GREY)).dicom == {
        "sop_instance_uid": SOP_UID,
        "frame": 1,
        "frames": 1,
        "transfer_syntax_uid": "1.2.840.10008.1.2.1",
        "decoder": None,
        "photometric_interpretation": "MONOCHROME2",
        "window": {"source": "full_range", "low": 0, "high": 255},
        "inverted": False,
    }


def test_a_load_of_an_image_is_its_first_frame(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "x.dcm", np.array([[[5]], [[6]]], np.uint8), NumberOfFrames=2)
    assert load_image(path).tolist() == [[[5, 5, 5]]]


def long_palette() -> dict[str, Any]:
    """257 bytes a colour in two segments."""
    elements = segmented(8, LOW, first=0)
    for name in ("Red", "Green", "Blue"):
        elements[f"{name}PaletteColorLookupTableDescriptor"] = [257, 0, 8]
        elements[f"Segmented{name}PaletteColorLookupTableData"] = bytes([0, 1, 9, 0, 255, *range(255), 0, 1, 7, 0])
    return elements


REJECTED: dict[str, tuple[np.ndarray | bytes, dict[str, Any], str]] = {
    "no pixels": (b"", {"SOPClassUID": uid.ComprehensiveSRStorage}, "no_pixels"),
    "an image that ends before its pixels": (b"", {}, "damaged"),
    "no rows": (GREY, {"Rows": 0}, "no_pixels"),
    "a dose": (GREY, {"SOPClassUID": uid.RTDoseStorage}, "not_a_picture"),
    "a segmentation": (GREY, {"SOPClassUID": uid.SegmentationStorage}, "not_a_picture"),
    "a segmented palette of many bytes": (GREY, long_palette(), "unsupported_pixels"),
    "32 bits": (GREY.astype(np.uint32), {}, "unsupported_pixels"),
    "floats": (b"", {"FloatPixelData": b"\0" * 4}, "unsupported_pixels"),
    "a retired interpretation": (RGB, {"PhotometricInterpretation": "HSV"}, "unsupported_pixels"),
    "YBR of 16 bits": (
        RGB.astype(np.uint16),
        {"PhotometricInterpretation": "YBR_FULL"},
        "unsupported_pixels",
    ),
    "fewer pixels than rows": (GREY, {"Rows": 9}, "damaged"),
    "fewer frames than said": (GREY[None], {"NumberOfFrames": 3}, "damaged"),
    "negative frames": (GREY[None], {"NumberOfFrames": -1}, "damaged"),
    "too many frames": (GREY[None], {"NumberOfFrames": 1_000_001}, "too_large"),
    "too many pixels": (GREY, {"Rows": 60_000, "Columns": 60_000}, "too_large"),
    "no bits": (GREY, {"BitsAllocated": None}, "damaged"),
    "more bits stored than allocated": (GREY, {"BitsStored": 12}, "damaged"),
    "a high bit above the allocated": (GREY, {"HighBit": 8}, "damaged"),
    "a high bit below the stored": (GREY, {"HighBit": 6}, "damaged"),
    "no bit stored": (GREY, {"BitsStored": 0}, "damaged"),
    "YBR of 7 bits": (
        RGB,
        {"PhotometricInterpretation": "YBR_FULL", "BitsStored": 7, "HighBit": 6},
        "unsupported_pixels",
    ),
    "a palette without data": (GREY, {"PhotometricInterpretation": "PALETTE COLOR"}, "damaged"),
    "grey of three samples": (RGB, {"PhotometricInterpretation": "MONOCHROME2"}, "damaged"),
}


@pytest.mark.filterwarnings("ignore")  # pydicom's, when such files are written
@pytest.mark.parametrize("case", REJECTED)
def test_what_may_not_be_analysed(tmp_path: Path, case: str) -> None:
    stored, elements, code = REJECTED[case]
    path = write_dicom(tmp_path / "x.dcm", stored, **elements)
    with pytest.raises(ImageError) as caught:
        load_picture(path, 3 if case == "fewer frames than said" else 1)
    assert caught.value.code == code
    assert (caught.value.where, bool(caught.value.got)) == (str(path), True)


def test_an_encoding_without_a_decoder(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "x.dcm", GREY)
    written = path.read_bytes()
    path.write_bytes(written.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.9\0"))
    with pytest.raises(ImageError) as caught:
        load_picture(path)
    assert caught.value.code == "unsupported_encoding"


def test_sizes_are_checked_before_pixels_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_dicom(tmp_path / "x.dcm", np.zeros((3, 4), np.uint8))
    monkeypatch.setattr("medprompt.dicom.pixels.array_of_frame", lambda *_, **__: pytest.fail("decoded"))
    monkeypatch.setattr(picture, "MAX_PIXELS", 11)
    with pytest.raises(ImageError) as caught:
        load_picture(path)
    assert (caught.value.code, caught.value.got) == ("too_large", "4 x 3")


def test_deflated_files_are_measured_before_they_are_inflated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_dicom(tmp_path / "x.dcm", np.full((64, 64), 9, np.uint8), uid.DeflatedExplicitVRLittleEndian)
    assert load_image(path)[0, 0, 0] == 9
    assert path.stat().st_size < 1000
    monkeypatch.setattr(picture, "MAX_INFLATED", 64 * 64)
    os.utime(path, ns=(1, 1))  # the header was kept for the file as it was
    with pytest.raises(ImageError) as caught:
        load_picture(path)
    assert (caught.value.code, caught.value.got) == ("too_large", "a deflated file")


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "x.dcm", np.full((2, 2), 9, np.uint8))
    assert load_image(path)[0, 0, 0] == 9
    os.utime(write_dicom(path, np.full((2, 2), 11, np.uint8)), ns=(1, 1))
    assert load_image(path)[0, 0, 0] == 11


def test_values_of_a_file_are_in_no_message(tmp_path: Path) -> None:
    """Not even where a name stands in an element that is read."""
    elements = {"PatientName": "Doe^Jane", "PhotometricInterpretation": "DOE JANE", "SOPInstanceUID": "1.2.3"}
    path = write_dicom(tmp_path / "x.dcm", GREY, **elements)
    with pytest.raises(ImageError) as caught:
        load_picture(path)
    assert "doe" not in str(caught.value).lower()
    assert caught.value.code == "unsupported_pixels"


def test_a_uid_that_is_none_is_left_out(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "x.dcm", GREY, SOPInstanceUID="1.2.3.4")
    path.write_bytes(path.read_bytes().replace(b"1.2.3.4\0", b"Doe^Jan\0"))
    picture = load_picture(path)
    assert picture.dicom is not None
    assert picture.dicom["sop_instance_uid"] is None


def test_a_dicom_file_without_pydicom_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_dicom(tmp_path / "x.dcm", GREY)
    monkeypatch.setattr(errors, "find_spec", lambda name: None)
    with pytest.raises(EngineError, match=r"pip install .pydicom"):
        load_picture(path)


def test_a_missing_decoder_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.util import find_spec

    corpus = find_spec("pydicom.data")
    assert corpus is not None and corpus.origin is not None
    path = Path(corpus.origin).parent / "test_files" / "SC_rgb_rle.dcm"

    class Bare:
        available_plugins = ("pydicom",)

    monkeypatch.setattr(header, "get_decoder", lambda syntax: Bare)
    with pytest.raises(ImageError) as caught:
        load_picture(path)
    assert caught.value.code == "unsupported_encoding"
    assert caught.value.fix == install_command("dicom")


def test_monochrome1_looks_like_its_monochrome2_twin(tmp_path: Path) -> None:
    """The same picture stored both ways round, in 12 bits with a window and a rescale."""
    stored = np.random.default_rng(0).integers(0, 4096, (32, 48), dtype=np.uint16)
    common = {"BitsStored": 12, "HighBit": 11, "RescaleSlope": 1, "WindowWidth": 1000}
    dark = write_dicom(tmp_path / "2.dcm", stored, RescaleIntercept=0, WindowCenter=2048, **common)
    bright = write_dicom(
        tmp_path / "1.dcm",
        4095 - stored,
        PhotometricInterpretation="MONOCHROME1",
        RescaleIntercept=0,
        WindowCenter=2048,
        **common,
    )
    first, second = load_image(dark), load_image(bright)
    np.testing.assert_array_equal(first, second)
    assert (int(first.min()), int(first.max())) == (0, 255)
