"""Reports and segmentations as files: a report for each analysed DICOM frame, a segmentation for each image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from medprompt.core.errors import ImageError, InputError, need_module
from medprompt.core.files import atomic_write
from medprompt.core.output_kinds import file_kind
from medprompt.core.progress import Progress, Silent
from medprompt.images.file import ImageFile
from medprompt.images.sources import Source, unique_stems
from medprompt.results.run import Item, Run

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from medprompt.reports.read import Report
    from medprompt.reports.source import ReportSource

OURS = r".{{128}}DICM.*\x08\x00\x60\x00CS{}.*\x08\x00\x70\x00LO\x0a\x00medprompt "
"""DICOM of a modality (0008,0060), with the manufacturer (0008,0070) that we state, in explicit little endian."""

REPORT = file_kind("a structured report", OURS.format(r"\x02\x00SR"))
SEGMENTATION = file_kind("a segmentation", OURS.format(r"\x04\x00SEG "))

MAX_KEPT = 10_000
"""Images of a run whose patient and study are kept, about 9 KB each; those of others are read again for the report."""


@dataclass(frozen=True)
class Reports:
    """What became of a run's reports, or of its segmentations.

    Attributes:
        written: Files, in the order of their items; those that were there already are among them.
        missing: Analysed DICOM frames, or images, without one, each with the reason.
        others: How many analysed items are of no DICOM file: nothing can refer to them.
        outdated: Files from before under the names of items that have none now.
        empty: Of segmentations: analysed DICOM images in which nothing was found, and which have none for that.
        unplaced: Of segmentations: those whose image does not say where its pixels lie in the patient.
    """

    written: tuple[Path, ...]
    missing: tuple[tuple[Item, str], ...]
    others: int
    outdated: tuple[Path, ...]
    empty: int = 0
    unplaced: int = 0


need_reports = partial(need_module, "highdicom", "DICOM structured reports", "highdicom", "dicom")
"""Raises an ``EngineError`` that names the extra where highdicom is not installed."""


def keep_source(kept: dict[Path, ReportSource], file: ImageFile) -> None:
    """Keep what a report needs of an image while its file is open; ``write_reports`` says why another has none."""
    if not file.is_dicom or len(kept) >= MAX_KEPT:
        return
    from medprompt.reports.source import source_of_file

    with suppress(ImageError, InputError):
        kept[file.path] = source_of_file(file)


def report_paths(sources: Iterable[Source], folder: Path | None) -> list[Path]:
    """The reports that ``write_reports`` may write of these sources; none without a folder."""
    if folder is None:
        return []
    several = list(sources)
    stems = unique_stems((source.path, source.number) for source in several)
    return [folder / f"{stem}.dcm" for source, stem in zip(several, stems, strict=True) if source.dicom]


def segmentation_paths(sources: Iterable[Source], folder: Path | None) -> list[Path]:
    """The files that ``write_segmentations`` may write of these sources; none without a folder."""
    files = dict.fromkeys(source.path for source in sources if source.dicom)
    return [] if folder is None else [folder / f"{stem}.dcm" for stem in unique_stems((path, None) for path in files)]


def write_reports(
    run: Run,
    folder: Path,
    progress: Progress | None = None,
    when: datetime | None = None,
    kept: Mapping[Path, ReportSource] | None = None,
) -> Reports:
    """Write a DICOM SR for each analysed DICOM frame; items that were not analysed have none.

    Files are named after their images as overlays are, ending in ``.dcm``. One that is there already and says the same
    (its UID tells) is left as it is, with the time it was made at; others are made ``when`` (with its time zone) or
    now. What ``keep_source`` kept of images is used, other files are read again.

    Raises:
        InputError: The folder cannot be written to.
        EngineError: highdicom is not installed.
    """
    need_reports()
    progress, when = progress or Silent(), when or datetime.now(UTC)
    progress.step("write reports", len(run.items))
    stems = unique_stems((item.path, item.frame) for item in run.items)
    shelf = _Shelf(folder)
    for item, stem in zip(run.items, stems, strict=True):
        progress.advance()
        due = item.detections is not None and item.dicom is not None
        shelf.add(item, stem, partial(_report, item, run, when, (kept or {}).get(item.path)) if due else None)
    return shelf.reports(run)


def write_segmentations(
    run: Run, folder: Path, progress: Progress | None = None, when: datetime | None = None
) -> Reports:
    """Write a DICOM Segmentation for each DICOM image with findings; see ``medprompt.reports.segmentation``.

    An image in which nothing was found has none: there is no segmentation without a segment. Files are named after
    their images, and are left as they are where they say the same, as those of ``write_reports`` are.

    Raises:
        InputError: The folder cannot be written to.
        EngineError: highdicom is not installed.
    """
    need_reports()
    progress, when = progress or Silent(), when or datetime.now(UTC)
    images: dict[Path, list[Item]] = {}
    for item in run.items:
        images.setdefault(item.path, []).append(item)
    progress.step("write segmentations", len(images))
    stems = unique_stems((path, None) for path in images)
    shelf = _Shelf(folder)
    for items, stem in zip(images.values(), stems, strict=True):
        progress.advance()
        analysed = [item for item in items if item.detections is not None and item.dicom is not None]
        due = any(item.detections for item in analysed)
        shelf.empty += bool(analysed) and not due
        shelf.add(items[0], stem, partial(_segmentation, items, run, when) if due else None)
    return shelf.reports(run)


def read_report(path: Path | str) -> Report:
    """Read a structured report of template TID 1500.

    Returns:
        Its findings, with boxes in pixels of the frame; see ``medprompt.reports.read.Report``.

    Raises:
        InputError: No such report, or a region that is no outline.
        EngineError: highdicom is not installed.
    """
    need_reports()
    from medprompt.reports.read import report_from_file

    return report_from_file(Path(path))


@dataclass(frozen=True)
class _Object:
    """A DICOM object that is due: its SOP instance UID, what makes it, and whether it lies somewhere in the patient."""

    uid: str
    make: Callable[[], Dataset]
    placed: bool = True


@dataclass
class _Shelf:
    """A folder of objects: what was written so far, and what was not; see ``Reports``."""

    folder: Path
    written: list[Path] = field(default_factory=list)
    missing: list[tuple[Item, str]] = field(default_factory=list)
    outdated: list[Path] = field(default_factory=list)
    empty: int = 0
    unplaced: int = 0

    def add(self, item: Item, stem: str, due: Callable[[], _Object] | None) -> None:
        """Write an item's object, where one is due, and note what became of it."""
        path = self.folder / f"{stem}.dcm"
        reason = self._write(item, path, due) if due else None
        if reason == "":
            self.written.append(path)
            return
        if reason:
            self.missing.append((item, reason))
        if path.exists():
            self.outdated.append(path)

    def reports(self, run: Run) -> Reports:
        """All of it."""
        others = sum(item.detections is not None and item.dicom is None for item in run.items)
        return Reports(
            tuple(self.written), tuple(self.missing), others, tuple(self.outdated), self.empty, self.unplaced
        )

    def _write(self, item: Item, path: Path, due: Callable[[], _Object]) -> str:
        """Write one object; why there is none, or empty."""
        from medprompt.dicom.header import pydicom_at_work

        try:
            made = due()
            content = BytesIO()
            if _uid_of(path) != made.uid:
                with pydicom_at_work(item.path, "making the report"):
                    made.make().save_as(content, enforce_file_format=True)
        except ImageError as error:
            return error.got
        except InputError as error:
            return f"{error.problem} ({error.got})" if error.got else error.problem
        self.unplaced += not made.placed
        if content.tell():
            with atomic_write(path) as aside:
                aside.write_bytes(content.getvalue())
        return ""


