"""Detect in files: all that ``medprompt infer`` does, in one call."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medprompt.bundles.load import Bundle, load_bundle, load_segmenter
from medprompt.bundles.signing import check_signature
from medprompt.core.errors import InputError
from medprompt.core.files import real_path
from medprompt.core.outputs import reserve_outputs
from medprompt.core.progress import Progress, Silent
from medprompt.core.tiling import Tiling
from medprompt.generation.map_fit import fit_prompt_map
from medprompt.generation.prompt_map import load_prompt_map
from medprompt.prompts.bank import PromptBank
from medprompt.reports.files import Reports, keep_source
from medprompt.results.coco import CocoIds, coco_ids_from_file
from medprompt.results.resume import Previous, previous_from_file
from medprompt.results.run import Run, write_results
from medprompt.runtime.batch import Saving, infer_images
from medprompt.runtime.detector import Detector, check_makes_boxes
from medprompt.runtime.infer_outputs import (
    Warn,
    about_passed_over,
    about_site,
    outputs_of,
    tell,
    write_files,
    write_objects,
)
from medprompt.runtime.infer_work import Files, Work, requests_at_once, work_of
from medprompt.runtime.infer_work import InferOptions as InferOptions
from medprompt.runtime.selection.serving_options import Banks, resolve_bank
from medprompt.runtime.site import watch_run
from medprompt.runtime.strategies import MappedPhrases, Prompting, Tiled, best_phrases_from_text
from medprompt.runtime.video import infer_video
from medprompt.video.read import Video

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Inference:
    """What was found, and what became of structured reports and segmentations; None where none were asked for."""

    run: Run
    reports: Reports | None = None
    segmentations: Reports | None = None


def infer(
    bundle: Bundle | Path | str,
    images: Files,
    *,
    out: Path | str | None = None,
    overlays: Path | str | None = None,
    coco: Path | str | None = None,
    coco_ids: Path | str | None = None,
    coco_dataset: Path | str | None = None,
    csv: Path | str | None = None,
    sr: Path | str | None = None,
    seg: Path | str | None = None,
    segment: Path | str | None = None,
    annotated: Path | str | None = None,
    resume: bool = False,
    force: bool = False,
    prompts: Banks | None = None,
    labels: Sequence[str] | None = None,
    prompt_map: Path | str | None = None,
    select: str | None = None,
    threshold: float | None = None,
    frames: str = "all",
    seconds: float | None = None,
    tile: int | None = None,
    tile_overlap: float = 0.25,
    device: str = "auto",
    threads: int | None = None,
    strict: bool = False,
    self_test: bool = False,
    site_check: bool = False,
    key: Path | str | None = None,
    progress: Progress | None = None,
) -> Run:
    """Detect in image and DICOM files, folders of them, or a video, and write what was found.

    What the user should know comes as a Python warning: an engine that fell back, images without a report.

    Args:
        bundle: The bundle, or its folder.
        images: Image or DICOM files, DICOMDIRs or folders; or one video: a file, ``/dev/videoN``, ``rtsp://…``.
        out: Results file to write (JSON), kept up to date while the run goes on.
        overlays: Folder for pictures with boxes drawn in.
        coco: COCO results file to write.
        coco_ids: COCO label file of these images, whose ids of images and classes ``coco`` takes.
        coco_dataset: COCO data set to write, as other tools read labels.
        csv: Table to write, a row a detection.
        sr: Folder for DICOM structured reports, one for each analysed DICOM frame.
        seg: Folder for DICOM Segmentations, one for each DICOM image with findings; of a bundle that makes masks, or
            with ``segment``.
        segment: A segmenter (``export_segmenter``): it makes a mask of each box that the bundle finds.
        annotated: Of a video: write it with boxes drawn in (.mp4 or .webm).
        resume: Keep what ``out`` holds of the same files, bundle and prompts; the pictures and reports of that run too.
        force: Replace outputs that medprompt wrote.
        prompts: Prompt bank to serve instead of the bundle's own, or its file; several are merged.
        labels: Look for these classes only, in this order.
        prompt_map: Ask each image with its own phrases: a map of ``prompts generate`` or ``collapse`` (JSON).
        select: ``top:N`` asks each image again with the N phrases a class that answered best on it.
        threshold: Least score 0 … 1; None for each class's own threshold, or else the bundle's.
        frames: Of DICOM files and videos: ``all``, ``first``, ``every:N`` or ``i-j``.
        seconds: How long a live source is looked at.
        tile: Cut larger images into tiles of this side in source pixels.
        tile_overlap: Share of a tile's side that the next one repeats, 0 … 0.9.
        device: An engine's name, or ``auto``.
        threads: CPU threads; the engine's own choice where None.
        strict: Refuse any step down from the fastest engine.
        self_test: Run the bundle's golden images on the engine first.
        site_check: Warn once where the images are not like those that the bundle was proven on, or too few to tell.
        key: Public key (PEM): refuse a bundle that its holder did not sign.
        progress: Told about each step.

    Returns:
        One item an image or frame. ``Run.failed`` are those about which nothing is known: they were not analysed.

    Raises:
        InputError: No such file, or an option that cannot be used; nothing was run. Also an output that cannot be
            written, or would replace what it may not; see ``medprompt.core.outputs.reserve_outputs``.
        BundleError, BankError, EngineError, ParityError: See ``Detector.load``.
    """
    given = locals()
    messages: list[str] = []
    options = InferOptions(**{field.name: _as_path(field.name, given[field.name]) for field in fields(InferOptions)})
    run = run_inference(bundle, images, options, progress, messages.append).run
    for text in messages:
        warnings.warn(text, stacklevel=2)
    return run


def run_inference(
    bundle: Bundle | Path | str,
    images: Files,
    options: InferOptions,
    progress: Progress | None = None,
    warn: Warn = lambda text: None,
) -> Inference:
    """As ``infer``, with one object of options, and warnings told as soon as they are known."""
    progress = progress or Silent()
    work = work_of(images, options)
    with reserve_outputs(
        outputs_of(options, work), read_beside_images(bundle, options), work.inputs, force=options.force
    ):
        return _inferred(bundle, work, options, progress, warn)


def _inferred(
    bundle: Bundle | Path | str, work: Work, options: InferOptions, progress: Progress, warn: Warn
) -> Inference:
    """As ``run_inference``, with outputs that are this process's."""
    previous = _previous(options)
    _check_resumed(previous, work, options)
    ids = _coco_ids(options)
    loaded = load_bundle(bundle)
    _check_masks(loaded, options)
    segmenter = load_segmenter(options.segment) if options.segment else None
    if options.key:
        check_signature(loaded, options.key)
        if segmenter is not None:
            check_signature(segmenter, options.key)
    bank = resolve_bank(loaded, options.prompts, None)
    prompting = prompting_of(options, work.paths, bank, warn)
    with Detector.load(
        loaded,
        device=options.device,
        prompts=bank,
        labels=options.labels,
        threshold=options.threshold,
        threads=options.threads,
        strict=options.strict,
        images=None if work.video else len(work.sources),
        self_test=options.self_test or None,
        at_once=requests_at_once(work),
        segment=segmenter,
    ) as detector:
        tell(detector.choice.warnings, warn)
        tell(detector.segmenter.choice.warnings if detector.segmenter else (), warn)
        if ids:
            framed = [Path(work.video)] if work.video else [one.path for one in work.sources if one.frames > 1]
            tell(ids.gaps(work.paths, detector.bank.labels, framed), warn)
        watched = watch_run(detector, work.paths, prompting) if options.site_check else None
        run = _detect(detector, work, options, watched or prompting, previous, progress)
        tell(about_passed_over(run), warn)
        if watched:
            tell(about_site(watched.watch.check()), warn)
        if previous and previous.differs:
            warn(f"all images were run: the earlier results differ in {', '.join(previous.differs)}")
        write_files(run, options, ids, warn)
        return Inference(run, *write_objects(run, options, work.headers, progress, warn))


