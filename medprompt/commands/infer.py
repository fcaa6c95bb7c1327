"""``medprompt infer``: what a bundle finds, without torch."""

from __future__ import annotations

from collections import Counter
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medprompt.commands.common import (
    AsJson,
    BundlePath,
    Device,
    PublicKey,
    Threads,
    print_json,
    print_warnings,
)
from medprompt.core.errors import InputError, MedpromptError

if TYPE_CHECKING:
    from medprompt.prompts.bank import PromptBank
    from medprompt.results.resume import Previous
    from medprompt.results.run import Item, Run
    from medprompt.runtime.strategies import Prompting


def infer(
    bundle: BundlePath,
    images: Annotated[
        list[str],
        typer.Argument(help="Image or DICOM files, DICOMDIRs or folders; or one video: a file, /dev/videoN, rtsp://…"),
    ],
    out: Annotated[Path | None, typer.Option(help="Write results.json here.")] = None,
    overlays: Annotated[Path | None, typer.Option(help="Folder for pictures with boxes drawn in.")] = None,
    coco: Annotated[Path | None, typer.Option(help="Write a COCO results file here.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write a table here: a row a detection.")] = None,
    sr: Annotated[
        Path | None, typer.Option(help="Folder for DICOM structured reports, one for each analysed DICOM frame.")
    ] = None,
    prompts: Annotated[
        list[Path] | None,
        typer.Option(help="Prompt bank to use instead of the bundle's; several are merged."),
    ] = None,
    labels: Annotated[str | None, typer.Option(help="Comma-separated classes to look for.")] = None,
    prompt_map: Annotated[
        Path | None,
        typer.Option(help="Ask each image with its own phrases: map of prompts generate or collapse (JSON)."),
    ] = None,
    select: Annotated[
        str | None,
        typer.Option(help="top:N asks each image again with the N phrases a class that answered best on it."),
    ] = None,
    threshold: Annotated[float | None, typer.Option(min=0, max=1, help="Overrides every class's threshold.")] = None,
    frames: Annotated[str, typer.Option(help="Of DICOM files and videos: all, first, every:N or i-j.")] = "all",
    annotated: Annotated[
        Path | None, typer.Option(help="Of a video: write it with boxes drawn in (.mp4 or .webm).")
    ] = None,
    seconds: Annotated[float | None, typer.Option(min=0, help="How long to look at a live source.")] = None,
    tile: Annotated[
        int | None, typer.Option(min=1, help="Cut larger images into tiles of this side in source pixels.")
    ] = None,
    tile_overlap: Annotated[
        float, typer.Option(min=0, max=0.9, help="Share of a tile's side that the next one repeats.")
    ] = 0.25,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep what --out holds of the same files, bundle and prompts.")
    ] = False,
    device: Device = "auto",
    threads: Threads = None,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse any step down from the fastest engine.")] = False,
    self_test: Annotated[
        bool, typer.Option("--self-test", help="Run the bundle's golden images on the engine first.")
    ] = False,
    key: PublicKey = None,
    as_json: AsJson = False,
) -> None:
    """Detect in images, without torch. Each gets a status; one that was not analysed fails the run.

    Exit code 1: some were not analysed, one failed, or lacks its report; 2: there was nothing that may be analysed.

    Example: `medprompt infer polyp.bundle frames/ --out results.json --overlays pictures/`

    A night run that goes on where it was killed: `medprompt infer polyp.bundle study/ --out results.json --resume`

    DICOM in, structured reports out: `medprompt infer polyp.bundle study/ --sr reports/`

    Each image with its own phrases: `medprompt infer polyp.bundle frames/ --prompt-map map.json`

    Slides, at the scale that the model was trained at: `medprompt infer cells.bundle slides/ --tile 640`

    A video: `medprompt infer polyp.bundle colon.mp4 --out results.json --annotated boxes.mp4`
    """
    from medprompt.bundles.load import load_bundle
    from medprompt.bundles.signing import check_signature
    from medprompt.commands.video import no_video_options, only_video, print_video, run_video
    from medprompt.core.files import lock_outputs
    from medprompt.core.terminal import Steps
    from medprompt.core.tiling import Tiling
    from medprompt.dicom.frames import frame_policy_from_text
    from medprompt.images.read import find_images
    from medprompt.images.sources import sources_from_paths
    from medprompt.results.run import write_coco, write_csv, write_results
    from medprompt.runtime import Detector
    from medprompt.runtime.batch import Saving, infer_images
    from medprompt.runtime.strategies import Prompting, Tiled

    policy = frame_policy_from_text(frames)
    not_for_videos = {"--overlays": overlays, "--sr": sr, "--prompt-map": prompt_map, "--resume": resume}
    video = only_video(images, not_for_videos)
    if video is None:
        no_video_options(seconds, annotated)
    previous = _previous(out, resume)
    paths = find_images(images) if video is None else []
    if sr:
        _check_reports(paths)
    sources = sources_from_paths(paths, policy)
    wanted = labels.split(",") if labels else None
    loaded = load_bundle(bundle)
    if key:
        check_signature(loaded, key)
    bank = _merged_bank(prompts or []) or loaded.bank
    prompting = _prompting(prompt_map, select, paths, bank, wanted)
    if tile:
        prompting = Tiled(prompting or Prompting(), Tiling(tile, tile_overlap))
    outputs = (out, coco, csv, overlays, sr, annotated)
    with (
        lock_outputs(outputs),
        Detector.load(
            loaded,
            device=device,
            bank=bank,
            labels=wanted,
            threshold=threshold,
            threads=threads,
            strict=strict,
            images=len(sources) if video is None else None,
            self_test=self_test or None,
        ) as detector,
    ):
        print_warnings(detector.choice.warnings)
        saving = Saving(lambda unfinished: write_results(unfinished, out)) if out else None
        if video is not None:
            run = run_video(detector, video, policy, seconds, annotated, prompting, saving)
        else:
            with Steps("infer") as steps:
                run = infer_images(detector, sources, overlays, steps, prompting, previous, saving)
        if previous and previous.differs:
            print_warnings([f"all images were run: the earlier results differ in {', '.join(previous.differs)}"])
        if out:
            write_results(run, out)
        if coco:
            write_coco(run, coco)
        if csv:
            write_csv(run, csv)
        unreported = _write_reports(run, sr) if sr else None
    if as_json:
        print_json(run.as_json())
    elif video is not None:
        print_video(run)
    else:
        _print_run(run)
    if run.failed:
        raise _not_analysed(run)
    if unreported:
        raise unreported


