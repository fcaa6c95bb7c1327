"""Which frames of a file are taken, and what holds for each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medprompt.core.errors import ImageError, InputError
from medprompt.core.frames import frame_policy_from_text
from medprompt.images.read import load_picture
from medprompt.images.sources import Source, find_sources
from tests.medprompt.dicom.made import sequence_item, write_dicom


@pytest.mark.parametrize(
    ("text", "count", "expected"),
    [
        ("all", 3, [1, 2, 3]),
        ("all", 1, [1]),
        ("first", 3, [1]),
        ("every:2", 5, [1, 3, 5]),
        ("every:1", 2, [1, 2]),
        ("every:9", 5, [1]),
        ("2-3", 5, [2, 3]),
        ("4-9", 5, [4, 5]),
        ("5-5", 5, [5]),
        ("6-9", 5, []),
    ],
)
def test_policies(text: str, count: int, expected: list[int]) -> None:
    assert list(frame_policy_from_text(text).of(count)) == expected


@pytest.mark.parametrize("text", ["", "last", "every:0", "every:", "0-3", "3-2", "1-", "-2", "1,2", "every:١", "ALL"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="choice of frames"):
        frame_policy_from_text(text)


def cine(folder: Path) -> Path:
    """Three frames of 2 x 2, levels 10, 20, 30."""
    stored = np.repeat(np.array([10, 20, 30], np.uint8), 4).reshape(3, 2, 2)
    return write_dicom(folder / "cine.dcm", stored, NumberOfFrames=3)


def test_each_frame_is_a_source(tmp_path: Path) -> None:
    path, still = cine(tmp_path), write_dicom(tmp_path / "still.dcm", np.zeros((2, 2), np.uint8))
    (tmp_path / "torn.dcm").write_bytes(b"")
    paths = [path, still, tmp_path / "torn.dcm"]
    found = find_sources(paths, frame_policy_from_text("every:2"))
    assert found == [Source(path, 1, 3), Source(path, 3, 3), *map(Source, paths[1:])]
    assert [source.number for source in found] == [1, 3, None, None]
    assert [int(load_picture(path, number).pixels[0, 0, 0]) for number in (1, 2, 3)] == [10, 20, 30]


def test_a_file_that_ends_before_the_frames_asked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none of the frames") as caught:
        find_sources([cine(tmp_path)], frame_policy_from_text("4-9"))
    assert caught.value.got == "3 frames"


@pytest.mark.parametrize("frame", [0, 4])
def test_a_frame_that_is_not_there(tmp_path: Path, frame: int) -> None:
    with pytest.raises(ImageError) as caught:
        load_picture(cine(tmp_path), frame)
    assert (caught.value.code, caught.value.expected) == ("no_pixels", "1 … 3")


def test_functional_groups_of_a_frame_hold_before_those_of_all(tmp_path: Path) -> None:
    """Frame 1 has the shared window, frame 2 its own, frame 3 its own rescale before the shared window."""
    voi = sequence_item(FrameVOILUTSequence=[sequence_item(WindowCenter=100.5, WindowWidth=201)])
    own_voi = sequence_item(FrameVOILUTSequence=[sequence_item(WindowCenter=200.5, WindowWidth=401)])
    own_rescale = sequence_item(
        PixelValueTransformationSequence=[sequence_item(RescaleSlope=2, RescaleIntercept=0)],
    )
    path = write_dicom(
        tmp_path / "x.dcm",
        np.full((3, 2, 2), 100, np.uint16),
        NumberOfFrames=3,
        WindowCenter=1000,
        WindowWidth=10,
        SharedFunctionalGroupsSequence=[voi],
        PerFrameFunctionalGroupsSequence=[sequence_item(), own_voi, own_rescale],
    )
    pictures = [load_picture(path, frame) for frame in (1, 2, 3)]
    assert [int(picture.pixels[0, 0, 0]) for picture in pictures] == [128, 64, 255]
    assert [picture.dicom and picture.dicom["window"]["centre"] for picture in pictures] == [100.5, 200.5, 100.5]