def _check_masks(bundle: Bundle, options: InferOptions) -> None:
    """Refuse to promise segmentations of boxes, or masks twice over."""
    if options.segment:
        check_makes_boxes(bundle)
    elif options.seg and bundle.manifest.postprocess.mask_threshold is None:
        raise InputError(
            "A segmentation is made of masks, and this bundle's model finds boxes.",
            where="seg",
            expected="a bundle that makes masks, or a segmenter",
            got=bundle.manifest.family,
            fix="pass segment=SEGMENTER, or leave seg= out: sr= reports boxes",
        )


def read_beside_images(bundle: Bundle | Path | str, options: InferOptions) -> list[Path | None]:
    """What is read beside images: bundle, banks, map, key, label file."""
    banks = [options.prompts] if isinstance(options.prompts, str | Path | PromptBank) else options.prompts or ()
    read = [bundle.path if isinstance(bundle, Bundle) else bundle, *banks]
    return [
        *(Path(one) for one in read if isinstance(one, str | Path)),
        options.prompt_map,
        options.key,
        options.coco_ids,
        options.segment,
    ]


def _previous(options: InferOptions) -> Previous | None:
    """The earlier results to go on from, read before they can be overwritten."""
    if not options.resume:
        return None
    if options.out is None:
        raise InputError("There are no results to resume.", where="resume", fix="pass out=RESULTS.json as well")
    return previous_from_file(options.out)