def _merged_bank(paths: list[Path]) -> PromptBank | None:
    from medprompt.prompts.bank import PromptBank, load_bank

    return reduce(PromptBank.merge, map(load_bank, paths)) if paths else None


def _prompting(
    prompt_map: Path | None, select: str | None, paths: list[Path], bank: PromptBank, labels: list[str] | None
) -> Prompting | None:
    """Which phrases each image is asked with, checked before anything runs."""
    from medprompt.generation.map_fit import fit_prompt_map
    from medprompt.generation.prompt_map import load_prompt_map
    from medprompt.runtime.strategies import MappedPhrases, best_phrases_from_text

    if prompt_map and select:
        raise InputError("A prompt map and a selection exclude each other.", fix="pass --prompt-map or --select")
    if prompt_map:
        fitted = fit_prompt_map(load_prompt_map(prompt_map), paths, bank, labels)
        print_warnings(fitted.warnings)
        return MappedPhrases(fitted.phrases)
    return best_phrases_from_text(select) if select is not None else None


def _previous(out: Path | None, resume: bool) -> Previous | None:
    """The earlier results to go on from, read before they can be overwritten."""
    from medprompt.results.resume import previous_from_file

    if not resume:
        return None
    if out is None:
        raise InputError("There are no results to resume.", where="--resume", fix="pass --out RESULTS.json as well")
    return previous_from_file(out)


def _check_reports(paths: list[Path]) -> None:
    """Refuse early what cannot end in a report."""
    from medprompt.images.read import is_dicom
    from medprompt.reports.files import need_reports

    need_reports()
    if not any(map(is_dicom, paths)):
        raise InputError(
            "Reports are of DICOM files, and none of these is one.", where="--sr", fix="use --out or --csv"
        )


def _write_reports(run: Run, folder: Path) -> MedpromptError | None:
    """Write the reports; the error to end with, where an analysed DICOM frame has none."""
    from medprompt.core.terminal import Steps
    from medprompt.reports.files import write_reports

    with Steps("infer") as steps:
        reports = write_reports(run, folder, steps)
    if reports.others:
        print_warnings([f"{reports.others} analysed images have no report, for they are no DICOM files"])
    print_warnings(f"{path} was there before; the image of its name has no report now" for path in reports.outdated)
    print_warnings(f"{item.name} was analysed and has no report: {reason}" for item, reason in reports.missing)
    if not reports.missing:
        return None
    return MedpromptError(
        f"{len(reports.missing)} analysed DICOM frames have no report.",
        where=str(folder),
        expected=f"{len(reports.written) + len(reports.missing)} reports",
        got=reports.missing[0][1],
        fix="their detections are in --out, --csv and --json; docs/results.md says what a report needs",
    )


def _not_analysed(run: Run) -> MedpromptError:
    """Bad input where nothing may be analysed, a failed run where some was or something failed."""
    kind = InputError if all(item.status == "REJECTED" for item in run.items) else MedpromptError
    found = Counter(_status(item) for item in run.failed)
    counts = ", ".join(f"{count} {status}" for status, count in found.most_common())
    reason = "; ".join(line.strip() for line in run.failed[0].error.splitlines() if "where:" not in line)
    return kind(
        f"{len(run.failed)} of {len(run.items)} images were not analysed, so nothing is known about them.",
        where=", ".join(item.name for item in run.failed[:5]) + (", …" if len(run.failed) > 5 else ""),
        got=counts if len(run.failed) > 1 else f"{_status(run.failed[0])}: {reason}",
        fix="see the status of each item in the results; docs/inputs.md says what each code means",
    )


def _status(item: Item) -> str:
    return f"{item.status} ({item.code})" if item.code else item.status


def _print_run(run: Run) -> None:
    from medprompt.core.terminal import print_table

    rows = [
        (
            item.path.name if item.frame is None else f"{item.path.name}#frame {item.frame}",
            _status(item),
            item.error.splitlines()[0] if item.error else "; ".join([item.counts(), *item.warnings]),
        )
        for item in run.items
    ]
    print_table("Detections", ["image", "status", "found"], rows, f"engine {run.engine}: {run.engine_reason}")
