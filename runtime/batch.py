"""Many images through one detector: what may not be analysed or fails is reported, and the rest goes on."""

from __future__ import annotations

import hashlib
import logging
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medprompt.core.detections import Detections
from medprompt.core.errors import EngineError, ImageError, InputError
from medprompt.core.files import sha256_of_file
from medprompt.core.interrupt import HeardInterrupt
from medprompt.core.packages import package_versions
from medprompt.core.picture import Picture
from medprompt.core.progress import Progress, Silent
from medprompt.images.file import ImageFile
from medprompt.images.sources import Source, unique_stems
from medprompt.results.resume import Previous
from medprompt.results.run import Item, PromptSubset, Run, SegmenterUsed
from medprompt.runtime.detector import AT_ONCE, Detector
from medprompt.runtime.pipeline import Steps, in_flight
from medprompt.runtime.strategies import Prompting
from medprompt.runtime.threads import Allowance, Prefetcher

SAVE_EVERY_S = 15.0
"""Seconds between two savings of an unfinished run: what a killed run loses at most, beside the image it was at."""

AHEAD = 4
"""Images that may be decoded and wait for the detector, beside those of one batch."""

AHEAD_BYTES = 1 << 28
"""Bytes of decoded images, of those that wait and those at the detector: with as many, no further file is begun."""

