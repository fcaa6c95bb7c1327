"""What each container tells of its frames, and what is said where it tells too little."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from av.stream import Disposition

from medprompt.core.errors import ImageError
from medprompt.video.picture import Picture
from medprompt.video.pictures import _headless
from medprompt.video.rhythm import Rhythm
from tests.medprompt.video.test_damage import TS_PACKET, check_against, frames_of, lost
from tests.medprompt.video.videos import LEVELS, make_video, packet_spans


@pytest.mark.parametrize(("codec", "place"), [(codec, n) for codec in ("mpeg4", "mpeg2video") for n in range(1, 20)])
def test_a_packet_without_a_picture_is_noticed_at_once(tmp_path: Path, codec: str, place: int) -> None:
    path = make_video(tmp_path / "v.avi", codec, group=10, b_frames=2)
    twin, content = frames_of(path), bytearray(path.read_bytes())
    at, size, _ = packet_spans(path)[place]
    content[at : at + size] = b"\xff" * size
    path.write_bytes(content)
    frames = frames_of(path)
    check_against(twin, frames)
    assert lost(frames) and len(frames) == len(twin)


@pytest.mark.parametrize("name", ["v.mp4", "v.mkv", "v.avi"])
@pytest.mark.parametrize("place", [2, 7, 8])
def test_a_burst_over_two_packets_takes_both(tmp_path: Path, name: str, place: int) -> None:
    path = make_video(tmp_path / name, "libx264")
    twin, content = frames_of(path), bytearray(path.read_bytes())
    (before, size, _), (at, _, _) = packet_spans(path)[place : place + 2]
    content[before + size - 1 : at + 30] = b"\xff" * (at + 31 - before - size)
    path.write_bytes(content)
    frames = frames_of(path)
    check_against(twin, frames)
    assert {place + 1, place + 2} <= set(lost(frames))


@pytest.mark.parametrize(
    ("content", "headless"),
    [
        (b"\0\0\1\x65" + bytes(9), False),
        (b"\0\0\0\1\x65" + bytes(9), False),
        (b"\0\0\0\4" + bytes(4), False),
        (b"\0\0\0\5" + bytes(4), True),
        (b"\xff\xd8\xff\xe0" + bytes(9), False),
        (b"\xff" * 9, True),
        (bytes(9), True),
        (b"\xff", True),
    ],
)
def test_how_a_packet_begins(content: bytes, headless: bool) -> None:
    assert _headless(av.Packet(content)) == headless


def test_two_lost_pictures_of_one_time_are_one() -> None:
    rhythm = Rhythm(SimpleNamespace(average_rate=25, guessed_rate=25, time_base=Fraction(1, 100)))
    shown = [Picture(1, pts=0), Picture(6, pts=12)]
    gone = [Picture(2, pts=4, lost="x"), Picture(3, pts=4, lost="x"), Picture(4, pts=8, lost="x"), Picture(5, pts=12)]
    filled = rhythm.filled(shown[0], gone, shown[1], hole=True)
    assert [one.pts for one in filled] == [4, 8]


@pytest.mark.parametrize(("until", "filled"), [(4, 0), (8, 1), (6000, 1499), (6004, 1), (1 << 33, 1)])
def test_a_jump_of_the_clock_is_not_many_pictures(until: int, filled: int) -> None:
    rhythm = Rhythm(SimpleNamespace(average_rate=25, guessed_rate=25, time_base=Fraction(1, 100)))
    gone = [Picture(2, pts=4, lost="x")]
    assert len(rhythm.filled(Picture(1, pts=0), gone, Picture(3, pts=until), hole=True)) == filled


@pytest.mark.parametrize("gone", [1, 3])
def test_an_avi_that_lists_fewer_than_it_states_says_so(tmp_path: Path, gone: int) -> None:
    path = make_video(tmp_path / "v.avi")
    twin, content, spans = frames_of(path), bytearray(path.read_bytes()), packet_spans(path)
    del content[spans[7][0] - 8 : spans[7 + gone][0] - 8]  # headers too: nothing but the count tells
    path.write_bytes(content)
    frames = frames_of(path)
    assert all("states 20 frames and lists" in frame.warnings[0] for frame in frames if frame.pixels is not None)
    assert lost(frames)[-1] == len(frames) <= len(twin)
    check_against(twin, frames[:7])


def test_an_avi_with_empty_frames_keeps_its_times(tmp_path: Path) -> None:
    frames = frames_of(make_video(tmp_path / "v.avi", "libx264", fps=20, b_frames=2, step=2))
    assert [frame.time_s for frame in frames] == pytest.approx([n / 10 for n in range(len(LEVELS))])
    assert not lost(frames) and not any(frame.warnings for frame in frames)


@pytest.mark.parametrize(
    ("name", "codec", "warned"),
    [
        ("v.flv", "flv", 0),
        ("v.mpg", "mpeg2video", 0),
        ("v.mxf", "mpeg2video", 1),
        ("v.ogv", "libvpx", 1),
        ("v.wmv", "wmv2", 1),
    ],
)
def test_containers_that_drop_frames_silently_say_so(tmp_path: Path, name: str, codec: str, warned: int) -> None:
    frames = frames_of(make_video(tmp_path / name, codec, (96, 96), fps=25, b_frames=0))
    assert [frame.time_s for frame in frames] == pytest.approx([n / 25 for n in range(len(LEVELS))], abs=0.002)
    assert np.abs([frame.pixels.mean() - level for frame, level in zip(frames, LEVELS, strict=True)]).max() < 5
    assert {len(frame.warnings) for frame in frames} == {warned}


def test_pictures_called_raw_that_are_not_are_refused(tmp_path: Path) -> None:
    """What FFmpeg makes of HEVC in AVI."""
    with av.open(str(tmp_path / "v.avi"), "w") as container:
        stream = container.add_stream("rawvideo", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "bgr24"
        for number in range(3):
            packet = av.Packet(bytes(500))
            packet.stream, packet.pts, packet.dts, packet.is_keyframe = stream, number, number, True
            container.mux(packet)
    with pytest.raises(ImageError, match="no name for, as HEVC in AVI"):
        frames_of(tmp_path / "v.avi")


@pytest.mark.parametrize("pixels", ["bgr24", "yuv420p", "yuyv422"])
def test_raw_pictures_are_read(tmp_path: Path, pixels: str) -> None:
    with av.open(str(tmp_path / "v.avi"), "w") as container:
        stream = container.add_stream("rawvideo", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 100, np.uint8), format="rgb24")
        container.mux(stream.encode(frame.reformat(format=pixels)))
        container.mux(stream.encode(None))
    (shown,) = frames_of(tmp_path / "v.avi")
    assert shown.pixels is not None


def test_a_cover_is_no_frame(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "v.mp4"), "w") as container:
        cover = container.add_stream("mjpeg", rate=10, width=64, height=48, pix_fmt="yuvj420p")
        cover.disposition = Disposition.attached_pic
        stream = container.add_stream("mpeg4", rate=10, width=64, height=48, pix_fmt="yuv420p")
        for one, level, times in ((cover, 200, 1), (stream, 50, 3)):
            for _ in range(times):
                pixels = np.full((48, 64, 3), level, np.uint8)
                container.mux(one.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(one.encode(None))
    frames = frames_of(tmp_path / "v.mp4")
    assert len(frames) == 3 and not any(frame.warnings for frame in frames)
    assert all(abs(frame.pixels.mean() - 50) < 3 for frame in frames if frame.pixels is not None) and not lost(frames)


def test_a_cover_alone_is_refused(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "v.mp4"), "w") as container:
        cover = container.add_stream("mjpeg", rate=10, width=64, height=48, pix_fmt="yuvj420p")
        cover.disposition = Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
        container.mux(cover.encode(None))
    with pytest.raises(ImageError, match="no picture stream"):
        frames_of(tmp_path / "v.mp4")


@pytest.mark.parametrize("cut", [1, 100, 187])
def test_a_transport_stream_cut_within_a_packet_says_so(tmp_path: Path, cut: int) -> None:
    path = make_video(tmp_path / "v.ts", "libx264")
    twin, content = frames_of(path), path.read_bytes()
    assert len(content) % TS_PACKET == 0
    path.write_bytes(content[:-cut])
    frames = frames_of(path)
    assert frames[-1].pixels is None and "breaks off within a packet" in frames[-1].error
    check_against(twin, frames)


def test_a_matroska_file_that_lacks_its_last_frame_says_so(tmp_path: Path) -> None:
    path = make_video(tmp_path / "v.mkv")
    twin, (at, _, _) = frames_of(path), packet_spans(path)[-1]
    path.write_bytes(path.read_bytes()[: at - 10])
    frames = frames_of(path)
    assert frames[-1].pixels is None
    check_against(twin, frames)


def test_a_damaged_name_is_no_traceback(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "v.mkv"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10, width=64, height=48, pix_fmt="yuv420p")
        stream.metadata["title"] = "NAME OF IT"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    content = (tmp_path / "v.mkv").read_bytes()
    assert b"NAME" in content
    (tmp_path / "v.mkv").write_bytes(content.replace(b"NAME", b"\xb0AME"))
    assert len(frames_of(tmp_path / "v.mkv")) == 1