def _report(item: Item, run: Run, when: datetime, kept: ReportSource | None) -> _Object:
    from medprompt.reports.source import report_source
    from medprompt.reports.write import report_from_item, report_uid

    source = kept or report_source(item.path)
    _check_unchanged(item, source)
    return _Object(report_uid(item, run, source), lambda: report_from_item(item, run, source, when))


def _segmentation(items: Sequence[Item], run: Run, when: datetime) -> _Object:
    from medprompt.reports.geometry import image_and_header
    from medprompt.reports.segmentation import planes_of_items, segmentation_from_items, segmentation_uid

    source, header = image_and_header(items[0].path)
    _check_unchanged(items[0], source)
    return _Object(
        segmentation_uid(items, run, source),
        lambda: segmentation_from_items(items, run, source, header, when),
        placed=planes_of_items(header, items) is not None,
    )


def _check_unchanged(item: Item, source: ReportSource) -> None:
    if source.sha256 != item.sha256:
        raise InputError("the file was changed after it was analysed", fix="analyse it again")


def _uid_of(path: Path) -> str:
    """SOP instance UID of a file; empty where there is none, or it cannot be read."""
    from pydicom import dcmread

    from medprompt.dicom.header import pydicom_at_work

    try:
        with pydicom_at_work(path, "reading the earlier report"):
            return str(dcmread(path, specific_tags=["SOPInstanceUID"]).get("SOPInstanceUID", ""))
    except ImageError:
        return ""