PACKAGES = (
    *("medprompt", "numpy", "pillow", "simplejpeg", "tifffile", "imagecodecs"),
    *("pydicom", "pyjpegls", "pylibjpeg-openjpeg", "pylibjpeg-rle"),
    *("av", "onnxruntime", "onnxruntime-gpu", "openvino"),
)
"""Packages whose version can change pixels, answers, or what is refused."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Saving:
    """How an unfinished run is kept.

    ``save`` writes the run as far as it is, every ``every_s`` seconds.
    """

    save: Callable[[Run], None]
    every_s: float = SAVE_EVERY_S

    def attempt(self, run: Run) -> None:
        """Save if that is possible: a full disk may have room again at the end, and until then work goes on."""
        try:
            self.save(run)
        except InputError as error:
            _log.warning("the unfinished run could not be saved: %s", error.problem)


def infer_images(
    detector: Detector,
    sources: Sequence[Path | Source],
    overlays: Path | None = None,
    progress: Progress | None = None,
    prompting: Prompting | None = None,
    previous: Previous | None = None,
    saving: Saving | None = None,
    on_file: Callable[[ImageFile], None] | None = None,
) -> Run:
    """Detect in image files.

    Files are read and decoded in a thread of their own, ahead of the detector: as long as fewer than ``AHEAD`` images
    and a batch wait, and decoded images take less than ``AHEAD_BYTES``. So at most one image more than that is in
    memory, and of large images one at a time.

    Args:
        detector: The loaded bundle.
        sources: Image files, or frames of them; see ``medprompt.images.sources.find_sources``.
        overlays: Folder for pictures with the detections drawn in.
        progress: Told about each image.
        prompting: Which phrases each image is prompted with; the whole bank where None.
        previous: Results of an earlier run, see ``medprompt.results.resume``: images that it answered are not run
            again.
        saving: How the run is kept while it goes on, and when it is interrupted.
        on_file: Told about each file that is analysed, while it is open; from the thread that reads.

    Returns:
        One item a source, in their order. What may not be analysed is an item with the status ``REJECTED``; what
        failed otherwise, be it the file, the engine or memory, one with the status ``ERROR``.

    Raises:
        InputError: An overlay or the saved run cannot be written, or a prompt set does not fit the bank.
    """
    prompting = prompting or Prompting()
    frames = [one if isinstance(one, Source) else Source(Path(one)) for one in sources]
    work = _Work(detector, prompting, frames, overlay_paths(frames, overlays) or [None] * len(frames), saving, on_file)
    work.run(previous, progress or Silent())
    return work.as_run(complete=True)


@dataclass(frozen=True)
class _Read:
    """What came of reading one source: its picture, or the error instead; and the hash of the bytes."""

    index: int
    picture: Picture | Exception
    sha256: str

    @property
    def size(self) -> int:
        """Bytes of its pixels."""
        return self.picture.pixels.nbytes if isinstance(self.picture, Picture) else 0


@dataclass
class _Work:
    """One run: which images there are, and what became of those that were come to."""

    detector: Detector
    prompting: Prompting
    sources: Sequence[Source]
    pictures: Sequence[Path | None]
    saving: Saving | None
    on_file: Callable[[ImageFile], None] | None
    items: dict[int, Item] = field(default_factory=dict)
    file: ImageFile | None = None

    def run(self, previous: Previous | None, progress: Progress) -> None:
        """Take over what an earlier run answered, then do the rest."""
        if previous is not None:
            self._take_over(previous, progress)
        progress.step("detect", len(self.sources) - len(self.items))
        saved_at = time.monotonic()
        try:
            for index, item in self._answers():
                self.items[index] = item
                progress.advance()
                if self.saving and time.monotonic() - saved_at >= self.saving.every_s:
                    self.saving.attempt(self.as_run(complete=False))
                    saved_at = time.monotonic()
        except KeyboardInterrupt:
            if self.saving and self.items:
                self.saving.save(self.as_run(complete=False))
            raise
        finally:
            self._close()

    def _take_over(self, previous: Previous, progress: Progress) -> None:
        """All at once, before anything can be saved: what is saved must never be less than what there was."""
        progress.step("compare with the earlier run", len(self.sources))
        if not previous.fits(self.as_run(complete=False)):
            return
        sha256 = cache(_sha256)  # a file may be many frames
        for index, (source, picture) in enumerate(zip(self.sources, self.pictures, strict=True)):
            item = previous.item(source, sha256(source.path), picture)
            if item is not None:
                self.items[index] = item
            progress.advance()

    def _answers(self) -> Iterator[tuple[int, Item]]:
        """The items that are left to do, each with its place: read ahead, several requests in flight."""
        order = self.prompting.order([source.path for source in self.sources])
        todo = [index for index in order if index not in self.items]
        batch = batch_of(self.detector)
        allowed = Allowance(AHEAD_BYTES)
        with Prefetcher(self._read_all(todo, allowed), AHEAD + batch) as ahead, allowed:
            works = (self._steps(read, allowed) for read in ahead)
            with HeardInterrupt(ahead.end) as heard:  # no more are begun, those that were are answered
                yield from in_flight(self.detector, works, ready=ahead.ready, starved=allowed.spent, batch=batch)
            if heard.came:
                raise KeyboardInterrupt

    def _read_all(self, indices: Sequence[int], allowed: Allowance) -> Iterator[_Read]:
        for index in indices:
            allowed.wait()
            read = self._read(index)
            allowed.use(read.size)
            yield read

    def _read(self, index: int) -> _Read:
        source = self.sources[index]
        picture: Picture | Exception
        try:
            picture = self._open(source.path).picture(source.frame)
        except Exception as error:
            picture = error
        # The hash is of the bytes that were decoded: there is no second reading, between which the file could change.
        return _Read(index, picture, self.file.sha256 if self.file else "")

    def _steps(self, read: _Read, allowed: Allowance) -> Steps[tuple[int, Item]]:
        source = self.sources[read.index]
        item = Item(source.path, None, frame=source.number, overlay=self.pictures[read.index], sha256=read.sha256)
        try:
            return read.index, (yield from run_item(item, self._answered(item, read)))
        finally:
            allowed.use(-read.size)

    def _open(self, path: Path) -> ImageFile:
        """The file, which stays open until the next is asked for: a file's frames come one after another."""
        if self.file is None or self.file.path != path:
            self._close()
            self.file = ImageFile(path, hold=True)
            if self.on_file:
                self.on_file(self.file)
        return self.file

    def _close(self) -> None:
        if self.file is not None:
            self.file.close()
        self.file = None

    def _answered(self, item: Item, read: _Read) -> Steps[Item]:
        if isinstance(read.picture, Exception):
            raise read.picture
        return (yield from detect_item(self.detector, self.prompting, item, read.picture))

    def as_run(self, complete: bool) -> Run:
        """What is known so far, in the order of the sources."""
        items = tuple(self.items[index] for index in sorted(self.items))
        return run_of(self.detector, self.prompting, items, complete)


def run_item(item: Item, answer: Steps[Item]) -> Steps[Item]:
    """The answered item, or what kept it from an answer: whatever fails is this item's, and the run goes on.

    Raises:
        InputError: What concerns the run and not this item, such as an output that cannot be written.
    """
    try:
        return (yield from answer)
    except Exception as error:
        return failed_item(item, error)


