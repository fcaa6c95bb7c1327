"""A video of what was found: the frames that were taken, with their boxes, at the times they had."""

from __future__ import annotations

from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

from PIL import Image, ImageDraw, ImageFont

from medprompt.core.detections import Detections
from medprompt.core.errors import InputError
from medprompt.core.files import atomic_write
from medprompt.core.output_kinds import Kind
from medprompt.core.overlay import draw_overlay
from medprompt.video.read import Frame, need_video

KINDS = {".mp4": ("mp4", "mpeg4"), ".webm": ("webm", "libvpx")}
"""Container and encoder by suffix. Browsers play the second; players play both."""

CLOCK = Fraction(1, 1000)
BITS_PER_PIXEL = 0.25

COMMENT = "boxes by medprompt"
"""What a video of ours says of its origin, so that it is known from another's."""


def _foreign(path: Path) -> str:
    import av

    try:
        with av.open(str(path)) as container:
            metadata = {name.lower(): text for name, text in container.metadata.items()}
    except av.FFmpegError:
        return str(path)
    return "" if metadata.get("comment") == COMMENT else str(path)


ANNOTATED = Kind("an annotated video", _foreign)


class AnnotatedVideo:
    """Frames in, a video file out, whole or not at all. A context manager.

    All frames get the size of the first one. A frame that failed is shown with a bar that says so, never as one
    without findings.

    Args:
        path: ``.mp4`` (MPEG-4) or ``.webm`` (VP8).
        rate: Frames a second, for frames without a time; 25 where None.

    Raises:
        InputError: Another suffix, or a path that cannot be written to.
        EngineError: PyAV is not installed.
    """

    def __init__(self, path: Path, rate: float | None) -> None:
        need_video()
        if path.suffix.lower() not in KINDS:
            raise InputError(
                "The annotated video cannot be written in this format.",
                where=str(path),
                expected=" or ".join(KINDS),
                got=path.suffix or "no suffix",
                fix="name it with one of these suffixes",
            )
        self.path, self.rate = path, rate or 25.0
        self._stack = ExitStack()
        self._container: Any = None
        self._stream: Any = None
        self._last = -1

    def __enter__(self) -> Self:
        import av

        container, _ = KINDS[self.path.suffix.lower()]
        self._aside = self._stack.enter_context(atomic_write(self.path))
        self._container = self._stack.enter_context(av.open(str(self._aside), "w", format=container))
        self._container.metadata["comment"] = COMMENT
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        if kind is None:
            if self._stream is None:
                self._begin((2, 2))
            self._container.mux(self._stream.encode(None))
        self._stack.__exit__(kind, *rest)

    def add(self, frame: Frame, found: Detections | None) -> None:
        """Draw and encode one frame, unless it has no pixels; None was found where it was not analysed."""
        import av

        make: Any = av.VideoFrame.from_image
        if frame.pixels is None:
            return
        picture = _failed(frame.pixels) if found is None else draw_overlay(frame.pixels, found)
        if self._stream is None:
            self._begin(picture.size)
        size = (self._stream.width, self._stream.height)
        encoded = make(picture if picture.size == size else picture.resize(size))
        encoded.pts, encoded.time_base = self._next(frame), CLOCK
        self._container.mux(self._stream.encode(encoded))

    def _begin(self, size: tuple[int, int]) -> None:
        _, encoder = KINDS[self.path.suffix.lower()]
        width, height = (max(2, side - side % 2) for side in size)
        options = {"deadline": "realtime", "cpu-used": "8"} if encoder == "libvpx" else {}
        stream = self._container.add_stream(encoder, rate=round(self.rate) or 1, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.bit_rate = round(width * height * self.rate * BITS_PER_PIXEL)
        stream.codec_context.time_base = CLOCK
        self._stream = stream

    def _next(self, frame: Frame) -> int:
        """The frame's time in ``CLOCK``, later than that of the one before."""
        at = frame.time_s if frame.time_s is not None else (frame.number - 1) / self.rate
        self._last = max(self._last + 1, round(at / CLOCK))
        return self._last


def _failed(pixels: Any) -> Image.Image:
    picture = Image.fromarray(pixels)
    pen = ImageDraw.Draw(picture)
    tall = max(12, picture.height // 20)
    pen.rectangle((0, 0, picture.width, tall + 4), fill="#D55E00")
    pen.text((3, 1), "NOT ANALYSED", fill="white", font=ImageFont.load_default(tall))
    return picture
