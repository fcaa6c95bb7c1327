"""A video inside a DICOM file: its frames are the file's, with their numbers; what is not there is damaged."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import uid

from medprompt.core.errors import ImageError
from medprompt.dicom import header
from medprompt.images.file import ImageFile
from medprompt.images.read import load_picture
from tests.medprompt.dicom.compressed import items, write_compressed
from tests.medprompt.video.videos import LEVELS, SIZE_HW, make_video

KINDS = {
    "MPEG-2": (uid.MPEG2MPML, "mpeg2video", "mpeg2video"),
    "MPEG-2 in TS": (uid.MPEG2MPHL, "mpeg2video", "mpegts"),
    "H.264 in MP4": (uid.MPEG4HP41, "libx264", "mp4"),
    "H.264 in TS": (uid.MPEG4HP41BD, "libx264", "mpegts"),
    "H.264": (uid.MPEG4HP422D, "libx264", "h264"),
    "H.264, fragments": (uid.MPEG4HP41F, "libx264", "mp4"),
    "HEVC in MP4": (uid.HEVCMP51, "libx265", "mp4"),
}


@pytest.fixture(autouse=True)
def nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The copy of a video is gone when its file is closed."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    yield
    assert list((tmp_path / "temporary").iterdir()) == []


def clip(folder: Path, kind: str, frames: int | None = len(LEVELS), **elements: Any) -> Path:
    syntax, codec, container = KINDS[kind]
    content = make_video(folder / "video", codec, kind=container).read_bytes()
    content += b"\0" * (len(content) % 2)
    third = len(content) // 6 * 2
    parts = [content[:third], content[third:]] if "fragments" in kind else [content]
    stated = {
        **dict(zip(("Rows", "Columns"), SIZE_HW, strict=True)),
        **{"SamplesPerPixel": 3, "PlanarConfiguration": 0, "PhotometricInterpretation": "YBR_PARTIAL_420"},
        **({} if frames is None else {"NumberOfFrames": frames}),
    }
    return write_compressed(folder / "x.dcm", syntax, items(parts, [0]), **stated | elements)


def levels(path: Path) -> tuple[list[float | str], list[str]]:
    """Mean level of each frame, or its code; warnings."""
    found: list[float | str] = []
    notes: list[str] = []
    with ImageFile(path) as file:
        for frame in range(1, file.frames + 1):
            try:
                picture = file.picture(frame)
                found.append(float(picture.pixels.mean()))
                notes.extend(picture.warnings)
            except ImageError as error:
                found.append(error.code or "")
    return found, notes


@pytest.mark.parametrize("kind", KINDS)
def test_frames_are_those_of_the_video(tmp_path: Path, kind: str) -> None:
    found, notes = levels(clip(tmp_path, kind))
    assert np.abs(np.array(found, float) - LEVELS).max() < 4
    assert notes == []


def test_in_any_order(tmp_path: Path) -> None:
    with ImageFile(clip(tmp_path, "H.264 in MP4")) as file:
        for number in (7, 3, 3, 20, 1):
            picture = file.picture(number)
            assert abs(float(picture.pixels.mean()) - LEVELS[number - 1]) < 4
        assert picture.dicom is not None
        assert (picture.dicom["frame"], picture.dicom["frames"], picture.dicom["decoder"]) == (1, len(LEVELS), "pyav")


@pytest.mark.parametrize(
    ("stated", "items_", "says"), [(None, 20, "states 1"), (15, 20, "states 15"), (23, 23, "states 23")]
)
@pytest.mark.parametrize("kind", ["H.264 in MP4", "H.264 in TS"])
def test_the_stated_number_of_frames(tmp_path: Path, kind: str, stated: int | None, items_: int, says: str) -> None:
    found, notes = levels(clip(tmp_path, kind, stated))
    assert len(found) == items_
    assert np.abs(np.array(found[:20], float) - LEVELS).max() < 4
    assert found[20:] == ["damaged"] * (items_ - 20)
    assert [says in note for note in notes] == [True] * 20


@pytest.mark.parametrize("kind", ["MPEG-2", "H.264 in MP4", "H.264 in TS"])
def test_a_file_that_breaks_off(tmp_path: Path, kind: str) -> None:
    path = clip(tmp_path, kind)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    found, notes = levels(path)
    assert len(found) == len(LEVELS) and found[-1] == "damaged"
    assert all(code == "damaged" or abs(float(code) - level) < 4 for code, level in zip(found, LEVELS, strict=True))
    assert notes.count("the file breaks off") == sum(code != "damaged" for code in found)


@pytest.mark.parametrize("content", [b"", b"no video at all."])
def test_no_video_inside(tmp_path: Path, content: bytes) -> None:
    path = write_compressed(
        tmp_path / "x.dcm",
        uid.MPEG4HP41,
        items([content]),
        NumberOfFrames=3,
        PhotometricInterpretation="YBR_PARTIAL_420",
    )
    assert levels(path) == (["damaged"] * 3, [])


def test_another_size_than_stated(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="64 x 48") as caught:
        load_picture(clip(tmp_path, "H.264 in MP4", Rows=64, Columns=48))
    assert caught.value.code == "damaged"


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = clip(tmp_path, "MPEG-2")
    monkeypatch.setattr(header, "find_spec", lambda name: None)
    with pytest.raises(ImageError) as caught:
        load_picture(path)
    assert (caught.value.code, "pip install" in caught.value.fix, "av" in caught.value.fix) == (
        "unsupported_encoding",
        True,
        True,
    )


def test_items_of_a_run(infer: Callable[..., tuple[int, dict[str, Any], str]], tmp_path: Path) -> None:
    code, results, _ = infer(clip(tmp_path, "H.264 in MP4"), "--frames", "every:5")
    assert (code, [item["frame"] for item in results["items"]]) == (0, [1, 6, 11, 16])


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="compares with ffmpeg")
@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_those_of_ffmpeg(tmp_path: Path, kind: str) -> None:
    path = clip(tmp_path, kind)
    command = ["ffmpeg", "-v", "error", "-i", str(tmp_path / "video"), "-fps_mode", "passthrough"]
    raw = subprocess.run([*command, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], capture_output=True, check=True).stdout
    expected = np.frombuffer(raw, np.uint8).reshape(-1, *SIZE_HW, 3)
    with ImageFile(path) as file:
        shown = np.stack([file.picture(number).pixels for number in range(1, file.frames + 1)])
    assert np.abs(shown.astype(int) - expected).max() <= 1