def failed_item(item: Item, error: Exception) -> Item:
    """The item with what kept it from an answer.

    Raises:
        InputError: ``error``, where it concerns the run and not this item.
    """
    failed = replace(item, overlay=None)
    if isinstance(error, ImageError):
        return replace(failed, error=str(error), code=error.code)
    if isinstance(error, EngineError):
        return replace(failed, error=str(error))
    if isinstance(error, InputError):
        raise error
    if isinstance(error, MemoryError):
        return replace(failed, error="There is not enough memory for this image.")
    # A fault of ours or of a library: this item fails, the rest of the night does not.
    _log.debug("image %s failed unexpectedly: %s", hashed_id(item.name), place_of(error))
    # The text of a foreign error can quote the file's content.
    return replace(failed, error=f"The image failed unexpectedly ({type(error).__name__}).")


def detect_item(detector: Detector, prompting: Prompting, item: Item, picture: Picture) -> Steps[Item]:
    """The item with what was found in its picture."""
    found = yield from prompting.steps(detector, item.path, picture.pixels)
    if item.overlay is not None:
        _draw(picture.pixels, found, item.overlay)
    prompt_set = _prompt_subset(detector, found)
    warnings = (*picture.warnings, *found.warnings)
    return replace(item, detections=found, prompt_set=prompt_set, warnings=warnings, dicom=picture.dicom)


def batch_of(detector: Detector) -> int:
    """Images that a run makes one request: 1 on a CPU, where more gain nothing; else what the engine was compiled for.

    It depends on nothing but the engine, so that a run that is repeated computes the same batches.
    """
    if not detector.engine.on_gpu:
        return 1
    compiled = detector.choice.record.compiled if detector.choice.record else None
    most = compiled.axes["B"].most if compiled and "B" in compiled.axes else AT_ONCE
    return min(most, AT_ONCE)


def hashed_id(name: str) -> str:
    """What a log calls an image: the first 12 digits of the SHA-256 of its name, which is a patient's often enough."""
    return hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()[:12]


def place_of(error: Exception) -> str:
    """An error's type and the line that raised it, without its text: that can quote a file."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}"


def run_of(
    detector: Detector,
    prompting: Prompting,
    items: tuple[Item, ...],
    complete: bool,
    video: dict[str, Any] | None = None,
) -> Run:
    """Items, and all that they were made with."""
    return Run(
        items=items,
        labels=detector.bank.labels,
        bundle_sha256=detector.bundle.sha256,
        bank_sha256=detector.bank.content_hash(),
        engine=detector.choice.device,
        engine_reason="; ".join([detector.choice.reason, *detector.choice.warnings]),
        engine_rejected=detector.choice.rejected,
        thresholds=detector.thresholds,
        intended_use=detector.bundle.manifest.intended_use,
        prompting=prompting.name,
        tiling=prompting.tiling,
        versions=_versions(),
        complete=complete,
        codes=tuple(entry.code for entry in detector.bank.prompts.classes),
        video=video,
        segmenter=_segmenter(detector),
    )


def _segmenter(detector: Detector) -> SegmenterUsed | None:
    used = detector.segmenter
    return None if used is None else SegmenterUsed(used.bundle.sha256, used.choice.device)


def _sha256(path: Path) -> str:
    """Hash of a file, empty where it cannot be read."""
    try:
        return sha256_of_file(path)
    except OSError:
        return ""


@lru_cache(maxsize=1)
def _versions() -> tuple[tuple[str, str], ...]:
    return tuple(package_versions(PACKAGES).items())


def _prompt_subset(detector: Detector, found: Detections) -> PromptSubset | None:
    """What the image was prompted with, where that is not the whole bank."""
    if found.phrases is detector.bank.texts:
        return None
    prompt_set = detector.prompts.of(found.phrases)
    return None if prompt_set is detector.prompts.whole else PromptSubset(prompt_set.sha256[:16], found.phrases)


def _draw(image: NDArray[np.uint8], found: Detections, overlay: Path) -> None:
    from medprompt.core.overlay import draw_overlay, save_overlay

    save_overlay(draw_overlay(image, found), overlay)


def overlay_paths(sources: Sequence[Source], folder: Path | None) -> list[Path]:
    """The picture of each source; none without a folder."""
    if folder is None:
        return []
    return [folder / f"{stem}.png" for stem in unique_stems((source.path, source.number) for source in sources)]
