"""Damaged videos against their undamaged twins: no wrong picture is shown, no number or time shifts."""

from __future__ import annotations

import random
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest

from medprompt.video.read import Frame, Video, _remarks, is_video
from tests.medprompt.video.videos import LEVELS, make_video, packet_spans

FILES = Path(__file__).parent / "files"
TS_PACKET = 188


def frames_of(path: Path) -> list[Frame]:
    with Video(str(path)) as video:
        return list(video)


def lost(frames: list[Frame]) -> list[int]:
    return [frame.number for frame in frames if frame.pixels is None]


def check_against(twin: list[Frame], frames: list[Frame]) -> None:
    """Each frame shown is the twin's frame of that number, pixel by pixel, at its time."""
    assert [frame.number for frame in frames] == list(range(1, len(frames) + 1))
    for frame in frames:
        if frame.pixels is not None:
            right = twin[frame.number - 1]
            assert right.pixels is not None and np.array_equal(frame.pixels, right.pixels), frame.number
            assert frame.time_s == pytest.approx(right.time_s, abs=0.002), frame.number


def test_a_damaged_reference_of_b_frames_takes_its_group_alone() -> None:
    twin, frames = frames_of(FILES / "b-frames.mp4"), frames_of(FILES / "damaged-b-frames.mp4")
    check_against(twin, frames)
    assert len(frames) == 100 and set(lost(frames)) == set(range(20, 41))
    assert [frame.time_s for frame in frames] == pytest.approx([frame.time_s for frame in twin])


def test_avi_with_b_frames_has_even_times() -> None:
    frames = frames_of(FILES / "b-frames.avi")
    assert [frame.time_s for frame in frames] == pytest.approx([n / 25 for n in range(25)]) and not lost(frames)


@pytest.mark.parametrize("place", [12, 20, 30])
def test_a_lost_transport_packet_is_noticed(tmp_path: Path, place: int) -> None:
    path = make_video(tmp_path / "v.ts", "libx264")
    twin, content = frames_of(path), bytearray(path.read_bytes())
    del content[place * TS_PACKET : (place + 1) * TS_PACKET]
    path.write_bytes(content)
    frames = frames_of(path)
    check_against(twin, frames)
    assert 0 < len(lost(frames)) <= 11 and len(frames) == len(twin)


def test_a_transport_stream_begins_at_zero(tmp_path: Path) -> None:
    assert frames_of(make_video(tmp_path / "v.ts", "libx264"))[0].time_s == 0.0


@pytest.mark.parametrize("name", ["v.mkv", "v.avi"])
def test_a_vanished_packet_is_an_item(tmp_path: Path, name: str) -> None:
    path = make_video(tmp_path / name, "mpeg4")
    twin, content = frames_of(path), bytearray(path.read_bytes())
    (first, _, _), (second, _, _) = packet_spans(path)[7:9]
    content[first - 8 : second - 8] = b"\xff" * (second - first)  # with the header before it
    path.write_bytes(content)
    frames = frames_of(path)
    check_against(twin, frames)
    assert set(lost(frames)) >= {8}
    if name == "v.avi":  # Matroska is read again from its next cluster, and this one has no other
        assert lost(frames)[-1] <= 11 and len(frames) == len(twin)


@pytest.mark.parametrize(("suffix", "codec", "kind"), [(".mjpeg", "mjpeg", "mjpeg"), (".h264", "libx264", "h264")])
def test_a_bare_stream_has_times_by_its_rate(tmp_path: Path, suffix: str, codec: str, kind: str) -> None:
    with av.open(str(tmp_path / f"v{suffix}"), "w", format=kind) as container:
        stream = container.add_stream(codec, rate=25, options={"bf": "2"} if codec == "libx264" else {})
        stream.width, stream.height = 64, 48
        stream.pix_fmt = "yuv420p" if codec == "libx264" else "yuvj420p"
        for level in LEVELS:
            pixels = np.full((48, 64, 3), level, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    frames = frames_of(tmp_path / f"v{suffix}")
    assert all("no container, and times count 25 frames a second" in frame.warnings[0] for frame in frames)
    assert [frame.time_s for frame in frames] == pytest.approx([n / 25 for n in range(len(LEVELS))])
    assert np.abs([frame.pixels.mean() - level for frame, level in zip(frames, LEVELS, strict=True)]).max() < 4


@pytest.mark.parametrize("suffix", ["264", "3gp", "flv", "h264", "mjpeg", "mxf", "vob", "MTS"])
def test_videos_by_suffix(suffix: str) -> None:
    assert is_video(f"v.{suffix}")


@pytest.mark.parametrize(("ratio", "said"), [(None, 0), (Fraction(1), 0), (Fraction(64, 45), 1), (Fraction(8, 9), 1)])
def test_pixels_that_are_not_square_are_said(ratio: Fraction | None, said: int) -> None:
    remarks = list(_remarks(SimpleNamespace(sample_aspect_ratio=ratio), 1))
    assert len(remarks) == said and all("not square" in one for one in remarks)


def test_a_second_picture_stream_is_said(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "v.mp4"), "w") as container:
        streams = [container.add_stream("mpeg4", rate=10, width=64, height=48, pix_fmt="yuv420p") for _ in range(2)]
        for stream, level in zip(streams, (50, 200), strict=True):
            pixels = np.full((48, 64, 3), level, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        for stream in streams:
            container.mux(stream.encode(None))
    (frame,) = frames_of(tmp_path / "v.mp4")
    assert frame.pixels is not None and abs(frame.pixels.mean() - 50) < 3
    assert frame.warnings == ("the file has 2 picture streams: the first was looked at",)


CODECS = {
    "h264-b": ["libx264", "-bf", "3"],
    "h264-cavlc": ["libx264", "-bf", "0", "-coder", "0"],
    "mpeg2": ["mpeg2video", "-bf", "2"],
    "mpeg4": ["mpeg4", "-bf", "2"],
}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg makes the videos")
@pytest.mark.parametrize(
    ("codec", "suffix"), [(codec, suffix) for codec in CODECS for suffix in (".mp4", ".mkv", ".ts", ".avi")]
)
def test_damage_of_many_kinds(tmp_path: Path, codec: str, suffix: str) -> None:
    path = tmp_path / f"v{suffix}"
    make = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "testsrc2=s=320x240:r=25:d=4", "-g", "25", "-threads", "1"]
    subprocess.run([*make, "-pix_fmt", "yuv420p", "-c:v", *CODECS[codec], str(path)], check=True)
    twin, content = frames_of(path), path.read_bytes()
    spans = [(at, size) for at, size, _ in packet_spans(path)]
    pieces = [n for n in range(20, len(content) // TS_PACKET) if content[n * TS_PACKET + 1] & 31 == 1]  # of pictures
    for seed in range(4):
        rng, damaged = random.Random(seed), bytearray(content)
        at, size = rng.choice(spans[1:])
        if suffix == ".ts":
            start = rng.choice(pieces) * TS_PACKET
            del damaged[start : start + TS_PACKET]
        else:
            damaged[at + 4 : at + size] = b"\xff" * (size - 4)
        path.write_bytes(damaged)
        frames = frames_of(path)
        check_against(twin, frames)
        assert lost(frames), seed
