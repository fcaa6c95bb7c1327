"""Two bundles, engines or prompt banks on the same images: what they decide, how accurate and how fast they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medprompt.benchmarks.accuracy.evaluation import reporting_thresholds
from medprompt.benchmarks.accuracy.predictions import own_labels, short_name
from medprompt.benchmarks.latency.machine import check_threads, describe_machine, format_machine
from medprompt.benchmarks.latency.measure import taking_turns
from medprompt.benchmarks.latency.timing import LatencyReport, measure_latency
from medprompt.bundles.load import Bundle, load_bundle
from medprompt.core.detections import Detections
from medprompt.core.errors import InputError
from medprompt.core.manifest import ParityRecord
from medprompt.core.progress import Progress, Silent
from medprompt.core.terminal import Table
from medprompt.data import DetectionSet
from medprompt.images.read import load_image
from medprompt.metrics.agreement import check_decisions, under_labels
from medprompt.metrics.bootstrap import RESAMPLES, Estimate, MatchedSet, draw_images
from medprompt.metrics.masks import MASK_FIGURES, MASK_PRECISIONS, resample_masks
from medprompt.prompts.bank import PromptBank
from medprompt.runtime.detector import Detector
from medprompt.runtime.verify import tolerance_of_device

MAX_TIMED = 10
MAX_WORST = 10
FIGURES = ("ap", "ap50", "sensitivity")
Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Side:
    """One of the two: a bundle (or its folder), its engine, prompts instead of the bundle's own, a name for tables."""

    bundle: Bundle | Path | str
    device: str = "auto"
    bank: PromptBank | None = None
    name: str = ""


@dataclass(frozen=True)
class Worst:
    """An image (a file's name), and the comparison on it alone."""

    name: str
    record: ParityRecord

    @property
    def differing(self) -> int:
        """Decisions of the first that are gone, and new ones of the second."""
        return round((1 - self.record.kept) * self.record.decisions) + self.record.extra


@dataclass(frozen=True)
class Compared:
    """What came of it.

    Attributes:
        names: Of both sides.
        hashes: Bundle and bank hash of both.
        devices: Engines that served.
        parity: The second's decisions against the first's, under the second's tolerance.
        worst: Images on which decisions differ, most first.
        figures: By name of a set and figure: both sides' and the difference, second less first (paired); empty
            without labels.
        latency: Both in turn; the first is the baseline.
        machine: See ``describe_machine``.
    """

    names: tuple[str, str]
    hashes: tuple[dict[str, str], ...]
    devices: tuple[str, str]
    parity: ParityRecord
    worst: tuple[Worst, ...]
    figures: dict[str, dict[str, tuple[Estimate, Estimate, Estimate]]]
    latency: LatencyReport
    machine: dict[str, Any] = field(default_factory=describe_machine)

    def tables(self) -> Iterator[Table]:
        """Decisions, accuracy where there are labels, time."""
        record = self.parity
        row = {
            "images": str(record.images),
            "decisions of the first": str(record.decisions),
            "kept": f"{record.kept:.2%}",
            "new": str(record.extra),
            "max Δscore": f"{record.max_score_delta:.4f}",
            "within tolerance": "yes" if record.passed else "no",
        }
        if record.min_mask_iou is not None:
            row["least mask IoU"] = f"{record.min_mask_iou:.4f}"
        worst = "; ".join(f"{one.name}: {one.differing}" for one in self.worst[:3])
        yield Table(
            f"{self.names[0]} → {self.names[1]}",
            tuple(row),
            [tuple(row.values())],
            f"most differ on {worst}" if worst else "",
        )
        if self.figures:
            rows = [
                (name, figure, *map(str, values))
                for name, figures in self.figures.items()
                for figure, values in figures.items()
            ]
            yield Table("Accuracy", ("data", "figure", *self.names, "difference (95 %, paired)"), rows)
        yield Table("Latency", self.latency.columns(), self.latency.rows(), format_machine(self.machine))

    def as_json(self) -> dict[str, Any]:
        """Everything measured."""
        sides = ("first", "second", "difference")
        return {
            "names": list(self.names),
            "hashes": list(self.hashes),
            "devices": list(self.devices),
            "parity": self.parity.model_dump(mode="json"),
            "worst": [
                {"image": one.name, "differing": one.differing, **one.record.model_dump(mode="json")}
                for one in self.worst
            ],
            "figures": {
                name: {
                    figure: {side: value.as_json() for side, value in zip(sides, values, strict=True)}
                    for figure, values in figures.items()
                }
                for name, figures in self.figures.items()
            },
            "latency": self.latency.as_json(),
            "machine": self.machine,
        }


