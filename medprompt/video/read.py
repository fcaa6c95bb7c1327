"""Video files and live sources in, upright RGB frames out; what cannot be decoded is a frame that says so."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from medprompt.core.errors import ImageError, RejectCode, need_module
from medprompt.video.ledgers import BARE, ledger_of
from medprompt.video.picture import Picture
from medprompt.video.pictures import Pictures
from medprompt.video.upright import upright_rgb

VIDEO_SUFFIXES = frozenset(
    [
        ".264",
        ".265",
        ".3g2",
        ".3gp",
        ".avi",
        ".dv",
        ".f4v",
        ".flv",
        ".h264",
        ".h265",
        ".hevc",
        ".m1v",
        ".m2t",
        ".m2ts",
        ".m2v",
        ".m4v",
        ".mjpeg",
        ".mjpg",
        ".mkv",
        ".mov",
        ".mp4",
        ".mpeg",
        ".mpg",
        ".mts",
        ".mxf",
        ".ogv",
        ".ts",
        ".vob",
        ".webm",
        ".wmv",
    ]
)
"""Files that are taken for videos."""

MJPEG = frozenset([".mjpeg", ".mjpg"])
"""Suffixes of JPEG images in a row, without a container."""

FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegvideo,mpegts,asf,h264,hevc,mjpeg,flv,mxf,mxf_opatom,dv,ogg"
)
"""Containers that a file may have. Playlists are none of them: they would open further files, or the network."""

UNTIMED = frozenset(["h264", "hevc"])
"""Codecs whose pictures have no times in AVI; FFmpeg states wrong ones."""

PLACES = 100
"""Places one after another where a container does not hold together; then it is given up."""

LIVE = re.compile(r"(?:rtsp|rtsps|rtmp|srt|udp|tcp|http|https)://|/dev/video\d+$")
"""Sources that wait for nobody."""

PATIENCE_S = 10.0
"""How long a live source may be silent before it counts as ended."""

SHORT_S = 0.5
"""A file whose pictures end this much before its own statement of its length was cut off."""

TS_PACKETS = (188, 192, 204)
"""Bytes of a packet of a transport stream: alone, with a time, with a checksum."""

ATTACHED = 0x400
"""FFmpeg's mark of a picture that is a cover and no part of the video."""

ERRORS = "explode+crccheck+aggressive"
"""What FFmpeg's decoders take for an error."""


