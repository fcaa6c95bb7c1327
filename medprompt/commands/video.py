"""``medprompt infer`` on a video or a live source."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from medprompt.commands.common import print_warnings
from medprompt.core.errors import InputError
from medprompt.core.terminal import print_table

if TYPE_CHECKING:
    from medprompt.dicom.frames import FramePolicy
    from medprompt.results.run import Run
    from medprompt.runtime import Detector
    from medprompt.runtime.batch import Saving
    from medprompt.runtime.strategies import Prompting


def only_video(inputs: list[str], others: Mapping[str, object]) -> str | None:
    """The video among the inputs; None where all are images.

    Args:
        inputs: As on the command line.
        others: Options that have no meaning for a video, and what was passed.

    Raises:
        InputError: A video beside other inputs, or with one of those options.
    """
    from medprompt.video.read import is_video

    videos = [one for one in inputs if is_video(one)]
    if not videos:
        return None
    if len(inputs) > 1:
        raise InputError(
            "A video is analysed alone.",
            expected="one video, or images",
            got=f"{len(videos)} videos and {len(inputs) - len(videos)} other inputs",
            fix="run the command once for each video, and once for the images",
        )
    used = [name for name, value in others.items() if value]
    if used:
        raise InputError("Not for videos.", where=", ".join(used), fix="leave it out; docs/video.md says what there is")
    return videos[0]


def no_video_options(seconds: float | None, annotated: Path | None) -> None:
    """Refuse for images what has a meaning for videos alone."""
    if seconds is not None or annotated is not None:
        raise InputError(
            "Only for videos.", where="--seconds, --annotated", fix="leave it out; pictures of images: --overlays"
        )


def run_video(
    detector: Detector,
    source: str,
    policy: FramePolicy,
    seconds: float | None,
    annotated: Path | None,
    prompting: Prompting | None,
    saving: Saving | None,
) -> Run:
    """Open a video and detect in it."""
    from medprompt.core.terminal import Steps
    from medprompt.runtime.video import infer_video
    from medprompt.video.read import Video

    with Video(source) as video:
        if seconds is not None and not video.live:
            raise InputError("Only for live sources.", where="--seconds", fix="choose frames of a file with --frames")
        with Steps("infer") as steps:
            return infer_video(
                detector,
                video,
                policy=policy,
                seconds=seconds,
                annotated=annotated,
                prompting=prompting,
                progress=steps,
                saving=saving,
            )


def print_video(run: Run) -> None:
    """A few lines about many frames: how many have which status, what was found, and how long it took."""
    about = run.video or {}
    statuses: dict[str, int] = {}
    found: dict[str, int] = {}
    for item in run.items:
        statuses[item.status] = statuses.get(item.status, 0) + 1
        for row in item.detections.rows() if item.detections is not None else ():
            found[row["label"]] = found.get(row["label"], 0) + 1
    latency = about.get("latency_ms")
    rows = [
        ("frames", ", ".join(f"{count} {status}" for status, count in statuses.items()) or "none"),
        ("dropped", str(about.get("dropped", 0))),
        ("detections", ", ".join(f"{count} {label}" for label, count in found.items()) or "none"),
        ("frames a second", f"{about.get('frames_per_second')}"),
        ("decoded → detections", _latency(latency)),
    ]
    print_table("Video", ["", ""], rows, f"engine {run.engine}: {run.engine_reason}")
    if about.get("dropped"):
        print_warnings([f"{about['dropped']} frames were dropped: the source is faster than the detector"])


def _latency(latency: dict[str, float] | None) -> str:
    if not latency:
        return "not measured: no frame was analysed"
    return ", ".join(f"{name} {value:.1f} ms" for name, value in latency.items())
