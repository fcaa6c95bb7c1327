"""What is analysed: image files, and of files with many frames those that were asked for."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from medprompt.core.errors import ImageError, InputError
from medprompt.core.files import short_name
from medprompt.core.frames import ALL_FRAMES, FramePolicy
from medprompt.core.kinds import VIDEO
from medprompt.images.decode import DICOM_SUFFIXES, SUFFIXES
from medprompt.images.file import ImageFile
from medprompt.video.read import is_video

Passed = Callable[[Path, str], None]
"""Told about each file of a folder that is passed over, and its kind."""


@dataclass(frozen=True)
class Source:
    """One picture to analyse: a file, or one of its ``frames`` (from 1).

    ``dicom`` and ``video`` are true where a look into the file said so.
    """

    path: Path
    frame: int = 1
    frames: int = 1
    dicom: bool = field(default=False, compare=False)
    video: bool = field(default=False, compare=False)

    @property
    def number(self) -> int | None:
        """The frame, where the file has several."""
        return self.frame if self.frames > 1 else None


def find_images(paths: Iterable[Path | str]) -> list[Path]:
    """List image files: files as given, folders searched to the bottom and sorted.

    In a folder a file counts by its suffix (``SUFFIXES``, ``DICOM_SUFFIXES``), or by DICOM's marker where it has
    another. Links to folders are not followed. A DICOMDIR stands for the files that it lists, wherever it is met.

    Raises:
        ImageError: A path that does not exist, or a folder without images.
        EngineError: A DICOM file that has to be looked into, and pydicom is not installed.
    """
    return list(_found(paths, _ignore))


def find_sources(
    paths: Iterable[Path | str], policy: FramePolicy = ALL_FRAMES, passed: Passed | None = None
) -> list[Source]:
    """List the pictures of files and folders, see ``find_images``; of DICOM files the frames that ``policy`` takes.

    A file that cannot be read, or is not there, is a source all the same: what is wrong with it is for the results to
    tell.

    Raises:
        ImageError: None of the paths exists, or a folder without images.
        InputError: A file ends before the first frame asked for.
        EngineError: A DICOM file, and pydicom is not installed.
    """
    given = list(map(Path, paths))
    found = _found(given, passed or _ignore, absent_too=any(path.exists() for path in given))
    looks = (look or _look_into(path, may_list=False)[path] or Source(path) for path, look in found.items())
    return [source for look in looks for source in _chosen(look, policy)]


def spread(count: int, limit: int) -> list[int]:
    """At most ``limit`` indices of ``count`` items, evenly spaced."""
    return sorted({round(index * (count - 1) / max(1, min(count, limit) - 1)) for index in range(min(count, limit))})


def _ignore(path: Path, kind: str) -> None:
    """What is passed over is nobody's concern."""


def _found(paths: Iterable[Path | str], passed: Passed, *, absent_too: bool = False) -> dict[Path, Source | None]:
    """The image files, and the first frame of those that had to be looked into."""
    found: dict[Path, Source | None] = {}
    for path in dict.fromkeys(map(Path, paths)):
        if path.is_dir():
            looks = _images_of_folder(path, passed)
        elif path.is_file():
            looks = _look_into(path, may_list=True)
        elif absent_too:
            looks = {path: Source(path)}
        else:
            raise ImageError("The image does not exist.", where=str(path), expected="a file or a folder of images")
        found |= {one: found.get(one) or look for one, look in looks.items()}
    return found


def _images_of_folder(folder: Path, passed: Passed) -> dict[Path, Source | None]:
    found: dict[Path, Source | None] = {}
    kinds: Counter[str] = Counter()

    def pass_over(path: Path, kind: str) -> None:
        kinds[kind] += 1
        passed(path, kind)

    for path in sorted(_files_below(folder, pass_over)):
        if path.suffix.lower() in SUFFIXES | DICOM_SUFFIXES:
            found[path] = None
        elif isinstance(looks := _dicom_or_kind(path), str):
            pass_over(path, looks)
        else:
            found |= looks
    if not found:
        raise ImageError(
            "The folder has no images.",
            where=str(folder),
            expected=f"files ending in {', '.join(sorted(SUFFIXES | DICOM_SUFFIXES))}, or DICOM files",
            got=", ".join(f"{count} {kind}" for kind, count in kinds.most_common()),
        )
    return found


def _files_below(folder: Path, pass_over: Passed) -> Iterator[Path]:
    """The regular files of a folder and those below; the rest is passed over: nothing of it is opened."""

    def refused(error: OSError) -> None:
        pass_over(Path(error.filename), "unreadable")

    for place, folders, names in os.walk(folder, onerror=refused):
        for path in (Path(place, name) for name in folders):
            if path.is_symlink():
                pass_over(path, "link to a folder")
        for path in (Path(place, name) for name in names):
            if path.is_file():
                yield path
            else:
                pass_over(path, "pipe, device or broken link")


def _dicom_or_kind(path: Path) -> dict[Path, Source | None] | str:
    """What a file of another suffix holds: DICOM, or the name of what it is."""
    try:
        file = ImageFile(path)
    except ImageError:
        return "unreadable"
    with file:
        if file.is_dicom:  # PS3.10, 8.6: the file of a directory is called DICOMDIR.
            return _first_of(file, may_list=path.name.upper() == "DICOMDIR")
        if file.kind.formats:
            return f"{file.kind.name} under another name"
        return file.kind.name or (VIDEO.name if is_video(str(path)) else "other")


def _look_into(path: Path, *, may_list: bool) -> dict[Path, Source | None]:
    """The first frame of a file; or the files that it lists, which are not looked into."""
    try:
        file = ImageFile(path)
    except ImageError:
        return {path: Source(path)}
    with file:
        return _first_of(file, may_list=may_list)


def _first_of(file: ImageFile, *, may_list: bool) -> dict[Path, Source | None]:
    listed = file.listed() if may_list else []
    first = Source(file.path, frames=file.frames, dicom=file.is_dicom, video=file.kind == VIDEO)
    return dict.fromkeys(listed) or {file.path: first}


def _chosen(look: Source, policy: FramePolicy) -> Iterator[Source]:
    chosen = policy.of(look.frames) if look.frames > 1 else [1]
    if not chosen:
        raise InputError(
            "The file has none of the frames asked for.",
            where=str(look.path),
            expected=f"frame {policy.first} and later",
            got=f"{look.frames} frames",
            fix="choose other frames=, or leave the file out",
        )
    for frame in chosen:
        yield replace(look, frame=frame)


def unique_stems(frames: Iterable[tuple[Path, int | None]]) -> Iterator[str]:
    """A file name without suffix for what is made of each file, or frame of it; files of one name get a number."""
    taken: set[str] = set()
    for path, frame in frames:
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
    return short_name(stem) if frame is None else f"{short_name(stem)}-frame{frame}"
