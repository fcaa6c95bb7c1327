"""JPEG of 12 bits and lossless JPEG: every predictor and precision, colours, and damage, with imagecodecs alone."""

from __future__ import annotations

from base64 import b64decode
from importlib import util
from io import BytesIO
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import uid
from pydicom.data import get_testdata_file

from medprompt.core.errors import ImageError
from medprompt.core.packages import install_command
from medprompt.dicom import header
from medprompt.dicom.decode import array_of_frame
from medprompt.dicom.header import header_from_stream
from medprompt.images.read import load_picture
from tests.medprompt.dicom.compressed import SIZE_HW, items, without_marks, write_compressed
from tests.medprompt.dicom.test_decode import ADOBE, JFIF, with_marker

SHIFTED = b64decode(
    "/9j/wwALDAAQABgBAREA/8QAFgABAQEAAAAAAAAAAAAAAAAAAAED/9oACAEBAAEACcwUKFCgUFChQKFBQoFChQUKoUKFBVChQoUBQoUKBQUKFCqFBQoVQoUFCgUKFBQKFChQpQoUKFUFChQoFBQoUChQoKH/2Q=="
)
"""By dcmcjpeg (dcmtk 3.6.7, ``+pl +bt +e1 +pt 9``), of 12 bits: lossless but for the 9 lowest, which are not coded."""


def samples(bits: int, colours: int = 1) -> NDArray[Any]:
    """``[H, W]`` or ``[H, W, 3]`` over all levels, neighbours near and far."""
    rows, columns = np.mgrid[: SIZE_HW[0], : SIZE_HW[1]]
    planes = [(rows * (977 + 31 * place) + columns * 1409 + rows * columns) % (1 << bits) for place in range(colours)]
    return np.squeeze(np.stack(planes, axis=-1)).astype(np.uint8 if bits <= 8 else np.uint16)


def coded(pixels: NDArray[Any], bits: int, **options: Any) -> bytes:
    content: bytes = imagecodecs.jpeg8_encode(pixels, bitspersample=bits, **options)
    return content + b"\0" * (len(content) % 2)


def elements(bits: int, allocated: int = 0, **more: Any) -> dict[str, Any]:
    return {"BitsStored": bits, "HighBit": bits - 1, "BitsAllocated": allocated or (8 if bits <= 8 else 16), **more}


def unnamed(pixels: NDArray[Any]) -> bytes:
    """Lossless colours of 8 bits of which the data does not say what they are."""
    content = without_marks(coded(pixels, 8, lossless=True, predictor=1, colorspace="RGB"))
    frame = content.replace(b"R\x11\0G\x11\0B\x11\0", b"\1\x11\0\2\x11\0\3\x11\0")
    return frame.replace(b"R\0G\0B\0", b"\1\0\2\0\3\0")


COLOUR = {"SamplesPerPixel": 3, "PlanarConfiguration": 0}


def decoded(path: Path) -> NDArray[Any]:
    return array_of_frame(header_from_stream(path, BytesIO(path.read_bytes())), 1)[0]


@pytest.mark.parametrize("bits", [8, 10, 12, 15, 16])
@pytest.mark.parametrize("predictor", range(1, 8))
def test_lossless_is_lossless(tmp_path: Path, bits: int, predictor: int) -> None:
    syntax = uid.JPEGLosslessSV1 if predictor == 1 else uid.JPEGLossless
    for colours in (1, 3):
        pixels = samples(bits, colours)
        stream = coded(pixels, bits, lossless=True, predictor=predictor, colorspace="RGB" if colours == 3 else None)
        more = {**COLOUR, "PhotometricInterpretation": "RGB"} if colours == 3 else {}
        path = write_compressed(tmp_path / "x.dcm", syntax, items([stream]), **elements(bits, **more))
        np.testing.assert_array_equal(decoded(path), pixels)
        assert (load_picture(path).dicom or {})["decoder"] == "imagecodecs"


def test_values_without_their_lowest_bits(tmp_path: Path) -> None:
    """A point transform; thorfdbg's libjpeg shows them shifted."""
    stated = {"Rows": 16, "Columns": 24, **elements(12)}
    path = write_compressed(tmp_path / "x.dcm", uid.JPEGLosslessSV1, items([SHIFTED]), **stated)
    rows, columns = np.mgrid[:16, :24]
    np.testing.assert_array_equal(decoded(path), (99 * columns + 119 * rows) >> 9 << 9)


