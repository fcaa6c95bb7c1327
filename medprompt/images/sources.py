"""What is analysed: image files, and of files with many frames those that were asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from medprompt.core.errors import ImageError, InputError
from medprompt.dicom.frames import ALL_FRAMES, FramePolicy
from medprompt.images.read import DICOM_SUFFIXES, SUFFIXES, is_dicom, need_dicom


@dataclass(frozen=True)
class Source:
    """One picture to analyse.

    Attributes:
        path: The file.
        frame: Which of its frames, from 1.
        frames: How many it has.
    """

    path: Path
    frame: int = 1
    frames: int = 1

    @property
    def number(self) -> int | None:
        """The frame, where the file has several."""
        return self.frame if self.frames > 1 else None


def sources_from_paths(paths: Iterable[Path], policy: FramePolicy = ALL_FRAMES) -> list[Source]:
    """List the pictures of files, see ``medprompt.images.read.find_images``.

    A file that cannot be read is a source all the same: what is wrong with it is for the results to tell.

    Args:
        paths: Files.
        policy: Which frames of DICOM files with several.

    Raises:
        InputError: A file ends before the first frame asked for.
        EngineError: A DICOM file, and pydicom is not installed.
    """
    return [source for path in paths for source in _sources_of_file(path, policy)]


def _sources_of_file(path: Path, policy: FramePolicy) -> Iterator[Source]:
    count = _frame_count(path)
    chosen = policy.of(count) if count > 1 else [1]
    if not chosen:
        raise InputError(
            "The file has none of the frames asked for.",
            where=str(path),
            expected=f"frame {policy.first} and later",
            got=f"{count} frames",
            fix="choose other --frames, or leave the file out",
        )
    for frame in chosen:
        yield Source(path, frame, count)


def _frame_count(path: Path) -> int:
    if not is_dicom(path):
        return 1
    need_dicom()
    from medprompt.dicom.header import header_from_file

    try:
        return header_from_file(path).frames
    except ImageError:
        return 1


def unique_stems(places: Iterable[tuple[Path, int | None]]) -> Iterator[str]:
    """A file name without suffix for what is made of each picture; files of one name get a number.

    Args:
        places: File, and frame where it has several.
    """
    taken: set[str] = set()
    for path, frame in places:
        stem = _stem(path, frame)
        name, number = stem, 1
        while name in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name)
        yield name


def _stem(path: Path, frame: int | None) -> str:
    """The file's name without the suffix of an image, for a name such as 1.2.840.3 has none; then the frame."""
    stem = path.stem if path.suffix.lower() in SUFFIXES | DICOM_SUFFIXES else path.name
    return stem if frame is None else f"{stem}-frame{frame}"
