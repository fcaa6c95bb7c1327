"""Videos: every frame comes out once, at its time and in its colours; damage is said, never guessed over."""

from __future__ import annotations

import itertools
import struct
from pathlib import Path
from typing import ClassVar

import av
import numpy as np
import pytest

from medprompt.core.errors import ImageError
from medprompt.video.read import Frame, Video, is_live, is_video
from medprompt.video.upright import upright_rgb
from tests.medprompt.video.videos import LEVELS, SIZE_HW, make_video, packet_spans

CONTAINERS = {"v.mp4": "libx264", "v.mkv": "libx264", "v.webm": "libvpx", "v.avi": "mpeg4", "v.ts": "libx264"}


def frames_of(path: Path) -> list[Frame]:
    with Video(str(path)) as video:
        return list(video)


def levels(frames: list[Frame]) -> list[float]:
    return [float(frame.pixels.mean()) for frame in frames if frame.pixels is not None]


@pytest.mark.parametrize("name", CONTAINERS)
def test_every_frame_comes_once_and_in_order(tmp_path: Path, name: str) -> None:
    frames = frames_of(make_video(tmp_path / name, CONTAINERS[name]))
    assert [frame.number for frame in frames] == list(range(1, len(LEVELS) + 1))
    assert np.abs(np.array(levels(frames)) - LEVELS).max() < 4
    assert all(frame.pixels is not None and frame.pixels.shape == (*SIZE_HW, 3) for frame in frames)
    times = np.diff([frame.time_s for frame in frames])
    assert np.allclose(times, 0.1, atol=0.002)


@pytest.mark.parametrize(
    ("source", "video", "live"),
    [
        ("colon.MP4", True, False),
        ("/dev/video0", True, True),
        ("rtsp://user:secret@camera/1", True, True),
        ("frame.png", False, False),
        ("/dev/video", False, False),
        ("folder", False, False),
    ],
)
def test_what_is_a_video(source: str, video: bool, live: bool) -> None:
    assert (is_video(source), is_live(source)) == (video, live)


def _luma(rgb: tuple[int, int, int], red: float, blue: float) -> tuple[float, float, float]:
    r, g, b = (channel / 255 for channel in rgb)
    y = red * r + (1 - red - blue) * g + blue * b
    return 16 + 219 * y, 128 + 224 * (b - y) / (2 * (1 - blue)), 128 + 224 * (r - y) / (2 * (1 - red))


