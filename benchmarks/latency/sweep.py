"""How latency grows: one axis at a time, its points measured in turn, as CSV and as a picture.

Axes: phrases, images a batch, threads, sides of the source image, each on every engine that is requested (and so in
every precision that has one).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medprompt.benchmarks.latency.machine import check_threads, describe_machine
from medprompt.benchmarks.latency.sweep_report import Row, Sweep
from medprompt.benchmarks.latency.timing import LatencyReport, measure_latency
from medprompt.bundles.load import Bundle, load_bundle
from medprompt.core.errors import InputError
from medprompt.core.progress import Progress, Silent
from medprompt.prompts.bank import PromptBank
from medprompt.prompts.schema import PromptClass
from medprompt.runtime.detector import Detector

AXES = ("phrases", "batch", "threads", "side")


@dataclass(frozen=True)
class Point:
    """What is measured at once.

    Attributes:
        device: Engine.
        phrases: Length of the bank; 0 for the bundle's own.
        batch: Images a call.
        threads: CPU threads.
        side: Longer side of the source images in pixels; 0 for their own.
    """

    device: str
    phrases: int = 0
    batch: int = 1
    threads: int = 1
    side: int = 0


def run_sweep(
    bundle: Bundle | Path | str,
    images: Sequence[NDArray[np.uint8]],
    axes: Mapping[str, Sequence[int]],
    *,
    devices: Sequence[str] = ("auto",),
    threads: int = 1,
    rounds: int = 10,
    warmup: int = 1,
    seed: int = 0,
    progress: Progress | None = None,
) -> Sweep:
    """Measure every axis.

    Args:
        bundle: A bundle, or its folder.
        images: uint8 ``[H, W, 3]`` each; a call takes the next ones.
        axes: Points by axis, any of ``AXES``.
        devices: Engines.
        threads: Threads where they are not what is varied.
        rounds: Timed calls of each point, all points of an axis and an engine in turn.
        warmup: Calls of each before them.
        seed: Of the ratios' intervals.
        progress: Notified of each round.

    Raises:
        InputError: An axis that is none, a point out of range, more threads than cores, see ``Detector.load``.
    """
    check_axes(axes)
    check_threads(threads)
    progress = progress or Silent()
    loaded = load_bundle(bundle)
    rows: list[Row] = []
    for axis, values in axes.items():
        for device in devices:
            own = Point(device, threads=threads)
            points = [replace(own, **{axis: value}) for value in values]  # type: ignore[arg-type]  # axes are numbers
            progress.step(f"{axis} on {device}", rounds)
            rows += _measured(loaded, images, axis, points, rounds, warmup, seed, progress.advance)
    return Sweep(tuple(rows), describe_machine(), loaded.sha256)


def check_axes(axes: Mapping[str, Sequence[int]]) -> None:
    """Refuse what cannot be measured.

    Raises:
        InputError: An unknown axis, no point, a point under 1, or more threads than cores.
    """
    for axis, values in axes.items():
        if axis not in AXES or not values or min(values) < 1:
            raise InputError(
                "The sweep has an invalid value.",
                where=axis,
                expected=f"{', '.join(AXES)}, each with numbers from 1",
                got=", ".join(map(str, values)) or "no point",
            )
    check_threads(max(axes.get("threads", (1,))))


def _measured(
    bundle: Bundle,
    images: Sequence[NDArray[np.uint8]],
    axis: str,
    points: Sequence[Point],
    rounds: int,
    warmup: int,
    seed: int,
    after_round: Callable[[], None],
) -> Iterator[Row]:
    with ExitStack() as stack:
        calls: dict[str, Callable[[], object]] = {}
        for point in points:
            bank = bank_of_length(bundle.bank, point.phrases) if point.phrases else bundle.bank
            detector = stack.enter_context(Detector.load(bundle, point.device, prompts=bank, threads=point.threads))
            calls[str(getattr(point, axis))] = _batches(detector, _of_side(images, point.side), point.batch)
        report = measure_latency(calls, rounds, warmup, seed=seed, after_round=after_round)
        phrases, side = len(bundle.bank.prompts.texts), max(images[0].shape[:2])
        for point in points:
            known = replace(
                point, device=detector.choice.device, phrases=point.phrases or phrases, side=point.side or side
            )
            yield _row(axis, known, report, str(getattr(point, axis)))


def _row(axis: str, point: Point, report: LatencyReport, name: str) -> Row:
    p50, p90, p99 = (float(value) for value in np.quantile(report.series[name].wall_ms, (0.5, 0.9, 0.99)))
    ratio = report.ratio(name)
    return Row(
        axis=axis,
        value=getattr(point, axis),
        **asdict(point),
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        ms_per_image=p50 / point.batch,
        images_per_s=1e3 * point.batch / p50,
        ratio=ratio.median,
        low=ratio.low,
        high=ratio.high,
    )


def _batches(detector: Detector, images: Sequence[NDArray[np.uint8]], size: int) -> Callable[[], object]:
    """Each call takes the next images."""
    turns = itertools.cycle(images)
    return lambda: detector.batch(list(itertools.islice(turns, size)))


def _of_side(images: Sequence[NDArray[np.uint8]], side: int) -> list[NDArray[np.uint8]]:
    """The images with their longer side resized; as they are for 0."""
    if not side:
        return list(images)
    sized = []
    for image in images:
        scale = side / max(image.shape[:2])
        width, height = (max(1, round(length * scale)) for length in image.shape[1::-1])
        sized.append(np.asarray(Image.fromarray(image).resize((width, height))))
    return sized


def bank_of_length(bank: PromptBank, count: int) -> PromptBank:
    """A bank of ``count`` phrases, each a class, with the tensors of ``bank``'s phrases in turn.

    Time depends on how many there are, not on what they say; so no text encoder is needed.
    """
    rows = np.arange(count) % len(bank.prompts.texts)
    classes = tuple(PromptClass.model_validate({"label": f"{n}", "phrases": [f"phrase {n}"]}) for n in range(count))
    tensors = {
        name: bank.tensors[name] if layout == "shared" else np.concatenate([bank.pieces(name)[row] for row in rows])
        for name, layout in bank.layouts.items()
    }
    counts = bank.token_counts[rows] if len(bank.token_counts) else bank.token_counts
    prompts = bank.prompts.model_copy(update={"classes": classes})
    return PromptBank(prompts, bank.encoder, tensors, bank.layouts, counts, bank.separator_tokens)
