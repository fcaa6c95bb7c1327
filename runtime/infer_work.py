"""What a run of ``infer`` looks at, and how: its options, and the files that they are about."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from medprompt.bundles.load import HASH_FILE
from medprompt.core.errors import InputError
from medprompt.core.files import real_path
from medprompt.core.frames import FramePolicy, frame_policy_from_text
from medprompt.images.sources import Source, find_sources
from medprompt.reports.files import need_reports
from medprompt.runtime.selection.serving_options import Banks
from medprompt.video.read import is_video

if TYPE_CHECKING:
    from medprompt.reports.source import ReportSource

Files = Path | str | Sequence[Path | str]


@dataclass(frozen=True, kw_only=True)
class InferOptions:
    """How files are analysed, and what is written about them; ``infer`` says what each option means."""

    out: Path | None = None
    overlays: Path | None = None
    coco: Path | None = None
    coco_ids: Path | None = None
    coco_dataset: Path | None = None
    csv: Path | None = None
    sr: Path | None = None
    seg: Path | None = None
    segment: Path | None = None
    annotated: Path | None = None
    resume: bool = False
    force: bool = False
    prompts: Banks | None = None
    labels: Sequence[str] | None = None
    prompt_map: Path | None = None
    select: str | None = None
    threshold: float | None = None
    frames: str = "all"
    seconds: float | None = None
    tile: int | None = None
    tile_overlap: float = 0.25
    device: str = "auto"
    threads: int | None = None
    strict: bool = False
    self_test: bool = False
    site_check: bool = False
    key: Path | None = None


AT_ONCE = 2
"""Requests that a CPU engine computes at the same time where there is no hurry for a single one."""

AT_ONCE_FROM = 8
"""With fewer images, two at a time take longer than one after another with all threads."""


def requests_at_once(work: Work) -> int:
    """A live source is looked at frame by frame, for each to be answered soon."""
    many = Path(work.video).is_file() if work.video else len(work.sources) >= AT_ONCE_FROM
    return AT_ONCE if many else 1


@dataclass(frozen=True)
class Work:
    """What is looked at: image files by their frames, or one video."""

    policy: FramePolicy
    inputs: Sequence[Path]  # as they were given, and the files that were found
    sources: Sequence[Source] = ()
    video: str | None = None
    headers: dict[Path, ReportSource] = field(default_factory=dict)  # of DICOM files, for their reports: read once
    passed_over: Mapping[str, Sequence[Path]] = field(default_factory=dict)  # files of folders, by their kind

    @property
    def paths(self) -> list[Path]:
        """The image files, each once."""
        return list(dict.fromkeys(source.path for source in self.sources))


def work_of(images: Files, options: InferOptions) -> Work:
    """Refuse early what cannot be analysed, or not with these options."""
    policy = frame_policy_from_text(options.frames)
    inputs = _listed(images)
    if videos := [one for one in inputs if is_video(one)]:
        _check_video(videos, inputs, options)
        return Work(policy, [Path(videos[0])], video=videos[0])
    if bundles := [one for one in inputs if (Path(one) / HASH_FILE).is_file()]:
        raise InputError(
            "This is a bundle, and images are needed here.",
            where="images",
            got=bundles[0],
            fix="name the bundle first, then the images",
        )
    passed: dict[str, list[Path]] = defaultdict(list)
    own = {real_path(path) for path in (options.out, options.coco, options.coco_dataset, options.csv) if path}
    sources = find_sources(
        inputs, policy, lambda path, kind: None if real_path(path) in own else passed[kind].append(path)
    )
    if videos := [str(source.path) for source in sources if source.video]:
        _check_video(videos, inputs, options)
        return Work(policy, [Path(videos[0])], video=videos[0])
    if options.seconds is not None or options.annotated is not None:
        raise InputError(
            "Only for videos.", where="seconds, annotated", fix="leave it out; for pictures of images pass overlays="
        )
    _check_reports(sources, options)
    return Work(policy, [*map(Path, inputs), *(source.path for source in sources)], sources, passed_over=passed)


def _listed(images: Files) -> list[str]:
    several = [images] if isinstance(images, str | Path) else list(images) if isinstance(images, Iterable) else []
    wrong = [type(one).__name__ for one in several if not isinstance(one, str | Path)]
    if wrong or not several:
        raise InputError(
            "These are not files.",
            where="images",
            expected="a path, or several; pictures and arrays go to a Detector",
            got=wrong[0] if wrong else "none" if isinstance(images, Iterable) else type(images).__name__,
        )
    return [str(one) for one in several]


def _check_video(videos: Sequence[str], inputs: Sequence[str], options: InferOptions) -> None:
    if len(inputs) > 1:
        raise InputError(
            "A video is analysed alone.",
            expected="one video, or images",
            got=f"{len(videos)} videos and {len(inputs) - len(videos)} other inputs",
            fix="run it once for each video, and once for the images",
        )
    used = [name for name in ("overlays", "sr", "seg", "prompt_map", "resume", "site_check") if getattr(options, name)]
    if used:
        raise InputError("Not for videos.", where=", ".join(used), fix="leave it out; see `medprompt docs video`")


def _check_reports(sources: Iterable[Source], options: InferOptions) -> None:
    asked = [name for name in ("sr", "seg") if getattr(options, name)]
    if not asked:
        return
    need_reports()
    if not any(source.dicom for source in sources):
        raise InputError(
            "DICOM objects are made of DICOM files, and none of these is one.",
            where=", ".join(asked),
            fix="use out=, coco= or csv=",
        )
