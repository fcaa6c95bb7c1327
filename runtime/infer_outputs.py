"""What a run of ``infer`` writes, and what it tells of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from medprompt.core.kinds import TEXT
from medprompt.core.outputs import Output
from medprompt.core.overlay import PICTURE
from medprompt.core.progress import Progress
from medprompt.reports.files import (
    REPORT,
    SEGMENTATION,
    Reports,
    report_paths,
    segmentation_paths,
    write_reports,
    write_segmentations,
)
from medprompt.results.coco import COCO_DATASET, COCO_RESULTS, CocoIds, write_coco, write_coco_dataset
from medprompt.results.run import NAMED, RESULTS, TABLE, Run, write_csv, write_results
from medprompt.runtime.batch import overlay_paths
from medprompt.runtime.infer_work import InferOptions, Work
from medprompt.site.check import SiteCheck
from medprompt.video.write import ANNOTATED

if TYPE_CHECKING:
    from medprompt.reports.source import ReportSource

Warn = Callable[[str], None]


def outputs_of(options: InferOptions, work: Work) -> dict[str, Output | None]:
    """What is written. A run that goes on has leave to write its own results, pictures and reports on."""
    kinds = {
        "out": RESULTS,
        "coco": COCO_RESULTS,
        "coco_dataset": COCO_DATASET,
        "csv": TABLE,
        "annotated": ANNOTATED,
    }
    files = {
        "overlays": (PICTURE, overlay_paths(work.sources, options.overlays)),
        "sr": (REPORT, report_paths(work.sources, options.sr)),
        "seg": (SEGMENTATION, segmentation_paths(work.sources, options.seg)),
    }
    outputs: dict[str, Output | None] = {}
    for name in (*kinds, *files):
        path, (kind, written) = getattr(options, name), files.get(name) or (kinds[name], None)
        goes_on = options.resume and name in ("out", "overlays", "sr", "seg")
        outputs[name] = Output(path, kind, written, force=goes_on) if path else None
    return outputs


def write_files(run: Run, options: InferOptions, ids: CocoIds | None, warn: Warn) -> None:
    """Write the files that were asked for and that other programs read."""
    if options.out:
        write_results(run, options.out)
    if options.coco:
        if not any(item.detections is not None and len(item.detections) for item in run.items):
            warn(f"nothing was found: {options.coco} is an empty list, which pycocotools does not load")
        if ids:
            tell(ids.other_sizes(run), warn)
        write_coco(run, options.coco, ids)
    if options.coco_dataset:
        write_coco_dataset(run, options.coco_dataset)
    if options.csv:
        write_csv(run, options.csv)


def write_objects(
    run: Run, options: InferOptions, headers: dict[Path, ReportSource], progress: Progress, warn: Warn
) -> tuple[Reports | None, Reports | None]:
    """Write DICOM objects where they were asked for, and tell what has none; what became of reports and of masks."""
    reports = write_reports(run, options.sr, progress, kept=headers) if options.sr else None
    masks = write_segmentations(run, options.seg, progress) if options.seg else None
    for made, what in ((reports, "report"), (masks, "segmentation")):
        if made is not None:
            tell(_about_reports(made, what), warn)
    return reports, masks


def _about_reports(made: Reports, what: str) -> Iterator[str]:
    if made.others:
        yield f"{made.others} analysed images have no {what}, for they are no DICOM files"
    if made.empty:
        yield f"{made.empty} analysed DICOM images have no {what}, for nothing was found in them"
    if made.unplaced:
        yield f"{made.unplaced} {what}s refer to pixels alone: their images do not say where these lie in the patient"
    for path in made.outdated:
        yield f"{path} was there before; the image of its name has no {what} now"
    for item, reason in made.missing:
        yield f"{item.name} was analysed and has no {what}: {reason}"


def about_passed_over(run: Run) -> Iterator[str]:
    """One line about what folders hold beside images and text, each kind with the names of its first files."""
    kinds = [
        f"{len(paths)} {kind} ({', '.join(path.name for path in paths[:NAMED])}{', …' if len(paths) > NAMED else ''})"
        for kind, paths in sorted(run.passed_over.items())
        if kind != TEXT.name
    ]
    if kinds:
        yield f"passed over in folders, and not analysed: {', '.join(kinds)}"


def about_site(check: SiteCheck) -> Iterator[str]:
    """One line where the images do not fit, or nobody can tell."""
    if check.outcome != "passed":
        left_out = f"; the detector's own figures were left out: {check.left_out}" if check.left_out else ""
        yield f"site check: {check.verdict}{left_out}; see `medprompt docs site`"


def tell(texts: Iterable[str], warn: Warn) -> None:
    """Warn of each."""
    for text in texts:
        warn(text)
