"""``medprompt infer``: what a bundle finds, without torch."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medprompt.commands import common
from medprompt.core.errors import InputError, MedpromptError, in_one_line, need_module
from medprompt.core.memory import keep_freed_memory
from medprompt.core.terminal import Steps, names_apart, print_table

if TYPE_CHECKING:
    from medprompt.reports.files import Reports
    from medprompt.results.run import Item, Run
    from medprompt.runtime.infer import InferOptions


def infer(
    bundle: common.BundlePath,
    images: Annotated[
        list[str],
        typer.Argument(help="Images, DICOM files, DICOMDIRs or folders; or one video: a file, /dev/videoN or a URL."),
    ],
    out: Annotated[Path | None, typer.Option(help="Write the results here (JSON).")] = None,
    overlays: Annotated[Path | None, typer.Option(help="Folder for copies of the images with boxes drawn in.")] = None,
    coco: Annotated[Path | None, typer.Option(help="Write the detections here (COCO results, JSON).")] = None,
    coco_ids: Annotated[
        Path | None, typer.Option(help="Label file of these images (COCO), whose ids --coco shall have.")
    ] = None,
    coco_dataset: Annotated[
        Path | None, typer.Option(help="Write images, classes and detections here (COCO data set, for other tools).")
    ] = None,
    csv: Annotated[Path | None, typer.Option(help="Write a table here: one row for each detection.")] = None,
    sr: Annotated[
        Path | None, typer.Option(help="Folder for DICOM structured reports, one for each analysed frame.")
    ] = None,
    seg: Annotated[
        Path | None, typer.Option(help="Folder for DICOM Segmentations, one for each DICOM image with findings.")
    ] = None,
    segment: Annotated[
        Path | None, typer.Option(help="Make a mask of each box with this segmenter (`medprompt export-segmenter`).")
    ] = None,
    prompts: Annotated[
        list[Path] | None,
        typer.Option(help="Use the prompts of this bank instead of the bundle's own. Repeat to merge several banks."),
    ] = None,
    labels: Annotated[
        list[str] | None, typer.Option(help="Look for this class only. Repeat for several, or separate them by commas.")
    ] = None,
    prompt_map: Annotated[
        Path | None,
        typer.Option(help="Use each image's own phrases, from a map that `prompts generate` or `collapse` wrote."),
    ] = None,
    select: Annotated[
        str | None,
        typer.Option(help="With top:N, run each image again with the N phrases of each class that scored best."),
    ] = None,
    threshold: Annotated[float | None, typer.Option(min=0, max=1, help="Score threshold for every class.")] = None,
    frames: Annotated[
        str, typer.Option(help="Frames of DICOM files and videos to analyse: all, first, every:N or I-J.")
    ] = "all",
    annotated: Annotated[
        Path | None, typer.Option(help="Write the video with boxes drawn in here (.mp4 or .webm).")
    ] = None,
    seconds: Annotated[float | None, typer.Option(min=0, help="Stop a live source after so many seconds.")] = None,
    tile: Annotated[
        int | None, typer.Option(min=1, help="Cut larger images into tiles of this side, in pixels of the image.")
    ] = None,
    tile_overlap: Annotated[
        float, typer.Option(min=0, max=0.9, help="Overlap of neighbouring tiles, as a share of their side.")
    ] = 0.25,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an interrupted run: keep the results in --out.")
    ] = False,
    force: common.Force = False,
    ray: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Run on Ray: local, auto or a cluster's address. --out is a folder then."),
    ] = None,
    ray_workers: Annotated[
        int | None, typer.Option(min=1, help="Detectors of a run on Ray; one a GPU, or else one for each --threads.")
    ] = None,
    device: common.Device = "auto",
    threads: common.Threads = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse instead of warning: no fallback to a slower engine.")
    ] = False,
    self_test: Annotated[
        bool, typer.Option("--self-test", help="Prove the engine on the bundle's golden images first.")
    ] = False,
    site_check: Annotated[
        bool,
        typer.Option("--site-check", help="Warn where the images are not like those that the bundle was proven on."),
    ] = False,
    key: common.PublicKey = None,
    as_json: common.AsJson = False,
) -> None:
    """Detect in images, DICOM files or a video, without torch. Every image gets a status.

    The exit code is 1 where some images were not analysed or lack their report, and 2 where none could be analysed.

    Example: `medprompt infer polyp.bundle frames/ --out results.json --overlays pictures/`

    Continue an interrupted run: `medprompt infer polyp.bundle study/ --out results.json --resume`

    DICOM structured reports: `medprompt infer polyp.bundle study/ --sr reports/`

    DICOM Segmentations, of a bundle that makes masks: `medprompt infer polyp.bundle study/ --seg masks/`

    Masks of the boxes of any bundle: `medprompt infer polyp.bundle study/ --segment sam3-tracker.bundle --seg masks/`

    Each image with its own phrases: `medprompt infer polyp.bundle frames/ --prompt-map map.json`

    Large images, in tiles: `medprompt infer cells.bundle slides/ --tile 640`

    A video: `medprompt infer polyp.bundle colon.mp4 --out results.json --annotated boxes.mp4`

    Very many images, on all cores or machines: `medprompt infer polyp.bundle s3://bucket/frames --ray auto --out rows/`
    """
    from medprompt.runtime.infer import InferOptions, run_inference

    given = locals() | {"labels": labels or None}
    keep_freed_memory()

    options: InferOptions = common.options_of(InferOptions, given)
    if ray is not None:
        _infer_on_ray(bundle, images, options, ray, ray_workers, as_json)
        return
    if ray_workers is not None:
        raise InputError("There are no workers without Ray.", where="ray_workers", fix="pass ray=local as well")
    with Steps("infer") as steps:
        done = run_inference(bundle, images, options, steps, lambda text: common.print_warnings([text]))
    if as_json:
        common.print_json(done.run.as_json(), allow_nan=False)
    elif done.run.video is not None:
        _print_video(done.run)
    else:
        _print_run(done.run)
    if done.run.failed:
        raise _not_analysed(done.run)
    for made, folder, what in ((done.reports, sr, "report"), (done.segmentations, seg, "segmentation")):
        if made and made.missing:
            raise _not_reported(made, folder, what)


def _infer_on_ray(
    bundle: Path, images: list[str], options: InferOptions, address: str, workers: int | None, as_json: bool
) -> None:
    need_module("ray", "Detection on many machines", "Ray", "ray")
    from medprompt.runtime.serving.ray_infer import infer_on_ray

    with Steps("infer") as steps:
        done = infer_on_ray(
            bundle, images, options, address, workers, steps, lambda text: common.print_warnings([text])
        )
    if as_json:
        common.print_json(done.as_json(), allow_nan=False)
    else:
        counts = ", ".join(f"{count} {status}" for status, count in sorted(done.by_status.items()))
        print(f"total: {done.images} images: {counts}; {done.detections} detections; engine {done.engine}; {done.out}")
    if done.failed:
        kind = InputError if done.by_status.get("REJECTED") == done.images else MedpromptError
        raise kind(
            f"{done.failed} of {done.images} images were not analysed, so nothing is known about them.",
            where=str(done.out),
            fix="see the column status of images/; `medprompt docs item-status` says what each code means",
        )


def _not_reported(reports: Reports, folder: Path | None, what: str) -> MedpromptError:
    return MedpromptError(
        f"{len(reports.missing)} analysed DICOM {'frames' if what == 'report' else 'images'} have no {what}.",
        where=str(folder),
        expected=f"{len(reports.written) + len(reports.missing)} {what}s",
        got=reports.missing[0][1],
        fix=f"their detections are in --out, --csv and --json; `medprompt docs dicom` says what a {what} needs",
    )


def _not_analysed(run: Run) -> MedpromptError:
    """Bad input where nothing may be analysed, a failed run where some was or something failed."""
    kind = InputError if all(item.status == "REJECTED" for item in run.items) else MedpromptError
    found = Counter(_status(item) for item in run.failed)
    counts = ", ".join(f"{count} {status}" for status, count in found.most_common())
    return kind(
        f"{len(run.failed)} of {len(run.items)} images were not analysed, so nothing is known about them.",
        where=", ".join(item.name for item in run.failed[:5]) + (", …" if len(run.failed) > 5 else ""),
        got=counts if len(run.failed) > 1 else f"{_status(run.failed[0])}: {in_one_line(run.failed[0].error)}",
        fix="see the status of each item in the results; `medprompt docs item-status` says what each code means",
    )


def _status(item: Item) -> str:
    return f"{item.status} ({item.code})" if item.code else item.status


MAX_ROWS = 50
"""Rows of a table that a person reads. Of more items those are shown about which least is known."""

BY_STATUS = ("ERROR", "REJECTED", "OK_WITH_WARNINGS", "OK")


def _print_run(run: Run) -> None:
    names = names_apart(list(dict.fromkeys(item.path for item in run.items)))
    shown = run.items
    if len(shown) > MAX_ROWS:
        shown = tuple(sorted(shown, key=lambda item: BY_STATUS.index(item.status))[:MAX_ROWS])
    rows = [
        (
            names[item.path] if item.frame is None else f"{names[item.path]}#frame {item.frame}",
            _status(item),
            in_one_line(item.error) if item.error else "; ".join([item.counts(), *item.warnings]),
        )
        for item in shown
    ]
    print_table("Detections", ["image", "status", "found"], rows, f"engine {run.engine}: {run.engine_reason}")
    if len(run.items) > len(shown):
        print(f"{len(run.items) - len(shown)} more are not shown; --out, --csv and --json have all")
    print(f"total: {_total(run)}")


def _total(run: Run) -> str:
    """How many items have which status, and what was found in all of them."""
    statuses = Counter(_status(item) for item in run.items)
    found = Counter(one.label for item in run.items for one in item.detections or ())
    counted = ", ".join(f"{count} {status}" for status, count in statuses.most_common())
    detections = ", ".join(f"{count} {label}" for label, count in found.most_common()) or "none"
    return f"{len(run.items)} images: {counted}; detections: {detections}"


def _print_video(run: Run) -> None:
    """A few lines about many frames: how many have which status, what was found, and how long it took."""
    about = run.video or {}
    statuses = Counter(item.status for item in run.items)
    found = Counter(one.label for item in run.items for one in item.detections or ())
    rows = [
        ("frames", ", ".join(f"{count} {status}" for status, count in statuses.items()) or "none"),
        ("dropped", str(about.get("dropped", 0))),
        ("detections", ", ".join(f"{count} {label}" for label, count in found.items()) or "none"),
        ("frames a second", f"{about.get('frames_per_second')}"),
        ("decoded → detections", _latency(about.get("latency_ms"))),
    ]
    print_table("Video", ["", ""], rows, f"engine {run.engine}: {run.engine_reason}")
    if about.get("dropped"):
        common.print_warnings([f"{about['dropped']} frames were dropped: the source is faster than the detector"])


def _latency(latency: dict[str, float] | None) -> str:
    if not latency:
        return "not measured: no frame was analysed"
    return ", ".join(f"{name} {value:.1f} ms" for name, value in latency.items())
