"""Damaged pixels in DICOM files: what decoders let pass, and what ends more than the file."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom.data import get_testdata_file

from medprompt.core.errors import ImageError
from medprompt.dicom.header import pydicom_at_work
from medprompt.images.read import load_picture


def test_a_jpeg_that_pillow_would_show_in_part(tmp_path: Path) -> None:
    content = bytearray(Path(str(get_testdata_file("SC_rgb_jpeg_dcmtk.dcm"))).read_bytes())
    path = tmp_path / "x.dcm"
    path.write_bytes(content)
    whole = load_picture(path)
    assert whole.dicom is not None and whole.dicom["decoder"] == "pillow"
    scan = content.index(b"\xff\xda")  # start of the coefficients
    content[scan + 40 : scan + 60] = bytes(20)
    path.write_bytes(content)
    with pytest.raises(ImageError) as caught:
        load_picture(path)
    assert caught.value.code == "damaged"


class PanicException(BaseException):
    """As pyo3, the way from Rust to Python, calls its own."""


def test_a_panic_of_a_decoder_is_damage_and_ctrl_c_is_not(tmp_path: Path) -> None:
    with pytest.raises(ImageError) as caught, pydicom_at_work(tmp_path, "decoding"):
        raise PanicException("index out of bounds: Doe^Jane")
    assert caught.value.code == "damaged"
    assert "Doe" not in str(caught.value)
    with pytest.raises(KeyboardInterrupt), pydicom_at_work(tmp_path, "decoding"):
        raise KeyboardInterrupt