@dataclass(frozen=True)
class Frame:
    """One frame of a video.

    Attributes:
        number: From 1, in the order shown; a packet that does not decode counts as one.
        time_s: When it is shown, in seconds from the source's own zero; None where the source does not say.
        pixels: uint8 ``[H, W, 3]`` RGB, upright; None where it cannot be trusted.
        error: Why it cannot.
        code: Of that.
        warnings: What a reader should know.
        ready: ``time.perf_counter()`` when it was decoded.
    """

    number: int
    time_s: float | None
    pixels: NDArray[np.uint8] | None
    error: str = ""
    warnings: tuple[str, ...] = ()
    ready: float = 0.0
    code: RejectCode = "damaged"


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
        streams = [one for one in self._container.streams.video if not one.disposition & ATTACHED]
        if not streams:
            self.close()
            raise _unreadable(source, "not_an_image", "no picture stream")
        self._stream = streams[0]
        if self._stream.codec_context is None:
            self.close()
            raise _unreadable(source, "unsupported_encoding", "a codec that FFmpeg has no decoder for")
        if _is_misnamed(self._stream):
            self.close()
            raise _unreadable(
                source,
                "unsupported_encoding",
                "a codec that the container has no name for, as HEVC in AVI; not raw pictures",
            )
        # With frame threads an error would meet another frame than its own; with slice threads H.264 does not say
        # what it conceals.
        self._stream.thread_type, self._stream.codec_context.thread_count = "NONE", 1
        self._stream.codec_context.options = {"err_detect": ERRORS}
        self.frames: int | None = self._stream.frames or None
        rate = self._stream.average_rate
        self.rate = float(rate) if rate else None
        kind = self._container.format.name
        self._timed = kind not in BARE and (kind != "avi" or self._stream.codec.name not in UNTIMED)
        self._ledger = ledger_of(self._container, self._stream)
        self._warnings = tuple(_remarks(self._stream, len(streams), self._ledger.doubt))
        self._until = 0.0

    def _opened(self) -> Any:
        import av

        try:
            if self.source.startswith("/dev/video"):
                return av.open(self.source, format="v4l2", timeout=PATIENCE_S)
            if self.live:
                options = {"rtsp_transport": "tcp"}
                return av.open(self.source, container_options=options, timeout=PATIENCE_S, metadata_errors="replace")
            _check_file(Path(self.source))
            options = {"protocol_whitelist": "file", "format_whitelist": FORMATS}
            bare = "mjpeg" if Path(self.source).suffix.lower() in MJPEG else None  # or it is taken for one image
            name = f"file:{self.source}"
            return av.open(name, format=bare, container_options=options, metadata_errors="replace")
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

        numbers, broke = count(1), ""
        pictures = Pictures(self._stream, timed=self._timed, ledger=self._ledger, live=self.live)
        try:
            for packet, torn in self._packets(pictures):
                yield from (self._frame(next(numbers), one) for one in pictures.of(packet, torn))
        except av.error.FFmpegError as error:
            broke = f"the source broke off: {error.strerror or type(error).__name__}"
        if not self.live:
            broke = broke or self._missing(pictures.count) or ("" if pictures.count else "the file holds no picture")
        yield from (self._frame(next(numbers), one) for one in pictures.rest(bool(broke)))
        if broke:
            yield Frame(next(numbers), None, None, broke, ready=time.perf_counter())

    def _packets(self, pictures: Pictures) -> Iterator[tuple[Any, bool]]:
        """The packets of the pictures, and whether something is missing right after one: then its end may be, too."""
        held = None
        for packet, missing in self._held_to_account():
            if held is not None:
                yield held, missing is not None
            if missing is not None:
                pictures.hole(missing)
            held = packet
            if self.live and held is not None:
                yield held, False
                held = None
        if held is not None:
            yield held, False

    def _held_to_account(self) -> Iterator[tuple[Any, int | None]]:
        """Packets of the pictures, with the number of those missing before, see ``Ledger``; None for a place alone."""
        import av

        patience = PLACES
        while True:
            try:
                for packet in self._container.demux():
                    patience = PLACES
                    self._reach(packet)
                    own = packet.size and packet.stream_index == self._stream.index
                    missing, known = self._ledger.missing(packet), self._ledger.knows(packet)
                    if own or missing is not None:
                        yield packet if own and known else None, missing
            except av.error.InvalidDataError:
                patience -= 1
                if self.live or not patience:
                    raise
                yield None, 0
            else:
                return

    def _frame(self, number: int, picture: Picture) -> Frame:
        at = self._time(number, picture)
        if picture.lost:
            reason = f"a packet does not decode, or builds on one that does not: {picture.lost}"
            return Frame(number, at, None, reason, ready=time.perf_counter())
        try:
            pixels, warnings = upright_rgb(picture.frame)
        except ImageError as error:
            return Frame(number, at, None, error.got, ready=time.perf_counter(), code=error.code or "damaged")
        return Frame(number, at, pixels, "", (*self._warnings, *warnings), time.perf_counter())

    def _time(self, number: int, picture: Picture) -> float | None:
        stream = self._stream
        if not self._timed:
            if (ticks := self._ledger.ticks(number)) is not None:
                return float(ticks * stream.time_base)
            rate = stream.average_rate or stream.guessed_rate
            return float((number - 1) / rate) if rate else None
        return None if picture.pts is None else float((picture.pts - self._zero) * stream.time_base)

    @property
    def _zero(self) -> int:
        """Where the container's clock stood at the first picture, where it runs on (MPEG-TS, MPEG-PS); else 0."""
        from av.format import Flags

        running = self._container.format.flags & Flags.ts_discont.value
        return (self._stream.start_time or 0) if running else 0

    def _reach(self, packet: Any) -> None:
        own = packet.stream_index == self._stream.index
        if packet.size and packet.pts is not None and (own or not self._stream.duration):
            self._until = max(self._until, float((packet.pts + (packet.duration or 0)) * packet.time_base))

    def _missing(self, packets: int) -> str:
        """What the container promised and did not hold; empty if it held all."""
        stream, base = self._stream, self._stream.time_base
        if self._container.format.name == "mpegts" and all(self._container.size % size for size in TS_PACKETS):
            return "the file breaks off within a packet of its transport stream"
        if (fewer := self._ledger.short(packets)) > 0:
            return f"the file breaks off: {fewer} frames that it lists are not in it"
        length, start = stream.duration, float((stream.start_time or 0) * base)
        if length is not None:
            length = float(length * base)
        elif self._container.duration:
            length, start = self._container.duration / 1_000_000, (self._container.start_time or 0) / 1_000_000
        until = self._until - start
        one = 1 / (self.rate or 25)
        slack = one / 2 if self._container.format.name.startswith("matroska") else max(SHORT_S, 2 * one)
        if length is None or until >= length - slack:
            return ""
        return f"the file breaks off after {until:.2f} s, and states a length of {length:.2f} s"

    def close(self) -> None:
        """Free the decoder. Closing twice is allowed."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _is_misnamed(stream: Any) -> bool:
    """Whether pictures that are said to be raw are too small for it."""
    context = stream.codec_context
    if context.name != "rawvideo":
        return False
    bits = context.width * context.height * context.format.bits_per_pixel
    return bool(0 < max((one.size for one in stream.index_entries), default=0) < bits // 8)


def _remarks(stream: Any, streams: int, doubt: str = "") -> Iterator[str]:
    """What a reader should know of every frame."""
    if doubt:
        yield f"{doubt}: numbers and times are off after a frame that went missing unnoticed"
    ratio = stream.sample_aspect_ratio
    if ratio and ratio != 1:
        yield f"pixels are not square: {float(1 / ratio):.3g} times as high as wide; boxes are in stored pixels"
    if streams > 1:
        yield f"the file has {streams} picture streams: the first was looked at"


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
