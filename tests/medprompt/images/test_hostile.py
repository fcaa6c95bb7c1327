"""Any bytes at all, with and without a format's own first bytes: an answer or an error of ours, nothing else."""

from __future__ import annotations

import struct
import warnings
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from medprompt.bundles.load import load_bundle
from medprompt.core.errors import ImageError, MedpromptError
from medprompt.core.integrity import check_tiff
from medprompt.images.read import load_image, load_picture
from medprompt.prompts.bank import load_bank
from medprompt.prompts.file import prompts_from_yaml

DICOM = bytes(128) + b"DICM"
STARTS = (
    b"",
    *(b"\x89PNG\r\n", b"\xff\xd8\xff", b"II*\x00", b"MM\x00*", b"GIF89a", b"RIFF"),
    *(b"P5 9 9 65535 ", b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51", b"\0\0\0\x1cftypavif"),
    b"BM",
    b"RIFF\x10\x00\x00\x00WEBPVP8 ",
    DICOM,
    DICOM + b"\x02\x00\x10\x00UI\x14\x001.2.840.10008.1.2.1",
)
CONTENT = st.builds(lambda start, rest: start + rest, st.sampled_from(STARTS), st.binary(max_size=400))
MANY = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@MANY
@given(content=CONTENT)
def test_images(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    with warnings.catch_warnings(action="ignore"):
        try:
            picture = load_picture(path)
        except MedpromptError as error:
            assert str(path) in str(error)
        else:
            assert picture.pixels.ndim == 3 and picture.pixels.size


@MANY
@given(
    content=st.one_of(st.binary(max_size=300), st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")))
)
@pytest.mark.parametrize("read", [prompts_from_yaml, load_bank])
def test_prompts_and_banks(tmp_path: Path, read: object, content: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(MedpromptError):
        read(path)  # type: ignore[operator]


@MANY
@given(content=st.binary(max_size=300), signed=st.booleans())
def test_manifests(tmp_path: Path, content: bytes, signed: bool) -> None:
    import hashlib

    (tmp_path / "manifest.json").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest() if signed else "0" * 64
    (tmp_path / "manifest.sha256").write_text(f"{digest}  manifest.json\n")
    with pytest.raises(MedpromptError):
        load_bundle(tmp_path)


def test_a_tiff_with_fewer_strips_than_its_rows_need_is_damaged(tmp_path: Path) -> None:
    # Pillow shows the one strip that is there as the whole picture; found by the fuzzer (seed 7, numbers 12013, 18683).
    path = tmp_path / "x.tif"
    Image.new("L", (32, 24), 90).save(path)
    whole = path.read_bytes()
    entry = struct.pack("<HHL", 278, 4, 1)
    place = whole.index(entry) + len(entry)
    check_tiff(BytesIO(whole))
    path.write_bytes(whole[:place] + struct.pack("<L", 14) + whole[place + 4 :])
    with pytest.raises(ValueError, match="1 strips of 14 rows do not make 24"):
        check_tiff(BytesIO(path.read_bytes()))
    with pytest.raises(ImageError, match="cannot be read"):
        load_image(path)
