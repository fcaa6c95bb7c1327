"""The error of an image file that cannot be read."""

from __future__ import annotations

from pathlib import Path

from medprompt.core.errors import ImageError, RejectCode
from medprompt.core.kinds import IMAGE_SUFFIXES


def unreadable(path: Path, code: RejectCode | None, got: str, fix: str = "") -> ImageError:
    """An image file that cannot be read; without a code where the operating system says so."""
    return ImageError(
        "The image cannot be read.",
        code=code,
        where=str(path),
        expected=f"a whole image file ({', '.join(sorted(IMAGE_SUFFIXES))}, DICOM)",
        got=got,
        fix=fix or "open it in a viewer and save it again, or leave it out",
    )
