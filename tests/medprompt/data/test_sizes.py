"""Sizes from headers are those of the pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medprompt.data.sizes import size_of_image
from medprompt.images.read import load_image
from tests.medprompt.dicom.made import write_dicom


@pytest.mark.parametrize("orientation", [None, *range(1, 9)])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_images(tmp_path: Path, orientation: int | None, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    Image.new("RGB", (20, 10)).save(path, exif=exif)
    assert size_of_image(path) == load_image(path).shape[:2]


def test_dicom(tmp_path: Path) -> None:
    write_dicom(tmp_path / "a.dcm", np.zeros((10, 20), np.uint8))
    write_dicom(tmp_path / "b.dcm", np.zeros((10, 20), np.uint8), PixelData=None)
    assert size_of_image(tmp_path / "a.dcm") == (10, 20)
    assert size_of_image(tmp_path / "b.dcm") is None


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n"])
def test_what_has_no_size(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    assert size_of_image(tmp_path / "a.png") is None