def compare_sides(
    first: Side,
    second: Side,
    *,
    labelled: Sequence[DetectionSet] = (),
    images: Sequence[Path] = (),
    threads: int = 1,
    rounds: int = 20,
    resamples: int = RESAMPLES,
    seed: int = 0,
    progress: Progress | None = None,
) -> Compared:
    """Compare two sides.

    Args:
        first: What ``second`` is compared with.
        second: The other.
        labelled: Labelled sets, for accuracy; their images are compared.
        images: Images without labels, compared too.
        threads: CPU threads of both.
        rounds: Timed calls of each, in turn.
        resamples: Draws of the intervals.
        seed: Of the draws.
        progress: Notified of each image.

    Raises:
        InputError: No image, classes that only one side has, see ``Detector.load``.
        DataError: A category without a class.
        ImageError: An image cannot be read: then nothing is compared.
    """
    check_threads(threads)
    progress = progress or Silent()
    common_labels = (first.bank or load_bundle(first.bundle).bank).labels
    labelled = [entry.covered_by(common_labels) for entry in labelled]
    parts: list[tuple[Sequence[Path], DetectionSet | None]] = [
        ([image.path for image in entry.images], entry) for entry in labelled
    ]
    parts += [(images, None)] if images else []
    if not parts:
        raise InputError("There is nothing to compare on.", where="data, images", fix="name labelled sets or images")
    opened = [(load_bundle(side.bundle), side) for side in (first, second)]
    sides = [
        replace(side, bundle=bundle, name=side.name or f"{bundle.path.name} on {side.device}")
        for bundle, side in opened
    ]
    found: list[list[Detections]] = [[], []]
    names: list[str] = []
    for paths, part in parts:
        progress.step(f"detect on {short_name(part.name) if part else 'images'}", len(paths))
        with _loaded(sides, threads, part) as detectors:
            for path in paths:
                pixels = load_image(path)
                for mine, detector in zip(found, detectors, strict=True):
                    mine.append(under_labels(detector(pixels), detectors[0].bank.labels))
                names.append(path.name)
                progress.advance()
    with _loaded(sides, threads) as detectors:
        timed = [path for paths, _ in parts for path in paths][:MAX_TIMED]
        progress.step("time them in turn", rounds)
        latency = _latency(detectors, [side.name for side in sides], timed, rounds, seed, progress.advance)
        parity, worst = _decisions(detectors, found, names)
        return Compared(
            names=(sides[0].name, sides[1].name),
            hashes=tuple({"bundle": one.bundle.sha256, "bank": one.bank.content_hash()} for one in detectors),
            devices=(detectors[0].choice.device, detectors[1].choice.device),
            parity=parity,
            worst=worst,
            figures=_figures(detectors, labelled, found, resamples, seed),
            latency=latency,
        )


@contextmanager
def _loaded(sides: Sequence[Side], threads: int, part: DetectionSet | None = None) -> Iterator[list[Detector]]:
    """Both detectors, asked for the classes of a labelled set, or for all."""
    with ExitStack() as stack:
        detectors = []
        for side in sides:
            bundle = load_bundle(side.bundle)
            bank = side.bank or bundle.bank
            labels = own_labels(bank, part) if part else None
            loaded = Detector.load(bundle, side.device, prompts=bank, labels=labels, threshold=0.0, threads=threads)
            detectors.append(stack.enter_context(loaded))
        _check_classes(detectors)
        yield detectors


def _check_classes(detectors: Sequence[Detector]) -> None:
    first, second = ({label.casefold() for label in detector.bank.labels} for detector in detectors)
    if first != second:
        raise InputError(
            "The two sides have different classes.",
            expected=", ".join(detectors[0].bank.labels),
            got=", ".join(detectors[1].bank.labels),
            fix="compare banks of the same classes",
        )


def _decisions(
    detectors: Sequence[Detector], found: Sequence[Sequence[Detections]], names: Sequence[str]
) -> tuple[ParityRecord, tuple[Worst, ...]]:
    threshold = detectors[0].manifest.default_threshold
    tolerance = tolerance_of_device(detectors[1].bundle, detectors[1].choice.device)
    top_k = detectors[1].manifest.postprocess.top_k
    masked = _both_masked(detectors)
    pairs = [(one if masked else replace(one, masks=None), other) for one, other in zip(*found, strict=True)]
    whole = check_decisions(pairs, threshold, tolerance, f"{len(names)} images", top_k)
    singles = (
        Worst(name, check_decisions([pair], threshold, tolerance, name, top_k))
        for name, pair in zip(names, pairs, strict=True)
    )
    differing = sorted((one for one in singles if one.differing), key=lambda one: -one.differing)
    return whole, tuple(differing[:MAX_WORST])


def _both_masked(detectors: Sequence[Detector]) -> bool:
    return all(detector.manifest.postprocess.mask_threshold is not None for detector in detectors)


def _figures(
    detectors: Sequence[Detector],
    labelled: Sequence[DetectionSet],
    found: Sequence[Sequence[Detections]],
    resamples: int,
    seed: int,
) -> dict[str, dict[str, tuple[Estimate, Estimate, Estimate]]]:
    figures, start = {}, 0
    for part in labelled:
        end = start + len(part.images)
        draws = draw_images(len(part.images), resamples, seed)
        sides = [MatchedSet(part, mine[start:end]).resample(draws) for mine in found]
        masked = part.masked and _both_masked(detectors)
        if masked:
            sides = [
                side.beside(resample_masks(part, mine[start:end], reporting_thresholds(part.labels, one), draws))
                for side, mine, one in zip(sides, found, detectors, strict=True)
            ]
        names = (*FIGURES, *((*MASK_PRECISIONS, *MASK_FIGURES) if masked else ()))
        deltas = sides[1].less(sides[0])
        both = [side.estimates() for side in sides]
        figures[short_name(part.name)] = {
            figure: (both[0][figure], both[1][figure], deltas[figure]) for figure in names
        }
        start = end
    return figures


def _latency(
    detectors: Sequence[Detector],
    names: Sequence[str],
    paths: Sequence[Path],
    rounds: int,
    seed: int,
    after_round: Callable[[], None],
) -> LatencyReport:
    images = [load_image(path) for path in paths]
    calls: dict[str, Callable[[], object]] = {}
    for index, (name, detector) in enumerate(zip(names, detectors, strict=True)):
        calls[name if name not in calls else f"{name} ({index + 1})"] = taking_turns(detector, images)
    return measure_latency(calls, rounds, 2, seed=seed, after_round=after_round)
