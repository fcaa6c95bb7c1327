"""A video inside a DICOM file (PS3.5, 8.2.5 … 8.2.8): MPEG-2, H.264 or HEVC, whatever container it lies in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from medprompt.dicom.pixel_data import PixelData, read_span
from medprompt.video.ledgers import NO_CONTAINER
from medprompt.video.read import Frame, Video

_PIECE = 1 << 20
"""Bytes that are copied at a time."""


class Clip:
    """The frames of a video, in order; asking for an earlier one starts again.

    FFmpeg reads files: the video is copied to the system's temporary folder, where no other user can read it, until
    ``close``.

    Attributes:
        frames: How many there are, or ought to be by the file's statement.
        notes: What a reader of the results should know of every frame.

    Raises:
        ImageError: It cannot be read.
    """

    def __init__(self, pixel_data: PixelData) -> None:
        with ExitStack() as stack:
            self._path = Path(stack.enter_context(TemporaryDirectory(prefix="medprompt-"))) / "clip"
            _copy(pixel_data, self._path)
            self._video = Video(str(self._path))
            stack.callback(lambda: self._video.close())
            self._frames: Iterator[Frame] = iter(self._video)
            self._shown: Frame | None = None
            self._number = 0
            stated = pixel_data.frames
            holds = stated if _packets(self._path) == stated else self._counted()
            self.frames = max(stated, holds)
            self._complete = holds == stated
            self.notes = (
                () if holds == stated else (f"the video inside holds {holds} frames, the file states {stated}",)
            )
            self._stack = stack.pop_all()

    def _counted(self) -> int:
        count = sum(1 for _ in self._frames)
        self._rewind()
        return count

    def _rewind(self) -> None:
        self._video.close()
        self._video = Video(str(self._path))
        self._frames, self._number = iter(self._video), 0

    def frame(self, number: int) -> Frame | None:
        """A frame (from 1); None where the video ends before it."""
        if number < self._number:
            self._rewind()
        while self._number < number:
            following = next(self._frames, None)
            if following is None:
                return None
            # What a bare stream leaves open the file has answered: it states as many frames.
            kept = [one for one in following.warnings if not (self._complete and one.startswith(NO_CONTAINER))]
            self._shown, self._number = replace(following, warnings=tuple(kept)), self._number + 1
        return self._shown

    def close(self) -> None:
        """Free the decoder and delete the copy."""
        self._stack.close()


def _copy(pixel_data: PixelData, path: Path) -> None:
    with path.open("wb") as file:
        for start, end in (span for frame in pixel_data.spans for span in frame):
            for at in range(start, end, _PIECE):
                file.write(read_span(pixel_data.element.stream, (at, min(at + _PIECE, end))))


def _packets(path: Path) -> int:
    """Packets of pictures, which are read without being decoded."""
    import av

    from medprompt.video.read import FORMATS

    try:
        with av.open(str(path), container_options={"protocol_whitelist": "file", "format_whitelist": FORMATS}) as file:
            return sum(1 for packet in file.demux(video=0) if packet.size)
    except av.error.FFmpegError:
        return 0