@pytest.mark.parametrize(
    ("height", "tag", "red", "blue"),
    [
        (48, 2, 0.299, 0.114),  # nothing stated, standard definition
        (720, 2, 0.2126, 0.0722),  # nothing stated, high definition
        (48, 1, 0.2126, 0.0722),
        (720, 5, 0.299, 0.114),
    ],
)
def test_colours_follow_the_matrix_that_the_video_means(
    tmp_path: Path, height: int, tag: int, red: float, blue: float
) -> None:
    rgb = (200, 60, 100)
    with av.open(str(tmp_path / "c.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, height, "yuv444p"
        stream.codec_context.colorspace = tag
        frame = av.VideoFrame(64, height, "yuv444p")
        frame.colorspace = tag
        for plane, value in zip(frame.planes, _luma(rgb, red, blue), strict=True):
            plane.update(bytes([round(value)]) * plane.buffer_size)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    (shown,) = frames_of(tmp_path / "c.mkv")
    assert shown.pixels is not None
    assert np.abs(shown.pixels.reshape(-1, 3).astype(int) - rgb).max() <= 3


@pytest.mark.parametrize("key", [True, False])
def test_a_damaged_packet_takes_its_group_with_it(tmp_path: Path, key: bool) -> None:
    path = make_video(tmp_path / "v.mp4", "libx264")
    spans = packet_spans(path)
    place = next(n for n, (_, _, is_key) in enumerate(spans) if n >= 5 and is_key == key)
    content = bytearray(path.read_bytes())
    offset, size, _ = spans[place]
    content[offset + 4 : offset + size] = b"\xff" * (size - 4)
    path.write_bytes(content)
    frames = frames_of(path)
    bad = [frame.number for frame in frames if frame.pixels is None]
    following = next((n for n in range(place + 1, len(spans)) if spans[n][2]), len(spans))
    begun = max(n for n in range(place) if spans[n][2])  # a key frame that is destroyed is none
    assert bad == list(range(begun + 1, following + 1))
    assert all("does not decode" in frame.error for frame in frames if frame.pixels is None)
    assert [frame.time_s for frame in frames] == pytest.approx([n / 10 for n in range(len(LEVELS))])
    good = [level for n, level in enumerate(LEVELS, start=1) if n not in bad]
    assert np.abs(np.array(levels(frames)) - good).max() < 4


@pytest.mark.parametrize("name", ["v.mkv", "v.webm"])
def test_a_file_that_breaks_off_ends_with_a_frame_that_says_so(tmp_path: Path, name: str) -> None:
    path = make_video(tmp_path / name, CONTAINERS[name])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    *_, last = frames_of(path)
    assert last.pixels is None and ("breaks off" in last.error or "does not decode" in last.error)


CORNERS = ((250, 20, 20), (20, 250, 20), (20, 20, 250), (240, 240, 240))
"""Top left, top right, bottom left, bottom right of what is stored."""


def _stated(path: Path, matrix: tuple[int, int, int, int], one: int = 1 << 16) -> Path:
    """A lossless video of four corners whose track header states how it is to be shown."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv444p"
        stored = np.array(CORNERS, dtype=np.uint8).reshape(2, 2, 3).repeat(24, axis=0).repeat(32, axis=1)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(stored, format="rgb24")))
        container.mux(stream.encode(None))
    content = path.read_bytes()
    identity = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    a, b, c, d = (round(side * one) for side in matrix)
    assert content.count(identity) == 2  # of the movie, then of its track
    movie, track, rest = content.split(identity)
    path.write_bytes(movie + identity + track + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + rest)
    return path


@pytest.mark.parametrize(
    ("matrix", "corners"),
    [
        ((1, 0, 0, 1), "0123"),
        ((0, 1, -1, 0), "2031"),  # a telephone held upright
        ((-1, 0, 0, -1), "3210"),
        ((0, -1, 1, 0), "1302"),
        ((-1, 0, 0, 1), "1032"),  # mirrored, as a front camera
        ((1, 0, 0, -1), "2301"),
        ((0, 1, 1, 0), "0213"),
        ((0, -1, -1, 0), "3120"),
    ],
)
def test_a_video_is_turned_and_mirrored_as_it_states(
    tmp_path: Path, matrix: tuple[int, int, int, int], corners: str
) -> None:
    """The table is what ``ffmpeg`` writes as PNG."""
    (frame,) = frames_of(_stated(tmp_path / "v.mp4", matrix))
    assert frame.pixels is not None and not frame.warnings
    assert frame.pixels.shape == ((48, 64, 3) if matrix[0] else (64, 48, 3))
    height, width, _ = frame.pixels.shape
    shown = frame.pixels[height // 4 :: height // 2, width // 4 :: width // 2].reshape(4, 3).astype(int)
    assert np.abs(shown - [CORNERS[int(one)] for one in corners]).max() <= 3


def test_another_angle_is_said_and_left(tmp_path: Path) -> None:
    (frame,) = frames_of(_stated(tmp_path / "v.mp4", (1, 1, -1, 1), one=46341))
    assert frame.pixels is not None and frame.pixels.shape == (48, 64, 3)
    assert "asks to be turned by -45 degrees" in frame.warnings[0]


def test_an_interlaced_frame_is_said(monkeypatch: pytest.MonkeyPatch) -> None:

    class Interlaced:
        colorspace, color_trc, height, interlaced_frame = 1, 1, 2, True
        format = av.VideoFormat("rgb24")
        side_data: ClassVar[dict[object, object]] = {}

        def to_ndarray(self, format: str) -> np.ndarray:
            return np.zeros((2, 3, 3), dtype=np.uint8)

    _, warnings = upright_rgb(Interlaced())
    assert len(warnings) == 1 and "interlaced" in warnings[0]


def _playlist(path: Path) -> None:
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n")


def _concat(path: Path) -> None:
    path.write_text("ffconcat version 1.0\nfile /etc/hostname\n")


def _audio(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mp3", rate=44100)
        container.mux(stream.encode(None))


@pytest.mark.parametrize(
    ("make", "got"),
    [
        (lambda path: None, "does not exist"),
        (Path.mkdir, "does not exist"),
        (lambda path: path.write_bytes(b""), "empty"),
        (lambda path: path.write_bytes(b"no video at all" * 99), "nvalid"),
        (_playlist, "nvalid"),
        (_concat, "nvalid"),
    ],
)
def test_what_is_no_video_is_refused(tmp_path: Path, make, got: str) -> None:
    path = tmp_path / "v.mp4"
    make(path)
    with pytest.raises(ImageError, match=got):
        Video(str(path))


def test_sound_alone_is_refused(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "v.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame(format="s16", layout="mono", samples=800)
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(ImageError, match="no picture stream"):
        Video(str(tmp_path / "v.mkv"))


def test_a_password_is_in_no_message() -> None:
    from medprompt.video.read import _unreadable

    text = str(_unreadable("rtsp://me:secret@camera/1", None, "no answer"))
    assert "secret" not in text and "rtsp://camera/1" in text


@pytest.mark.parametrize("place", range(0, 20))
def test_no_changed_byte_is_a_traceback(tmp_path: Path, place: int) -> None:
    path = make_video(tmp_path / "v.mp4", "libx264")
    content = bytearray(path.read_bytes())
    rng = np.random.default_rng(place)
    for at in rng.integers(0, len(content), 30):
        content[at] = rng.integers(0, 256)
    path.write_bytes(content)
    try:
        frames = list(itertools.islice(frames_of(path), 100))
    except ImageError:
        return
    assert all((frame.pixels is None) == bool(frame.error) for frame in frames)


@pytest.mark.parametrize(
    ("form", "matrix", "transfer", "says"),
    [
        ("yuv420p", 1, 1, ""),
        ("yuv420p10le", 9, 16, "high dynamic range (PQ)"),
        ("yuv420p10le", 9, 18, "high dynamic range (HLG)"),
        ("yuva420p", 5, 2, "opacity"),
        ("rgba", 0, 2, "opacity"),
        ("gbrp", 0, 2, ""),
        ("gray", 2, 2, ""),
        ("yuv420p", 0, 2, None),
        ("yuv420p", 8, 2, None),
        ("nv12", 14, 16, None),
    ],
)
def test_colours_that_are_coded_otherwise(form: str, matrix: int, transfer: int, says: str | None) -> None:
    """None: they are refused. FFmpeg has no conversion of YCgCo (8) and ICtCp (14)."""
    frame = av.VideoFrame(32, 32, form)
    frame.colorspace, frame.color_trc = matrix, transfer
    if says is None:
        with pytest.raises(ImageError, match=f"colour matrix {matrix} ") as caught:
            upright_rgb(frame)
        assert caught.value.code == "unsupported_pixels"
        return
    pixels, said = upright_rgb(frame)
    assert pixels.shape == (32, 32, 3)
    assert (says in "".join(said), len(said)) == (True, bool(says))


def test_a_video_of_colours_that_cannot_be_read_has_rejected_frames(tmp_path: Path) -> None:
    path = make_video(tmp_path / "v.mp4", "libx264", options={"x264-params": "colormatrix=YCgCo"})
    with Video(str(path)) as video:
        frames = list(video)
    assert len(frames) == len(LEVELS)
    assert {frame.code for frame in frames if frame.pixels is None and "matrix 8" in frame.error} == {
        "unsupported_pixels"
    }
    assert not any(frame.pixels is not None for frame in frames)
