"""Video files and live sources in, upright RGB frames out; what cannot be decoded is a frame that says so.

FFmpeg conceals damage: it shows what it can guess. Here a packet that does not decode, and every frame after it up to
the next key frame, is passed on without pixels. Formats without checksums can still hide a changed byte.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from medprompt.core.errors import ImageError, need_module

VIDEO_SUFFIXES = frozenset(
    [".avi", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ts", ".webm", ".wmv"]
)
"""Files that are taken for videos."""

FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegvideo,mpegts,asf,h264,hevc"
"""Containers that a file may have. Playlists are none of them: they would open further files, or the network."""

LIVE = re.compile(r"(?:rtsp|rtsps|rtmp|srt|udp|tcp|http|https)://|/dev/video\d+$")
"""Sources that wait for nobody."""

PATIENCE_S = 10.0
"""How long a live source may be silent before it counts as ended."""

SHORT_S = 0.5
"""A file whose pictures end this much before its own statement of its length was cut off."""

BT709, UNSPECIFIED = 1, 2
"""Colour matrices of ITU-T H.273."""

MAX_SD_LINES = 576
"""Pictures of more lines are high definition, whose matrix is BT.709 where none is stated."""


@dataclass(frozen=True)
class Frame:
    """One frame of a video.

    Attributes:
        number: From 1, in the order shown; a packet that does not decode counts as one.
        time_s: When it is shown, in seconds from the source's own zero; None where the source does not say.
        pixels: uint8 ``[H, W, 3]`` RGB, upright; None where it cannot be trusted.
        error: Why it cannot.
        warnings: What a reader should know.
        ready: ``time.perf_counter()`` when it was decoded.
    """

    number: int
    time_s: float | None
    pixels: NDArray[np.uint8] | None
    error: str = ""
    warnings: tuple[str, ...] = ()
    ready: float = 0.0


def is_video(source: str) -> bool:
    """Whether a command-line argument is a video file or a live source."""
    return is_live(source) or Path(source).suffix.lower() in VIDEO_SUFFIXES


def is_live(source: str) -> bool:
    """Whether frames come at their own time and are lost if nobody takes them: a camera or a stream."""
    return LIVE.match(source) is not None


need_video = partial(need_module, "av", "Reading videos", "PyAV", "video")
"""Raises an ``EngineError`` that names the extra where PyAV is not installed."""


class Video:
    """An open video: iterate over it once, in one thread. A context manager.

    Args:
        source: A file, ``/dev/videoN``, or the URL of a stream.

    Attributes:
        source: As given.
        name: The same without a user and password.
        live: See ``is_live``.
        frames: How many the container claims to have; None where it does not say.
        rate: Its mean frames a second; None where it does not say.

    Raises:
        ImageError: Missing, unreadable, no video of a format in ``FORMATS``, or without a picture stream.
        EngineError: PyAV is not installed.
    """

    def __init__(self, source: str) -> None:
        need_video()
        self.source, self.name, self.live = source, _without_password(source), is_live(source)
        self._stack = ExitStack()
        self._container = self._opened()
        self._stack.callback(self._container.close)
        if not self._container.streams.video:
            self.close()
            raise _unreadable(source, "not_an_image", "no picture stream")
        self._stream = self._container.streams.video[0]
        if self._stream.codec_context is None:
            self.close()
            raise _unreadable(source, "unsupported_encoding", "a codec that FFmpeg has no decoder for")
        self._stream.thread_type = "SLICE"  # with frame threads an error would meet another frame than its own
        self._stream.codec_context.options = {"err_detect": "explode"}
        self.frames: int | None = self._stream.frames or None
        rate = self._stream.average_rate
        self.rate = float(rate) if rate else None

    def _opened(self) -> Any:
        import av

        try:
            if self.source.startswith("/dev/video"):
                return av.open(self.source, format="v4l2", timeout=PATIENCE_S)
            if self.live:
                return av.open(self.source, container_options={"rtsp_transport": "tcp"}, timeout=PATIENCE_S)
            _check_file(Path(self.source))
            options = {"protocol_whitelist": "file", "format_whitelist": FORMATS}
            return av.open(f"file:{self.source}", container_options=options)
        except av.error.FFmpegError as error:
            code = None if self.live or isinstance(error, av.error.PermissionError) else "damaged"
            raise _unreadable(self.source, code, error.strerror or type(error).__name__) from error

    @property
    def describes(self) -> dict[str, Any]:
        """What the container says of itself, as JSON values."""
        context = self._stream.codec_context
        return {
            "source": "live" if self.live else "file",
            "format": self._container.format.name,
            "codec": context.name,
            "size_hw": [context.height, context.width],
            "frames_stated": self.frames,
            "rate_stated": None if self.rate is None else round(self.rate, 4),
        }

    def __iter__(self) -> Iterator[Frame]:
        """Decode in order. A file that ends early ends with a frame without pixels that says so."""
        import av

        decoded = _Decoded()
        try:
            for packet in self._container.demux(self._stream):
                yield from decoded.of(packet)
        except av.error.FFmpegError as error:
            yield from decoded.given_up()
            yield decoded.lost(f"the source broke off: {error.strerror or type(error).__name__}")
            return
        yield from decoded.given_up()
        if not self.live and (short := self._missing(decoded.until)):
            yield decoded.lost(short)

    def _missing(self, until: float) -> str:
        """What the container promised and did not hold; empty if it held all."""
        stream, base = self._stream, self._stream.time_base
        length = float(stream.duration * base) if stream.duration and base else None
        if length is None and self._container.duration:
            length = self._container.duration / 1_000_000
        if length is None or until >= length - max(SHORT_S, 2 / (self.rate or 25)):
            return ""
        return f"the file breaks off after {until:.2f} s, and states a length of {length:.2f} s"

    def close(self) -> None:
        """Free the decoder. Closing twice is allowed."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Decoded:
    """Packets in, frames out: numbers them, and trusts none between a damaged packet and the next key frame.

    A decoder says nothing of the packets that it passes over after damage: they are awaited, and given up when it has
    found its feet again.
    """

    def __init__(self) -> None:
        self.number = 0
        self.until = 0.0
        self._first: float | None = None
        self._damage = ""
        self._awaited: list[tuple[int | None, float | None]] = []

    def of(self, packet: Any) -> Iterator[Frame]:
        import av

        try:
            frames = packet.decode()
        except av.error.FFmpegError as error:
            self._damage, frames = error.strerror or type(error).__name__, []
        if self._damage and packet.size:
            self._awaited.append((packet.pts, None if packet.pts is None else float(packet.pts * packet.time_base)))
        for frame in frames:
            if self._damage and frame.key_frame and not frame.is_corrupt:
                yield from self.given_up(frame.pts)
                self._damage, self._awaited = "", []
            if not any(pts == frame.pts for pts, _ in self._awaited):
                yield self._shown(frame)

    def given_up(self, before: int | None = None) -> Iterator[Frame]:
        """The awaited frames that come no more: all, or those to be shown ``before`` a time stamp."""
        for pts, at in sorted(self._awaited, key=lambda one: one[0] or 0):
            if before is None or pts is None or pts < before:
                yield self.lost(f"a packet does not decode, or builds on one that does not: {self._damage}", at)

    def lost(self, reason: str, time_s: float | None = None) -> Frame:
        """A frame that is not there."""
        self.number += 1
        self._reach(time_s)
        return Frame(self.number, time_s, None, reason, ready=time.perf_counter())

    def _reach(self, time_s: float | None) -> None:
        if time_s is not None:
            self._first = time_s if self._first is None else self._first
            self.until = max(self.until, time_s - self._first)

    def _shown(self, frame: Any) -> Frame:
        at = None if frame.time is None else float(frame.time)
        if self._damage or frame.is_corrupt:
            return self.lost(f"it builds on a packet that does not decode: {self._damage or 'marked corrupt'}", at)
        self.number += 1
        self._reach(at)
        pixels, warnings = _upright_rgb(frame)
        return Frame(self.number, at, pixels, "", warnings, time.perf_counter())


