"""Where the images lie that labels name."""

from __future__ import annotations

import filecmp
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from medprompt.core.files import real_path
from medprompt.data.findings import Finding
from medprompt.images.decode import DICOM_SUFFIXES, SUFFIXES

IMAGE_FOLDERS = ("", "images", "JPEGImages", "data")
"""Where images are looked for, from the folder of the labels, after the folder that is called like the label file."""

SPLITS = ("train", "val", "valid", "test")
"""Looked in last, and only where no folder is called like the label file: a name may be in each of them."""

ALIASES = {"val": ("valid", "validation"), "valid": ("val", "validation"), "validation": ("val", "valid")}

LABEL_FOLDERS = frozenset({"annotations", "annotation", "labels", "ann", "coco"})
"""Folders of label files: of these the images lie in folders beside."""

NO_SPLIT = re.compile(r"^_?(instances|annotations?|labels?|person_keypoints)[_.-]*|[_.-]*(annotations?|labels?|coco)$")
"""What the name of a label file has around that of its split."""

ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
"""What stands before a path in an address, such as https:// and s3://."""

Listing = tuple[dict[str, Path], dict[str, list[Path]]]
"""The files of a folder by name, and its images by name without suffix; names in Unicode's composed form."""


@dataclass(frozen=True)
class Found:
    """The file that labels mean.

    Attributes:
        path: None where there is none.
        rivals: Other files, with other content, that answer to the name as well.
        renamed: Whether it has another suffix than the labels name.
    """

    path: Path | None
    rivals: tuple[Path, ...] = ()
    renamed: bool = False


@dataclass
class ImageFinder:
    """Finds images by the name that labels give them: as written, then with less and less of the folders before it.

    Backslashes and percent signs of other programs, and both Unicode forms of a letter, are understood.

    Attributes:
        own: Folders that can only mean this set: what is found in them is it.
        others: Folders where two files of one name are rivals.
    """

    own: Sequence[Path]
    others: Sequence[Path]
    _listings: dict[Path, Listing] = field(default_factory=dict)

    def find(self, name: str) -> Found:
        """The file that labels call ``name``."""
        for variant, dropped in _variants(name):
            for places in (self.own, self.others):
                if found := self._among([place for place in places if not _other_split(place, dropped)], variant):
                    return found
        return Found(None)

    def looked_in(self) -> str:
        """The folders, for messages."""
        places = [place for place in (*self.own, *self.others) if place.is_dir()]
        return ", ".join(map(str, dict.fromkeys(places))) or ", ".join(map(str, self.others))

    def _among(self, places: Sequence[Path], name: str) -> Found | None:
        for renamed in (False, True):
            hits = [hit for place in places for hit in self._hits(place, name, renamed)]
            if hits:
                return Found(hits[0], tuple(_others(hits)), renamed)
        return None

    def _hits(self, place: Path, name: str, renamed: bool) -> list[Path]:
        path = place / name
        by_name, by_stem = self._listing(path.parent)
        whole = unicodedata.normalize("NFC", path.name)
        suffix = path.suffix.lower()
        if suffix not in SUFFIXES | DICOM_SUFFIXES:  # frame.0001 is the name of frame.0001.png, and not of frame.png
            return [] if renamed else [by_name[whole]] if whole in by_name else by_stem.get(whole, [])
        if not renamed and whole in by_name:
            return [by_name[whole]]
        alike = by_stem.get(unicodedata.normalize("NFC", path.stem), [])
        return [file for file in alike if (file.suffix.lower() != suffix) == renamed]

    def _listing(self, folder: Path) -> Listing:
        if folder not in self._listings:
            self._listings[folder] = files_by_name(folder)
        return self._listings[folder]


def located(finder: ImageFinder, name: str, where: str) -> tuple[Path | None, list[Finding]]:
    """The file of an image, and what there is to say about it."""
    found = finder.find(name)
    if found.path is None:
        return None, [Finding("missing_image", where, f"{name}; looked in {finder.looked_in()}")]
    if found.rivals:
        rivals = ", ".join(map(str, (found.path, *found.rivals)))
        return found.path, [Finding("ambiguous_image", where, f"{name} may be {rivals}")]
    if found.renamed:
        return found.path, [Finding("other_name", where, f"{name} is {found.path.name}")]
    return found.path, []


def files_by_name(folder: Path) -> Listing:
    """List a folder; one that is not there is empty. Hidden files, as macOS lays beside images, are none."""
    by_name: dict[str, Path] = {}
    by_stem: dict[str, list[Path]] = defaultdict(list)
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if not entry.name.startswith(".") and _is_file(entry))
    except OSError:
        return {}, {}
    for name in names:
        path = folder / name
        by_name[unicodedata.normalize("NFC", name)] = path
        if path.suffix.lower() in SUFFIXES | DICOM_SUFFIXES:
            by_stem[unicodedata.normalize("NFC", path.stem)].append(path)
    return by_name, by_stem


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Whether it is a file or leads to one: a circle of links does not, and is no reason to pass over the others."""
    try:
        return entry.is_file()
    except OSError:
        return False


def finder_of_coco(path: Path, images: Path | None = None) -> ImageFinder:
    """Look for the images of a COCO file: in ``images`` if that is given, else about the file."""
    tops = [images] if images else [path.parent]
    if not images and path.parent.name.lower() in LABEL_FOLDERS:
        tops.append(real_path(path.parent).parent)
    split = NO_SPLIT.sub("", path.stem)
    names = [split, *ALIASES.get(split, ())] if split else []
    own = [top / above / name for top in tops for name in names for above in ("", "images", "data")]
    others = [top / folder for top in tops for folder in IMAGE_FOLDERS]
    if not any(place.is_dir() for place in own):
        others += [top / above / name for top in tops for above in ("", "images") for name in SPLITS]
    return ImageFinder(own, others)


def names_of_path(name: str) -> Iterator[tuple[str, str]]:
    """A path as labels write it, then with less and less of the folders before it; and the last folder left out."""
    yield name, ""
    parts = PurePosixPath(name).parts
    for first in range(1, len(parts)):
        yield str(PurePosixPath(*parts[first:])), parts[first - 1]


def _variants(name: str) -> Iterator[tuple[str, str]]:
    """What a name may mean, likeliest first, and the last folder left out."""
    slashed = name.replace("\\", "/")
    ways = (name, name.strip(), slashed, unquote(slashed).strip(), _path_of_address(slashed))
    texts = [text for text in dict.fromkeys(ways) if text.strip("/. ")]
    yield from ((text, "") for text in texts)
    for text in texts:
        yield from list(names_of_path(text))[1:]


def _path_of_address(name: str) -> str:
    """The path of an address of a store or a server, without the signature that may follow it; empty of another."""
    return unquote(urlsplit(name).path).strip() if ADDRESS.match(name) else ""


def _other_split(place: Path, dropped: str) -> bool:
    """Whether a folder is that of another split than the one that labels name, and that was left out."""
    splits = {*SPLITS, *ALIASES}
    return dropped in splits and place.name in splits and place.name not in (dropped, *ALIASES.get(dropped, ()))


def _others(hits: Sequence[Path]) -> Iterator[Path]:
    """Files that are not the first under another path, nor copies of it."""
    for hit in hits[1:]:
        if not hit.samefile(hits[0]) and not filecmp.cmp(hits[0], hit, shallow=False):
            yield hit