@pytest.mark.parametrize(("bits", "allocated"), [(8, 8), (8, 16), (12, 16)])
def test_extended(tmp_path: Path, bits: int, allocated: int) -> None:
    rows, columns = np.mgrid[: SIZE_HW[0], : SIZE_HW[1]]
    pixels = ((rows + columns) * ((1 << bits) - 1) // 78).astype(np.uint8 if bits == 8 else np.uint16)
    path = write_compressed(
        tmp_path / "x.dcm", uid.JPEGExtended12Bit, items([coded(pixels, bits, level=95)]), **elements(bits, allocated)
    )
    found = decoded(path)
    assert found.dtype.itemsize * 8 == allocated
    assert np.abs(found.astype(int) - pixels).max() <= (1 << bits) // 64


@pytest.mark.parametrize(("mark", "label"), [(b"", "YBR_FULL"), (JFIF, "RGB"), (ADOBE + b"\1", "RGB")])
def test_lossless_colours_that_are_no_rgb(tmp_path: Path, mark: bytes, label: str) -> None:
    grey = np.stack([samples(8), np.full(SIZE_HW, 128, np.uint8), np.full(SIZE_HW, 128, np.uint8)], axis=-1)
    stream = with_marker(unnamed(grey), mark)
    more = {**COLOUR, "PhotometricInterpretation": label}
    picture = load_picture(
        write_compressed(tmp_path / "x.dcm", uid.JPEGLosslessSV1, items([stream]), **elements(8, **more))
    )
    np.testing.assert_array_equal(picture.pixels, np.repeat(samples(8)[..., None], 3, axis=-1))
    assert [("another colour space" in note) for note in picture.warnings] == [True] * (label == "RGB")


def grey_of(bits: int, **options: Any) -> tuple[bytes, dict[str, Any]]:
    return coded(samples(bits), bits, **options), elements(bits)


FRAMES = {
    "extended, 12 bits": (uid.JPEGExtended12Bit, *grey_of(12, level=95)),
    "lossless, 12 bits": (uid.JPEGLossless, *grey_of(12, lossless=True, predictor=4)),
    "lossless, 16 bits": (uid.JPEGLosslessSV1, *grey_of(16, lossless=True, predictor=1)),
    "point transform": (uid.JPEGLosslessSV1, SHIFTED, {"Rows": 16, "Columns": 24, **elements(12)}),
    **{
        f"lossless colours, {name}": (
            uid.JPEGLosslessSV1,
            with_marker(unnamed(samples(8, 3)), mark),
            elements(8, **COLOUR, PhotometricInterpretation="RGB"),
        )
        for name, mark in (("unmarked", b""), ("JFIF", JFIF), ("Adobe", ADOBE + b"\1"))
    },
}


@pytest.mark.parametrize("case", FRAMES)
def test_damage_is_refused(tmp_path: Path, case: str) -> None:
    """imagecodecs itself shows most of these."""
    syntax, stream, stated = FRAMES[case]
    load_picture(write_compressed(tmp_path / "whole.dcm", syntax, items([stream]), **stated))
    end = stream.rindex(b"\xff\xd9")
    start = stream.index(b"\xff\xda") + 14
    half = (start + end) // 2
    damaged = {"cut": stream[:half] + b"\xff\xd9", "marker inside": stream[:half] + b"\xff\xd0" + stream[half + 2 :]}
    for name, content in damaged.items():
        path = write_compressed(
            tmp_path / f"{name}.dcm", syntax, items([content + b"\0" * (len(content) % 2)]), **stated
        )
        with pytest.raises(ImageError) as caught:
            load_picture(path)
        assert caught.value.code == "damaged", name


def test_what_does_without_imagecodecs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(header, "find_spec", lambda name: None if name == "imagecodecs" else util.find_spec(name))
    with pytest.raises(ImageError) as caught:
        load_picture(Path(str(get_testdata_file("JPGExtended.dcm"))))
    assert (caught.value.code, caught.value.fix) == ("unsupported_encoding", install_command("dicom"))
    load_picture(Path(str(get_testdata_file("SC_rgb_jpeg_dcmtk.dcm"))))