def _upright_rgb(frame: Any) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Pixels as they are meant to be seen, and what had to be assumed."""
    from av.video.reformatter import Colorspace

    warnings = []
    chosen = {}
    if frame.colorspace == UNSPECIFIED and frame.height > MAX_SD_LINES and "yuv" in frame.format.name:
        chosen["src_colorspace"] = Colorspace.ITU709
    pixels: NDArray[np.uint8] = frame.to_ndarray(format="rgb24", **chosen)
    turns, rest = divmod(int(frame.rotation) % 360, 90)
    if rest:
        warnings.append(f"the video asks to be turned by {frame.rotation} degrees, and was not")
    elif turns:
        pixels = np.ascontiguousarray(np.rot90(pixels, turns))
    if frame.interlaced_frame:
        warnings.append("the frame is interlaced: it shows two moments, line by line")
    return pixels, tuple(warnings)


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise ImageError(
            "The video does not exist.",
            where=str(path),
            expected="a file, /dev/videoN, or a URL",
            fix="check the path; a folder of videos is run file by file",
        )
    if not path.stat().st_size:
        raise _unreadable(str(path), "not_an_image", "an empty file")


def _unreadable(source: str, code: Any, got: str) -> ImageError:
    return ImageError(
        "The video cannot be read.",
        code=code,
        where=_without_password(source),
        expected=f"a video file ({', '.join(sorted(VIDEO_SUFFIXES))}) or a live source that answers",
        got=got,
        fix="open it in a player; see `medprompt docs video`",
    )


def _without_password(source: str) -> str:
    """A URL without its user and password, which belong in no message."""
    return re.sub(r"(?<=://)[^/@]*@", "", source)
