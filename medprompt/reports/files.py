"""Structured reports as files: one for each analysed DICOM frame of a run, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from medprompt.core.errors import ImageError, InputError, need_module
from medprompt.core.files import atomic_write
from medprompt.core.outputs import file_kind
from medprompt.core.progress import Progress, Silent
from medprompt.images.file import ImageFile
from medprompt.images.sources import Source, unique_stems
from medprompt.results.run import Item, Run

if TYPE_CHECKING:
    from medprompt.reports.read import Report
    from medprompt.reports.source import ReportSource

REPORT = file_kind("a structured report", r".{128}DICM.*\x08\x00\x70\x00LO\x0a\x00medprompt ")
"""DICOM with the manufacturer (0008,0070) that ``medprompt.reports.write`` states, in explicit little endian."""

MAX_KEPT = 10_000
"""Images of a run whose patient and study are kept, about 9 KB each; those of others are read again for the report."""


@dataclass(frozen=True)
class Reports:
    """What became of a run's reports.

    Attributes:
        written: Files, in the order of their items; those that were there already are among them.
        missing: Analysed DICOM frames without a report, each with the reason.
        others: How many analysed items are of no DICOM file: a report cannot refer to them.
        outdated: Files from before under the names of items that have no report now.
    """

    written: tuple[Path, ...]
    missing: tuple[tuple[Item, str], ...]
    others: int
    outdated: tuple[Path, ...]


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
    written: list[Path] = []
    missing: list[tuple[Item, str]] = []
    outdated: list[Path] = []
    progress.step("write reports", len(run.items))
    stems = unique_stems((item.path, item.frame) for item in run.items)
    for item, stem in zip(run.items, stems, strict=True):
        progress.advance()
        path, reported = folder / f"{stem}.dcm", item.detections is not None and item.dicom is not None
        reason = _write_report(item, run, path, when, (kept or {}).get(item.path)) if reported else None
        if reason == "":
            written.append(path)
            continue
        if reason:
            missing.append((item, reason))
        if path.exists():
            outdated.append(path)
    others = sum(item.detections is not None and item.dicom is None for item in run.items)
    return Reports(tuple(written), tuple(missing), others, tuple(outdated))


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


def _write_report(item: Item, run: Run, path: Path, when: datetime, kept: ReportSource | None) -> str:
    """Write one report; why there is none, or empty."""
    from medprompt.dicom.header import pydicom_at_work
    from medprompt.reports.source import report_source
    from medprompt.reports.write import report_from_item, report_uid

    try:
        source = kept or report_source(item.path)
        if source.sha256 != item.sha256:
            return "the file was changed after it was analysed"
        if _uid_of(path) == report_uid(item, run, source):
            return ""
        with pydicom_at_work(item.path, "making the report"):
            content = BytesIO()
            report_from_item(item, run, source, when).save_as(content, enforce_file_format=True)
    except ImageError as error:
        return error.got
    except InputError as error:
        return f"{error.problem} ({error.got})"
    with atomic_write(path) as aside:
        aside.write_bytes(content.getvalue())
    return ""


def _uid_of(path: Path) -> str:
    """SOP instance UID of a file; empty where there is none, or it cannot be read."""
    from pydicom import dcmread

    from medprompt.dicom.header import pydicom_at_work

    try:
        with pydicom_at_work(path, "reading the earlier report"):
            return str(dcmread(path, specific_tags=["SOPInstanceUID"]).get("SOPInstanceUID", ""))
    except ImageError:
        return ""
