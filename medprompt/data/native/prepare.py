"""From a data set as its authors publish it to COCO files with images beside them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from medprompt.core.errors import DataError, ImageError
from medprompt.core.files import real_path, write_json
from medprompt.core.masks import Masks
from medprompt.core.outputs import folder_written_aside
from medprompt.core.progress import Progress, Silent
from medprompt.data.native import CONVERTERS
from medprompt.data.native.sample import Job, Sample
from medprompt.data.outlines import Outline
from medprompt.data.registry import KnownSet, Part, Split

Layout = Mapping[Split, Part]


@dataclass(frozen=True)
class Prepared:
    """What was made: how many images and boxes of each split.

    Attributes:
        left_out: A line for each image or volume that could not be read.
        notes: What else a reader should know: splits that are not there, counts that differ, small components.
    """

    folder: Path
    images: Mapping[str, int]
    boxes: Mapping[str, int]
    left_out: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass
class _Made:
    """A split as it grows: its COCO file, and its images in ``folder/images/SPLIT``."""

    folder: Path
    split: str
    copy: bool
    images: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)
    small: int = 0
    _names: set[str] = field(default_factory=set)

    def add(self, sample: Sample, pixels: Sequence[Mapping[str, Any]]) -> None:
        """Write the picture of a sample, and note it with its boxes, of each what ``pixels`` says besides."""
        height, width = sample.size_hw
        image_id = len(self.images) + 1
        self.images.append({"id": image_id, "file_name": self._put(sample), "height": height, "width": width})
        self.small += sample.small
        for index, (box, class_id) in enumerate(
            zip(sample.boxes_xyxy.tolist(), sample.class_ids.tolist(), strict=True)
        ):
            left, top, right, bottom = (round(side, 3) for side in box)
            wide, high = round(right - left, 3), round(bottom - top, 3)
            ids = {"id": len(self.annotations) + 1, "image_id": image_id, "category_id": class_id + 1}
            shape = {
                "bbox": [left, top, wide, high],
                "area": round(wide * high, 3),
                "iscrowd": int(index in sample.crowds),
            }
            self.annotations.append({**ids, **shape, **pixels[index]})

    def _put(self, sample: Sample) -> str:
        """Write a picture or leave it where it is; its name in the COCO file."""
        target = self.folder / "images" / self.split / sample.name
        if sample.name in self._names:
            raise DataError("Two images of a split have one name.", where=self.split, got=sample.name, fix="rename one")
        self._names.add(sample.name)
        if isinstance(sample.picture, Path) and not self.copy:
            return str(real_path(sample.picture))
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(sample.picture, Path):
            shutil.copyfile(sample.picture, target)
        else:
            Image.fromarray(sample.picture).save(target)
        return target.relative_to(self.folder).as_posix()


def prepare_set(
    known: KnownSet,
    source: Path,
    out: Path,
    *,
    copy: bool = True,
    strict: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> Prepared:
    """Write ``OUT/train.json`` and so on, images in ``OUT/images/SPLIT/``, and ``OUT/about.json``.

    The same unpacked folder gives the same bytes. The output appears whole or not at all; ``force`` replaces what is
    there. Without ``copy`` the COCO files name image files where they are; slices of volumes are always written. With
    ``strict``, an image or volume that cannot be read stops it, instead of being left out.

    Raises:
        DataError: The folder does not hold the data set, or its labels are damaged; with ``strict`` any fault.
        EngineError: A package of the extra ``data`` is not installed.
        InputError: ``out`` lies in ``source``, exists, or cannot be written to.
    """
    made: dict[str, _Made] = {}
    left_out: list[str] = []
    aside_of = folder_written_aside(out, "a prepared data set", inputs=[source], force=force)
    with _telling_where_to_get(known), aside_of as aside:
        layout, notes = layout_of_folder(known, source)
        for split, part in layout.items():
            jobs = CONVERTERS[known.native](known, source, part)
            (progress or Silent()).step(f"{known.name} {split}", len(jobs))
            made[split] = _Made(aside, split, copy)
            for job in jobs:
                left_out.extend(_done(job, made[split], source, strict))
                (progress or Silent()).advance()
            notes += _notes(part, made[split])
            _write_coco(known, made[split])
        prepared = Prepared(
            out,
            {split: len(each.images) for split, each in made.items()},
            {split: len(each.annotations) for split, each in made.items()},
            tuple(left_out),
            tuple(notes),
        )
        if not any(prepared.images.values()):
            raise DataError("No image could be read.", where=str(source), got=left_out[0] if left_out else "none")
        write_json(aside / "about.json", _about(known, prepared), indent=None, allow_nan=False)
    return prepared


@contextmanager
def _telling_where_to_get(known: KnownSet) -> Iterator[None]:
    """What to do about a set that is not as it was published."""
    try:
        yield
    except DataError as error:
        error.fix = error.fix or f"mend that file, or get the set anew: {known.obtain}"
        raise


def _done(job: Job, made: _Made, source: Path, strict: bool) -> list[str]:
    """Read one image or volume into the split; a line if it could not be."""
    try:
        samples = [(sample, _pixels(sample)) for sample in job.make()]
    except (DataError, ImageError) as error:
        if strict:
            raise
        return [f"{job.name.replace(f'{source}/', '')}: {error.problem} {error.got}".rstrip()]
    for sample, pixels in samples:
        made.add(sample, pixels)
    return []


def _pixels(sample: Sample) -> list[dict[str, Any]]:
    """Of each object its pixels, as its labels state them, and how many they are; nothing where only a box is known."""
    return [
        {} if segmentation is None else _described(Outline(segmentation, sample.name), sample.size_hw)
        for segmentation in sample.segmentations or [None] * len(sample.boxes_xyxy)
    ]


def _described(outline: Outline, size_hw: tuple[int, int]) -> dict[str, Any]:
    (area,) = Masks.of_spans([outline.spans(size_hw)], size_hw).areas.tolist()
    return {"segmentation": outline.segmentation, "area": area}


def layout_of_folder(known: KnownSet, source: Path) -> tuple[Layout, list[str]]:
    """How the set lies in a folder: the first layout that is there as a whole, else the first that is in part.

    Returns:
        The splits that are there, with those of their folders that are; and a line for each thing that is not.

    Raises:
        DataError: No layout is there.
    """
    best: tuple[Layout, list[str]] | None = None
    for layout in known.layouts:
        there: dict[Split, Part] = {}
        absent: list[str] = []
        for split, part in layout.items():
            folders = tuple(folder for folder in part.folders if (source / folder).is_dir())
            lost = [folder for folder in part.folders if folder not in folders]
            lost += [name for name in _files(part) if not (source / name).exists()]
            absent += [f"{split}: no {name}" for name in lost]
            if folders and all((source / name).exists() for name in _files(part)):
                there[split] = part.model_copy(update={"images": folders, "count": None if lost else part.count})
        if there and not absent:
            return there, []
        if there and best is None:
            best = there, absent
    if best is None:
        raise _wrong_folder(known, source)
    return best


def _files(part: Part) -> list[str]:
    """What a split needs beside its images."""
    return [part.labels, *([part.names.partition("#")[0]] if part.names else [])]


def _wrong_folder(known: KnownSet, source: Path) -> DataError:
    ways = [
        ", ".join(dict.fromkeys(name for part in layout.values() for name in (*part.folders, *_files(part))))
        for layout in known.layouts
    ]
    names = sorted(path.name for path in source.iterdir()) if source.is_dir() else []
    return DataError(
        f"The folder does not hold {known.title}.",
        where=str(source),
        expected=", or ".join(ways),
        got=", ".join(names[:8]) + (", …" if len(names) > 8 else "") if names else "no folder, or an empty one",
        fix=f"unpack it, and name the folder that holds these; to get it: {known.obtain}",
    )


def _notes(part: Part, made: _Made) -> list[str]:
    notes = []
    if part.count is not None and part.count != len(made.images):
        notes.append(f"{made.split}: {part.count} images are published, {len(made.images)} are here")
    if made.small:
        notes.append(f"{made.split}: {made.small} small components of masks are no objects")
    return notes


def _write_coco(known: KnownSet, made: _Made) -> None:
    categories = [{"id": index, "name": label} for index, label in enumerate(known.labels, start=1)]
    info = {"description": known.title, "url": known.home, "terms": known.terms}
    content = {"info": info, "images": made.images, "annotations": made.annotations, "categories": categories}
    write_json(made.folder / f"{made.split}.json", content, indent=None, allow_nan=False)


def _about(known: KnownSet, prepared: Prepared) -> dict[str, Any]:
    made = {name: value for name, value in vars(prepared).items() if name != "folder"}
    return {**known.model_dump(include={"name", "title", "modality", "terms", "home", "split"}), **made}
