"""A video through one detector: decoding runs ahead, writing runs behind, and every frame taken has a status."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from medprompt.core.detections import Detections
from medprompt.core.errors import ImageError
from medprompt.core.files import sha256_of_file
from medprompt.core.frames import ALL_FRAMES, FramePolicy
from medprompt.core.progress import Progress, Silent
from medprompt.images.shown import remarks_on_shown
from medprompt.results.run import Item, Run
from medprompt.runtime.batch import Saving, run_item, run_of
from medprompt.runtime.detector import Detector
from medprompt.runtime.pipeline import Steps, in_flight
from medprompt.runtime.strategies import Prompting
from medprompt.runtime.threads import BackgroundWriter, Prefetcher
from medprompt.video.read import Frame, Video
from medprompt.video.write import AnnotatedVideo

DEPTH = 4
"""Frames that may wait on each side of the detector."""

SAVING_SHARE = 20
"""An unfinished run is saved so rarely that it takes at most one part in this many of the time."""


@dataclass
class _Clock:
    """When frames were ready, and when their detections were.

    ``waits`` are the seconds from each decoded frame to its detections.
    """

    began: float = field(default_factory=time.perf_counter)
    waits: list[float] = field(default_factory=list)

    def note(self, frame: Frame) -> None:
        self.waits.append(time.perf_counter() - frame.ready)

    def as_json(self) -> dict[str, Any]:
        """Latency in milliseconds and frames a second; null where no frame was analysed."""
        seconds = time.perf_counter() - self.began
        latency = {
            name: round(float(np.percentile(self.waits, part)) * 1000, 2)
            for name, part in (("p50", 50), ("p90", 90), ("p99", 99), ("max", 100))
            if self.waits
        }
        return {
            "seconds": round(seconds, 3),
            "frames_per_second": round(len(self.waits) / seconds, 3) if seconds else None,
            "latency_ms": latency or None,
        }


def infer_video(
    detector: Detector,
    video: Video,
    *,
    policy: FramePolicy = ALL_FRAMES,
    seconds: float | None = None,
    annotated: Path | None = None,
    prompting: Prompting | None = None,
    progress: Progress | None = None,
    saving: Saving | None = None,
) -> Run:
    """Detect in the frames of a video, in their order.

    The next frame of a file is prepared while the engine computes. Of a live source it is not taken before the last one
    is answered: so it is the newest.

    Of a file no frame is dropped. Of a live source the oldest waiting frame is, where the detector is slower than the
    source; ``Run.video`` says how many. A live source ends after ``seconds``, by an interrupt, or by itself.

    Args:
        detector: The loaded bundle.
        video: What to look at; it is read to its end.
        policy: Which frames; live sources are numbered as they arrive.
        seconds: How long a live source is looked at.
        annotated: A video to make of the frames that were taken, with their boxes; see ``AnnotatedVideo``.
        prompting: Which phrases each frame is prompted with; the whole bank where None.
        progress: Told about each frame taken.
        saving: How the run is kept while it goes on.

    Returns:
        One item a frame taken, in order. What cannot be decoded is one with the status ``REJECTED``.

    Raises:
        InputError: The annotated video or the saved run cannot be written.
    """
    prompting, progress = prompting or Prompting(), progress or Silent()
    total = None if video.live or video.frames is None else len(policy.of(video.frames))
    progress.step("watch" if video.live else "detect", total)
    sha256 = "" if video.live else sha256_of_file(Path(video.source))
    items: list[Item] = []
    clock = _Clock()
    complete = True

    def as_run(done: bool) -> Run:
        about = {**video.describes, "dropped": ahead.dropped, **clock.as_json()}
        return run_of(detector, prompting, tuple(items), complete=done, video=about)

    saver = _Saver(saving)
    with ExitStack() as stack:
        ahead = stack.enter_context(Prefetcher(_taken(video, policy), 1 if video.live else DEPTH, drop=video.live))
        writer: BackgroundWriter[tuple[Frame, Detections | None]] | None = None
        if annotated is not None:
            made = stack.enter_context(AnnotatedVideo(annotated, video.rate))
            writer = stack.enter_context(BackgroundWriter(lambda pair: made.add(*pair), DEPTH))
        try:
            source = Item(Path(video.name), None, sha256=sha256)
            works = (_steps(detector, prompting, source, frame, clock) for frame in ahead)
            for frame, item in in_flight(detector, works, ready=(lambda: False) if video.live else ahead.ready):
                items.append(item)
                if writer is not None and frame.pixels is not None:
                    writer.put((frame, item.detections))
                progress.advance()
                saver.maybe(lambda: as_run(False))
                if seconds is not None and time.perf_counter() - clock.began >= seconds:
                    break
        except KeyboardInterrupt:
            complete = video.live  # a camera never ends by itself
            if not complete:
                saver.now(lambda: as_run(False))
                raise
        if not items:
            raise ImageError(
                "The video has none of the frames asked for.",
                code="no_pixels",
                where=video.name,
                expected="at least one frame",
                got="none before the source ended",
                fix="pass other frames=, or a longer seconds=",
            )
        return as_run(complete)


def _taken(video: Video, policy: FramePolicy) -> Iterator[Frame]:
    """The frames asked for; those that do not decode are never left out."""
    for frame in video:
        if policy.last is not None and frame.number > policy.last:
            return
        wanted = frame.number >= policy.first and (frame.number - policy.first) % policy.step == 0
        if wanted or frame.error:
            yield frame


def _steps(
    detector: Detector, prompting: Prompting, source: Item, frame: Frame, clock: _Clock
) -> Steps[tuple[Frame, Item]]:
    item = replace(source, frame=frame.number, time_s=frame.time_s, warnings=frame.warnings)
    done = yield from run_item(item, _answered(detector, prompting, item, frame))
    clock.note(frame)
    return frame, done


def _answered(detector: Detector, prompting: Prompting, item: Item, frame: Frame) -> Steps[Item]:
    if frame.pixels is None:
        raise ImageError("The frame cannot be trusted, so it was not analysed.", code=frame.code, got=frame.error)
    found = yield from prompting.steps(detector, item.path, frame.pixels)
    warnings = (*item.warnings, *remarks_on_shown(frame.pixels), *found.warnings)
    return replace(item, detections=found, warnings=warnings)


class _Saver:
    """Saves an unfinished run now and then, more rarely as saving takes longer."""

    def __init__(self, saving: Saving | None) -> None:
        self.saving = saving
        self.due = time.monotonic() + (saving.every_s if saving else 0)

    def maybe(self, run: Callable[[], Run]) -> None:
        if self.saving and time.monotonic() >= self.due:
            self.now(run)

    def now(self, run: Callable[[], Run]) -> None:
        if self.saving:
            began = time.monotonic()
            self.saving.attempt(run())
            ended = time.monotonic()
            self.due = ended + max(self.saving.every_s, SAVING_SHARE * (ended - began))
