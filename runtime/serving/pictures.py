"""A picture out of a request: read as `medprompt infer` reads files, or refused with the reason."""

from __future__ import annotations

from pathlib import Path

from medprompt.core.errors import ImageError
from medprompt.core.picture import Picture
from medprompt.images.file import ImageFile


def picture_from_bytes(content: bytes, name: str = "image", frame: int | None = None) -> Picture:
    """Decode a file's bytes, see ``medprompt.images.read.load_picture``.

    Args:
        content: The file as it lies on disk.
        name: What errors call it; a file's own name may be a patient's.
        frame: Which frame of a DICOM file, from 1. None where it has one: nobody must take an answer about the first
            of many for one about all.

    Raises:
        ImageError: It may not be analysed, or cannot be read; or it has several frames, and none is named.
        EngineError: A DICOM file, and pydicom is not installed.
    """
    with ImageFile(Path(name), content=content) as file:
        if frame is None and file.frames > 1:
            raise ImageError(
                "The file has several frames, and a request is about one.",
                where=name,
                expected=f"frame=1 … {file.frames}",
                got="no frame",
                fix="ask for each frame by itself",
            )
        return file.picture(frame or 1)
