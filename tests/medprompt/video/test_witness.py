"""Second decoders contradict damage that FFmpeg's decoders do not notice, and agree with all that is sound."""

from __future__ import annotations

import random
from pathlib import Path

import av
import pytest

from medprompt.video.groups import Groups
from medprompt.video.marks import index_of, mark_packet
from medprompt.video.picture import Picture
from medprompt.video.units import START, is_forbidden
from medprompt.video.witness import NEVER_READ, _followed
from tests.medprompt.video.test_damage import check_against, frames_of, lost
from tests.medprompt.video.videos import LEVELS, make_video, packet_spans


@pytest.fixture(scope="module")
def hevc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hevc") / "v.mp4"
    options = {"x265-params": "keyint=5:min-keyint=5:scenecut=0:bframes=0:log-level=none:pools=none:crf=38"}
    return make_video(path, "libx265", size_hw=(96, 128), options=options)


def test_sound_hevc_is_never_contradicted(hevc: Path) -> None:
    assert len(frames_of(hevc)) == len(LEVELS) and not lost(frames_of(hevc))


@pytest.mark.parametrize("place", [1, 7, 12])
def test_a_changed_byte_of_hevc_is_noticed(hevc: Path, tmp_path: Path, place: int) -> None:
    twin, content = frames_of(hevc), bytearray(hevc.read_bytes())
    at, size, _ = packet_spans(hevc)[place]
    content[at + size // 2] ^= 0x3C
    path = tmp_path / "v.mp4"
    path.write_bytes(content)
    with av.open(str(path)) as container:  # FFmpeg has nothing to say of it
        container.streams.video[0].codec_context.options = {"err_detect": "explode+crccheck+aggressive"}
        assert sum(1 for _ in container.decode(video=0)) == len(LEVELS)
    frames = frames_of(path)
    check_against(twin, frames)
    assert place + 1 in lost(frames) and len(lost(frames)) == 5


def test_bytes_lost_in_motion_jpeg_are_noticed_by_libjpeg(tmp_path: Path) -> None:
    path = make_video(tmp_path / "v.avi", "mjpeg", size_hw=(96, 128), options={"strict": "-1"})
    twin, content, rng = frames_of(path), path.read_bytes(), random.Random(3)
    assert not lost(twin)
    wrong = 0
    for at, size, _ in packet_spans(path)[2:12]:
        damaged = bytearray(content)
        start = at + rng.randrange(size // 2, size - 40)
        damaged[start : start + 20] = rng.randbytes(20).replace(b"\xff", b"\0")
        path.write_bytes(damaged)
        wrong += sum(
            frame.pixels is not None and (frame.pixels != right.pixels).any()
            for frame, right in zip(frames_of(path), twin, strict=True)
        )
    assert wrong <= 2  # what falls into step again has no more than other pixels


@pytest.mark.parametrize(
    ("content", "length", "followed"),
    [
        (START + b"\x26a", 0, START + b"\x26a" + NEVER_READ),
        (b"\0" + START + b"\x40p\0" + START + b"\x02b", 0, START + b"\x40p" + START + b"\x02b" + NEVER_READ),
        (b"\0\0\0\2\x26a\0\0\0\2\x4eb", 4, b"\0\0\0\x22\x26a" + NEVER_READ + b"\0\0\0\2\x4eb"),
        (b"\0\2\x26a", 2, b"\0\x22\x26a" + NEVER_READ),
        (b"", 4, b""),
    ],
)
def test_only_slices_are_followed(content: bytes, length: int, followed: bytes) -> None:
    assert _followed(content, length) == followed


def test_groups_wait_for_their_end() -> None:
    groups = Groups()
    pictures = [Picture(index, pts=index) for index in range(1, 7)]
    groups.begin(pictures[0])
    assert [one for picture in pictures[:3] for one in groups.of(picture)] == []
    groups.begin(pictures[3])
    assert list(groups.of(pictures[3])) == pictures[:3]
    assert groups.spoil(3, "damage") == 1 and groups.spoil(5, "damage") == 4
    assert list(groups.rest()) == [pictures[3]]


def test_a_group_that_is_too_large_is_let_go_from_its_beginning() -> None:
    frame = av.VideoFrame(64, 64, "gray")
    groups = Groups(most=2 * 64 * 64)
    pictures = [Picture(index, frame=frame) for index in range(1, 5)]
    assert [list(groups.of(picture)) for picture in pictures] == [[], [], pictures[:1], pictures[1:2]]
    groups.spoil(4, "damage")
    assert [(one.index, one.lost) for one in groups.rest()] == [(3, "damage"), (4, "damage")]


@pytest.mark.parametrize(
    ("unit", "forbidden"),
    [
        (b"\x65abc", False),
        (b"\x65a\0\0\3\1c", False),
        (b"\x65ab\0\0\3", False),  # a padding word at the end of a slice
        (b"\x65ab\0\0", False),
        (b"\x65a\0\0\0bc", True),
        (b"\x65a\0\0\2bc", True),
        (b"\x65a\0\0\3\4c", True),
    ],
)
def test_bytes_that_no_encoder_writes(unit: bytes, forbidden: bool) -> None:
    assert is_forbidden(len(unit).to_bytes(4, "big") + unit, 4) == forbidden
    assert is_forbidden(START + b"\x09\x10\0" + START + unit, 0) == forbidden


def test_a_sector_of_zeros_is_noticed(tmp_path: Path) -> None:
    path = make_video(tmp_path / "v.mp4", "libx264", size_hw=(96, 128))
    twin, content = frames_of(path), bytearray(path.read_bytes())
    at, size, _ = packet_spans(path)[5]
    content[at + size // 3 : at + 2 * size // 3] = bytes(2 * size // 3 - size // 3)
    path.write_bytes(content)
    check_against(twin, frames_of(path))
    assert lost(frames_of(path)) == [6, 7, 8, 9, 10]


def test_packets_of_one_index_keep_it_when_another_goes() -> None:
    """Two decoders count alike; PyAV forgets an object that two packets carry as soon as one of them is freed."""
    packets = [av.Packet(b"x") for _ in range(3)]
    for packet in packets:
        mark_packet(packet, 1)
    del packet, packets[0]
    assert [index_of(packet) for packet in packets] == [1, 1]
    assert index_of(av.Packet(b"x")) is None