def _check_resumed(previous: Previous | None, work: Work, options: InferOptions) -> None:
    """Refuse to go on with other images than those that the earlier results are of: theirs would be lost.

    Files that were taken away since, and those that nothing was known about, are no loss.
    """
    if previous is None or previous.content is None or options.force:
        return
    here = {real_path(path) for path in work.paths}
    answered = dict.fromkeys(row.file for row in previous.content.items if row.detections is not None)
    gone = [one for one in answered if Path(one).exists() and real_path(Path(one)) not in here]
    if gone:
        raise InputError(
            "The earlier results are of other images too, and would be lost.",
            where="resume",
            expected="all images of the run that is continued",
            got=f"{len(gone)} of its images are not among these, such as {gone[0]}",
            fix="name the images as then, choose another out=, or pass force=True",
        )


def _coco_ids(options: InferOptions) -> CocoIds | None:
    if options.coco_ids is None:
        return None
    if options.coco is None:
        raise InputError("Ids are for a COCO results file.", where="coco_ids", fix="pass coco=FILE as well")
    return coco_ids_from_file(options.coco_ids)


def prompting_of(options: InferOptions, paths: Sequence[Path], bank: PromptBank, warn: Warn) -> Prompting:
    """Which phrases each image is prompted with, and in which pieces; checked before anything runs.

    Raises:
        InputError: Options that do not go together, or a map that cannot be used.
    """
    if options.prompt_map and options.select is not None:
        raise InputError("prompt_map= and select= cannot be combined.", where="prompt_map, select", fix="pass one")
    prompting = Prompting()
    if options.prompt_map:
        fitted = fit_prompt_map(load_prompt_map(options.prompt_map), paths, bank, options.labels)
        tell(fitted.warnings, warn)
        prompting = MappedPhrases(fitted.phrases)
    elif options.select is not None:
        prompting = best_phrases_from_text(options.select)
    return prompting if options.tile is None else Tiled(prompting, Tiling(options.tile, options.tile_overlap))


def _detect(
    detector: Detector,
    work: Work,
    options: InferOptions,
    prompting: Prompting,
    previous: Previous | None,
    progress: Progress,
) -> Run:
    out = options.out
    whole = partial(replace, passed_over=work.passed_over)
    saving = Saving(lambda unfinished: write_results(whole(unfinished), out)) if out else None
    if work.video is None:
        keep = partial(keep_source, work.headers) if options.sr else None
        run = infer_images(detector, work.sources, options.overlays, progress, prompting, previous, saving, keep)
        return whole(run)
    with Video(work.video) as video:
        if options.seconds is not None and not video.live:
            raise InputError("Only for live sources.", where="seconds", fix="choose frames of a file with frames=")
        return infer_video(
            detector,
            video,
            policy=work.policy,
            seconds=options.seconds,
            annotated=options.annotated,
            prompting=prompting,
            progress=progress,
            saving=saving,
        )


_PATHS = (
    *("out", "overlays", "coco", "coco_ids", "coco_dataset", "csv", "sr", "seg", "annotated"),
    *("prompt_map", "key", "segment"),
)


def _as_path(name: str, value: Any) -> Any:
    """Options that are one file or folder may be text."""
    return Path(value) if name in _PATHS and isinstance(value, str) else value
