"""An image file, opened once: its kind, hash, frames and pixels are of the same bytes."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from functools import cached_property, partial
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Self

from medprompt.core.errors import ImageError, InputError, need_module
from medprompt.core.kinds import HEAD_BYTES, kind_of
from medprompt.core.picture import Picture
from medprompt.images.decode import picture_from_stream
from medprompt.images.shown import remarks_on_shown
from medprompt.images.unreadable import unreadable

if TYPE_CHECKING:
    from medprompt.dicom.header import Header

need_dicom = partial(need_module, "pydicom", "Reading DICOM files", "pydicom", "dicom")
"""Raises an ``EngineError`` that names the extra where pydicom is not installed."""


def check_frame(frame: int, where: str) -> None:
    """Refuse a frame of what has none.

    Raises:
        InputError: Another frame than the first was asked for.
    """
    if frame != 1:
        raise InputError(
            "Only DICOM files have frames here; of other files the first page is read.",
            where=f"{where}: frame",
            expected="1",
            got=repr(frame),
            fix="save the page as a file of its own",
        )


MAX_HELD = 1 << 28
"""Bytes of a file that may be held in memory; a larger one is read where it lies, through the one handle."""


def _opened(path: Path) -> BufferedReader:
    """A regular file; a pipe or a device might never answer, or never end.

    Raises:
        OSError: It is no such file, or cannot be opened.
    """
    if path.exists() and not path.is_file():
        raise OSError("not a regular file")
    return path.open("rb")


class ImageFile:
    """An image or DICOM file, opened once; a context manager that closes it.

    Attributes:
        path: The file.
        stream: Its bytes.
        is_dicom: Whether it has DICOM's marker, ``DICM`` after 128 bytes (PS3.10, 7.1).
        kind: What it is otherwise, by its first bytes.
    """

    def __init__(self, path: Path, *, hold: bool = False, content: bytes | None = None) -> None:
        """Open the file.

        Args:
            path: The file.
            hold: Read it into memory at once, up to ``MAX_HELD`` bytes. Whoever writes to the file meanwhile then
                cannot bring it about that the hash is of other bytes than the pixels.
            content: What is in it, where it came otherwise than as a file; ``path`` is then what errors call it.

        Raises:
            ImageError: It cannot be opened; without a code, for nothing is known about what is in it.
        """
        self.path = path
        try:
            self.stream: BufferedReader | BytesIO = _opened(path) if content is None else BytesIO(content)
            if hold and content is None and os.fstat(self.stream.fileno()).st_size <= MAX_HELD:
                with self.stream as handle:
                    self.stream = BytesIO(handle.read())
            head = self.stream.read(HEAD_BYTES)
        except (OSError, ValueError) as error:  # a name with a null byte is a ValueError
            raise unreadable(path, None, str(error)) from error
        self.is_dicom = head[128:132] == b"DICM"
        self.kind = kind_of(head)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the file back; what was read of it stays."""
        if "header" in self.__dict__:
            self.header.close()
        self.stream.close()

    @cached_property
    def sha256(self) -> str:
        """Hex SHA-256 of the bytes; empty where they cannot be read."""
        try:
            self.stream.seek(0)
            return hashlib.file_digest(self.stream, "sha256").hexdigest()
        except OSError:
            return ""

    @cached_property
    def header(self) -> Header:
        """What a DICOM file says about its pixels; all frames share it.

        Raises:
            ImageError: The file may not be analysed; ``code`` says why.
            EngineError: pydicom is not installed.
        """
        need_dicom()
        from medprompt.dicom.header import header_from_stream

        return header_from_stream(self.path, self.stream)

    @property
    def frames(self) -> int:
        """How many frames a DICOM file has; 1 for other files, and where it cannot be told."""
        try:
            return self.header.frames if self.is_dicom else 1
        except ImageError:
            return 1

    def listed(self) -> list[Path]:
        """The files that a DICOMDIR lists; none where it is none.

        Raises:
            ImageError: A path in it leaves its folder.
            EngineError: pydicom is not installed.
        """
        if not self.is_dicom:
            return []
        need_dicom()
        from medprompt.dicom.directory import files_of_directory

        return files_of_directory(self.path, self.stream)

    def picture(self, frame: int = 1) -> Picture:
        """The pixels, of a DICOM file those of a frame (from 1); see ``medprompt.images.read.load_picture``.

        Raises:
            ImageError: The file may not be analysed, or cannot be read.
            EngineError: A DICOM file, and pydicom is not installed.
        """
        picture = self._picture(frame)
        return replace(picture, warnings=(*picture.warnings, *remarks_on_shown(picture.pixels)))

    def _picture(self, frame: int) -> Picture:
        if not self.is_dicom:
            check_frame(frame, str(self.path))
            self.stream.seek(0)
            return picture_from_stream(self.path, self.stream)
        header = self.header
        from medprompt.dicom.pixels import picture_of_frame

        return picture_of_frame(header, frame)
