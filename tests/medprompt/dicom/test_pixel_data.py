"""Which bytes are which frame: no frame of a file is passed over, shown in the place of another, or shown in part."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import uid
from pydicom.data import get_testdata_file

from medprompt.core.errors import ImageError
from medprompt.images.file import ImageFile
from tests.medprompt.dicom.compressed import (
    CODECS,
    DELIMITER,
    ITEM,
    SIZE_HW,
    grey_frames,
    items,
    jpeg,
    streams_of,
    write_compressed,
)
from tests.medprompt.dicom.made import sequence_item, write_dicom

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")  # of the files that are written here

Shown = list[tuple[NDArray[np.uint8] | str, tuple[str, ...]]]
"""Of each frame its pixels and warnings, or the code with which it is refused."""


def shown(path: Path) -> Shown:
    found: Shown = []
    with ImageFile(path) as file:
        for frame in range(1, file.frames + 1):
            try:
                picture = file.picture(frame)
                found.append((picture.pixels, picture.warnings))
            except ImageError as error:
                found.append((error.code or "", (error.got,)))
    return found


def numbers(found: Shown, frames: NDArray[np.uint8], most: int = 0) -> list[int | str]:
    """Which frame each is, from 1; its code where it is refused; 0 where it is none of them."""
    grey = frames[..., None].astype(int)

    def number(pixels: NDArray[np.uint8] | str) -> int | str:
        if isinstance(pixels, str):
            return pixels
        return next((n for n, one in enumerate(grey, 1) if np.abs(pixels - one).max() <= most), 0)

    return [number(pixels) for pixels, _ in found]


NATIVE: dict[str, tuple[Any, int, list[int | str], str]] = {
    "as stated": (3, 3, [1, 2, 3], ""),
    "missing": (None, 3, [1, 2, 3], "holds 3 frames and states 1"),
    "missing, one frame": (None, 1, [1], ""),
    "empty": ("", 3, [1, 2, 3], "holds 3 frames and states 1"),
    "0": (0, 2, [1, 2], "holds 2 frames and states 1"),
    "1": (1, 3, [1, 2, 3], "holds 3 frames and states 1"),
    "too few": (2, 3, [1, 2, 3], "holds 3 frames and states 2"),
    "too many": (3, 2, ["damaged"] * 3, "which are missing is not known"),
}


@pytest.mark.parametrize("codec", ["", "JPEG", *CODECS])
@pytest.mark.parametrize("case", NATIVE)
def test_the_stated_number_of_frames(tmp_path: Path, case: str, codec: str) -> None:
    stated, holds, expected, says = NATIVE[case]
    frames = grey_frames(holds)
    elements = {} if stated is None else {"NumberOfFrames": stated}
    if codec:
        streams, syntax = streams_of(tmp_path, frames, codec)
        path = write_compressed(tmp_path / "x.dcm", syntax, items(streams), **elements)
    else:
        stored = frames if elements else frames.reshape(-1, SIZE_HW[1])
        path = write_dicom(tmp_path / "x.dcm", stored, Rows=SIZE_HW[0], **elements)
    found = shown(path)
    assert numbers(found, frames, most=4 if codec == "JPEG" else 0) == expected
    assert all(says in "; ".join(notes) and bool(notes) == bool(says) for _, notes in found)


def test_bytes_behind_the_frames(tmp_path: Path) -> None:
    """Fewer than a frame needs: rows may be too few. A byte of padding makes the length even."""
    odd = np.full((1, 3, 3), 99, np.uint8)
    assert [notes for _, notes in shown(write_dicom(tmp_path / "x.dcm", odd, NumberOfFrames=1))] == [()]
    path = write_dicom(tmp_path / "y.dcm", np.full((24, 32), 99, np.uint8), Rows=20)
    assert ["128 bytes follow" in notes[0] for _, notes in shown(path)] == [True]


@pytest.mark.parametrize("bits", [1, 8])
@pytest.mark.parametrize("frames", [1, 3])
def test_frames_of_less_than_a_byte_of_padding(tmp_path: Path, frames: int, bits: int) -> None:
    stored = np.full((frames, 1, 1), 0xFF >> (8 - frames) if bits == 1 else 7, np.uint8)
    path = write_dicom(
        tmp_path / "x.dcm", stored, NumberOfFrames=frames, BitsAllocated=bits, BitsStored=bits, HighBit=bits - 1
    )
    content = path.read_bytes()
    if bits == 1:
        at = content.rindex(b"\xe0\x7f\x10\0OB") + 8
        path.write_bytes(content[:at] + b"\2\0\0\0" + content[at + 4 : at + 6])
    with ImageFile(path) as file:
        assert (file.frames, file.header.notes) == (frames, ())
        assert {int(file.picture(number).pixels[0, 0, 0]) for number in range(1, frames + 1)} == {
            255 if bits == 1 else 7
        }


@pytest.mark.parametrize(("count", "says"), [(30, "no DICOM element follow"), (0, "")])
def test_pixels_that_may_be_shifted(tmp_path: Path, count: int, says: str) -> None:
    """Bytes put into the first frame push the last out, where an element, zeros or nothing should follow."""
    frames = grey_frames(2)
    path = write_dicom(tmp_path / "x.dcm", frames, NumberOfFrames=2)
    content = path.read_bytes()
    at = content.index(frames[:1].tobytes()) + 50
    path.write_bytes(content[:at] + content[at : at + count] + content[at:])
    assert [says in "".join(notes) and bool(notes) == bool(says) for _, notes in shown(path)] == [True] * 2


@pytest.mark.parametrize("behind", [b"\0" * 100, b"\xfc\xff\xfc\xffOB\0\0\x04\0\0\0\0\0\0\0"])
def test_what_may_follow_the_pixels(tmp_path: Path, behind: bytes) -> None:
    path = write_dicom(tmp_path / "x.dcm", grey_frames(1), NumberOfFrames=1)
    path.write_bytes(path.read_bytes() + behind)
    assert [notes for _, notes in shown(path)] == [()]


YBR = {"SamplesPerPixel": 3, "PlanarConfiguration": 0, "PhotometricInterpretation": "YBR_FULL_422"}


def test_ybr_full_422_of_three_bytes_a_pixel(tmp_path: Path) -> None:
    """Two pixels share their colours there (PS3.3, C.7.6.3.1.2). Whether 3 bytes are RGB or YBR_FULL nothing says."""
    whole = np.full((4, 6, 3), 90, np.uint8)
    found = shown(write_dicom(tmp_path / "x.dcm", whole, PhotometricInterpretation="YBR_FULL_422"))
    assert found == [("damaged", ("3 bytes a pixel, where YBR_FULL_422 has 2",))]
    right = write_dicom(tmp_path / "y.dcm", np.full((4, 4), 128, np.uint8), Columns=2, **YBR)
    assert numbers(shown(right), np.full((1, 4, 2), 128, np.uint8)) == [1]


def split(stream: bytes, parts: int) -> list[bytes]:
    cut = [2 * (len(stream) * part // (2 * parts)) for part in range(parts + 1)]
    return [stream[start:end] for start, end in pairwise(cut)]


def laid(streams: list[bytes], case: str) -> tuple[list[bytes], list[int]]:
    """Fragments and offset table of a case."""
    whole = [sum(len(one) + 8 for one in streams[:number]) for number in range(len(streams))]
    parts = [part for stream in streams for part in split(stream, 3)]
    wrong = {
        "shifted": [offset + 4 for offset in whole],
        "zeros": [0] * len(whole),
        "one entry": [0],
        "too short": whole[:2],
        "too long": [*whole, whole[-1] + 8 + len(streams[-1])],
        "backwards": whole[::-1],
        "beyond the file": [offset + 1_000_000 for offset in whole],
    }
    cases = {
        "no table": (streams, []),
        "table": (streams, whole),
        "three fragments a frame": (parts, []),
        "three fragments a frame, table": (
            parts,
            [sum(len(p) + 8 for p in parts[: 3 * n]) for n in range(len(streams))],
        ),
        "the first in two, the others whole": ([*split(streams[0], 2), *streams[1:]], []),
        "an empty fragment at the end": ([*streams, b""], []),
        "an empty fragment inside": ([streams[0], b"", *streams[1:]], []),
        **{f"table: {name}": (streams, table) for name, table in wrong.items()},
    }
    return cases[case]


SOUND = ["no table", "table", "three fragments a frame", "three fragments a frame, table"]
SOUND += ["the first in two, the others whole", "an empty fragment at the end", "an empty fragment inside"]
TABLES = ["shifted", "zeros", "one entry", "too short", "too long", "backwards", "beyond the file"]


@pytest.mark.parametrize("codec", ["JPEG", "JPEG-LS", "JPEG 2000"])
@pytest.mark.parametrize("case", [*SOUND, *(f"table: {name}" for name in TABLES)])
def test_fragments_and_offset_tables(tmp_path: Path, case: str, codec: str) -> None:
    frames = grey_frames(4)
    streams, syntax = streams_of(tmp_path, frames, codec)
    fragments, table = laid(streams, case)
    found = shown(write_compressed(tmp_path / "x.dcm", syntax, items(fragments, table), NumberOfFrames=4))
    assert numbers(found, frames, most=4) == [1, 2, 3, 4]
    assert [len(notes) for _, notes in found] == [0 if case in SOUND else 1] * 4


@pytest.mark.parametrize(("offsets", "notes"), [([0, 1], 0), ([1, 0], 1), ([0, 0], 1), ([0, 10**12], 1)])
def test_an_extended_offset_table(tmp_path: Path, offsets: list[int], notes: int) -> None:
    frames = grey_frames(2)
    streams, syntax = streams_of(tmp_path, frames, "RLE")
    places = [0, 8 + len(streams[0])]
    table = b"".join((places[one] if one < 2 else one).to_bytes(8, "little") for one in offsets)
    path = write_compressed(tmp_path / "x.dcm", syntax, b"", NumberOfFrames=2, ExtendedOffsetTable=table)
    path.write_bytes(path.read_bytes() + items(streams))
    found = shown(path)
    assert numbers(found, frames) == [1, 2]
    assert [len(said) for _, said in found] == [notes] * 2


def test_a_frame_that_is_damaged_moves_no_other(tmp_path: Path) -> None:
    """Its first bytes, by which frames are told apart, are gone; then it is lost, and a table cannot bring it back."""
    frames = grey_frames(4)
    streams, syntax = streams_of(tmp_path, frames, "JPEG")
    broken = [streams[0], b"\0\0" + streams[1][2:], *streams[2:]]
    found = shown(write_compressed(tmp_path / "x.dcm", syntax, items(broken), NumberOfFrames=4))
    assert numbers(found, frames, most=4) == [1, "damaged", 3, 4]
    found = shown(
        write_compressed(tmp_path / "y.dcm", syntax, items([*streams[:1], b"", *streams[2:]]), NumberOfFrames=4)
    )
    assert numbers(found, frames, most=4) == [1, "damaged", 3, 4]


@pytest.mark.parametrize("codec", ["", "JPEG", *CODECS])
def test_every_cut(tmp_path: Path, codec: str) -> None:
    """Whole frames stay what they are, with a warning; nothing is shown in part, and nothing has "no pixels"."""
    frames = grey_frames(3)
    path = tmp_path / "x.dcm"
    icon = sequence_item(Rows=2, Columns=2, BitsAllocated=8, BitsStored=8, PixelData=b"\1\2\3\4")
    if codec:
        streams, syntax = streams_of(tmp_path, frames, codec)
        write_compressed(path, syntax, items(streams), NumberOfFrames=3, IconImageSequence=[icon])
    else:
        write_dicom(path, frames, NumberOfFrames=3, IconImageSequence=[icon])
    content = path.read_bytes()
    most = 4 if codec == "JPEG" else 0
    for end in [*range(132, len(content) - 1, 23), *range(len(content) - 12, len(content) - 4)]:
        path.write_bytes(content[:end])
        found = shown(path)
        seen = numbers(found, frames, most)
        whole = [number for number in seen if number != "damaged"]
        assert seen[: len(whole)] == list(range(1, len(whole) + 1)), end
        assert all("breaks off" in notes[0] for _, notes in found[: len(whole)]), end


def test_the_delimiter_is_missing(tmp_path: Path) -> None:
    """All there is may be there, or the file was cut between two fragments: the end of the coded data tells."""
    frames = grey_frames(1)
    streams, syntax = streams_of(tmp_path, frames, "JPEG")
    found = shown(write_compressed(tmp_path / "x.dcm", syntax, items(streams, end=b"")))
    assert numbers(found, frames, most=4) == [1] and "breaks off" in found[0][1][0]
    half = split(streams[0], 2)[:1]
    assert numbers(shown(write_compressed(tmp_path / "y.dcm", syntax, items(half, end=b""))), frames) == ["damaged"]
    assert numbers(shown(write_compressed(tmp_path / "z.dcm", syntax, items(half))), frames) == ["damaged"]


@pytest.mark.parametrize("name", ["JPGExtended.dcm", "SC_rgb_jpeg_gdcm.dcm"])
@pytest.mark.parametrize("harm", ["cut", "changed"])
def test_jpeg_of_12_bits_and_without_loss(tmp_path: Path, name: str, harm: str) -> None:
    """Their decoder fills in what is missing and says nothing."""
    content = Path(str(get_testdata_file(name))).read_bytes()
    path = tmp_path / "x.dcm"
    path.write_bytes(content)
    assert isinstance(shown(path)[0][0], np.ndarray)
    start, end = content.rindex(b"\xff\xda"), content.rindex(b"\xff\xd9")
    middle = (start + end) // 2
    if harm == "cut":  # the lengths stay what they were
        content = content[:middle] + bytes(end + 2 - middle) + content[end + 2 :]
    else:
        content = content[:middle] + b"U" * 60 + content[middle + 60 :]
    path.write_bytes(content)
    assert [isinstance(pixels, str) and pixels for pixels, _ in shown(path)] == ["damaged"]


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("error", [-24, -8, 8, 24])
def test_an_icon_of_a_wrong_length(tmp_path: Path, undefined: bool, error: int) -> None:
    """The image is shown or damaged; its icon is never taken for it."""
    frames = grey_frames(1)
    icon = sequence_item(Rows=4, Columns=4, BitsAllocated=8, BitsStored=8, PixelRepresentation=0, PixelData=bytes(16))
    path = write_dicom(tmp_path / "x.dcm", frames, NumberOfFrames=1, IconImageSequence=[icon])
    content = bytearray(path.read_bytes())
    sequence = content.index(b"\x88\0\0\2SQ")
    item = sequence + 12
    length = int.from_bytes(content[item + 4 : item + 8], "little")
    content[item + 4 : item + 8] = (length + error).to_bytes(4, "little")
    if undefined:
        content[sequence + 8 : sequence + 12] = b"\xff" * 4
        content[item + 8 + length : item + 8 + length] = DELIMITER
    path.write_bytes(content)
    assert numbers(shown(path), frames) in ([1], ["damaged"])


@pytest.mark.parametrize(
    ("syntax", "length"), [(uid.ExplicitVRLittleEndian, b"\xff" * 4), (uid.JPEGBaseline8Bit, b"\0\3\0\0")]
)
def test_encapsulated_or_not_against_the_transfer_syntax(tmp_path: Path, syntax: uid.UID, length: bytes) -> None:
    path = write_compressed(tmp_path / "x.dcm", syntax, items([jpeg(grey_frames(1)[0])]))
    content = path.read_bytes()
    at = content.rindex(b"\xe0\x7f\x10\0OB") + 8
    path.write_bytes(content[:at] + length + content[at + 4 :])
    assert [(code, "encapsulated" in notes[0]) for code, notes in shown(path)] == [("damaged", True)]


def test_items_that_lead_nowhere(tmp_path: Path) -> None:
    """Behind the first fragment comes what is no item."""
    frames = grey_frames(2)
    streams, syntax = streams_of(tmp_path, frames, "JPEG")
    value = items(streams[:1], end=b"") + b"\1\2\3\4" * 20
    found = shown(write_compressed(tmp_path / "x.dcm", syntax, value, NumberOfFrames=2))
    assert numbers(found, frames, most=4) == [1, "damaged"]
    found = shown(write_compressed(tmp_path / "y.dcm", syntax, ITEM + bytes(4) + ITEM + b"\xff" * 4))
    assert [code for code, _ in found] == ["damaged"]


def test_a_clip_takes_the_memory_of_a_frame(tmp_path: Path) -> None:
    """100 frames of 1 MB, which the file system need not store: none but the frame asked for is read."""
    path = write_dicom(tmp_path / "x.dcm", np.full((1, 1024, 1024), 90, np.uint8), NumberOfFrames="100")
    content, length = bytearray(path.read_bytes()), 100 * 1024**2
    start = content.rindex(b"\xe0\x7f\x10\0OB") + 12
    content[start - 4 : start] = length.to_bytes(4, "little")
    with path.open("wb") as file:
        file.write(content)
        file.truncate(start + length)
    tracemalloc.start()
    with ImageFile(path) as opened:
        assert (opened.frames, opened.picture(1).pixels[0, 0, 0], opened.picture(90).pixels[0, 0, 0]) == (100, 90, 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 24 * 1024**2


def test_an_inflated_file_that_ends_early(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "x.dcm", grey_frames(2), uid.DeflatedExplicitVRLittleEndian, NumberOfFrames=2)
    content = path.read_bytes()
    for end in (len(content) // 2, len(content) - 4):
        path.write_bytes(content[:end])
        assert {code for code, _ in shown(path)} == {"damaged"}
    path.write_bytes(content + b"\7" * 40)
    assert {code for code, _ in shown(path)} == {"damaged"}


Infer = Callable[..., tuple[int, dict[str, Any], str]]


def test_frames_beyond_the_stated_are_items(infer: Infer, tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "x.dcm", np.full((3, *SIZE_HW), 250, np.uint8), NumberOfFrames="1")
    code, results, _ = infer(path)
    assert (code, [item["frame"] for item in results["items"]]) == (0, [1, 2, 3])
    assert {item["status"] for item in results["items"]} == {"OK_WITH_WARNINGS"}
