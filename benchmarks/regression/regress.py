"""Is this bundle as good as the last release? Accuracy paired on the same images, time against the same reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medprompt.benchmarks.accuracy.predictions import own_labels, predict_dataset, short_name
from medprompt.benchmarks.latency.machine import check_threads
from medprompt.benchmarks.latency.measure import pytorch_contenders, taking_turns
from medprompt.benchmarks.latency.processes import peak_of_infer
from medprompt.benchmarks.latency.timing import measure_latency
from medprompt.benchmarks.regression.baseline import (
    MIN_SCORE,
    Baseline,
    BaselineLatency,
    Environment,
    current_environment,
    detections_of_baseline,
    now,
    set_for_baseline,
)
from medprompt.benchmarks.regression.decisions import decision_check, thresholds_of
from medprompt.benchmarks.regression.limits import Limits
from medprompt.benchmarks.regression.reference_workload import REFERENCE_WORKLOAD, ReferenceWorkload, calibrate_repeats
from medprompt.benchmarks.regression.verdict import Check, Outcome, exact, latency_check
from medprompt.bundles.load import Bundle, load_bundle
from medprompt.core.detections import Detections
from medprompt.core.errors import DataError, InputError
from medprompt.core.progress import Progress, Silent
from medprompt.data import DetectionSet
from medprompt.images.read import load_image
from medprompt.metrics.bootstrap import RESAMPLES, MatchedSet, draw_images
from medprompt.prompts.bank import PromptBank
from medprompt.runtime.detector import Detector
from medprompt.runtime.verify import tolerance_of_device

MAX_IMAGES = 10
"""Images that latency is measured on, from the first set."""

OLD_BUNDLE = "old bundle"

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class MeasurementOptions:
    """How to measure.

    Attributes:
        device: The bundle's engine.
        threads: CPU threads of all that is timed, no more than cores.
        rounds: Timed calls of each contender.
        warmup: Warm-up calls of each.
        bank: Prompts to use instead of the bundle's own.
        checkpoint: Time in turn with PyTorch on the bundle's checkpoint.
        against: Time in turn with this bundle, on the same engine: the surest comparison.
    """

    device: str = "auto"
    threads: int = 1
    rounds: int = 30
    warmup: int = 2
    bank: PromptBank | None = None
    checkpoint: Path | None = None
    against: Path | None = None
    resamples: int = RESAMPLES
    seed: int = 0


@dataclass(frozen=True)
class Comparison:
    """A bundle against a baseline.

    Attributes:
        checks: One entry a figure and set.
        notes: What a reader must know: versions that changed, hardware that differs.
    """

    checks: tuple[Check, ...]
    baseline: Baseline
    bundle_sha256: str
    environment: Environment
    notes: tuple[str, ...] = ()

    @property
    def outcome(self) -> Outcome:
        """Failed where one check failed, else no verdict where one has none."""
        outcomes = {check.outcome for check in self.checks}
        return next(one for one in (Outcome.failed, Outcome.unclear, Outcome.passed) if one in outcomes)

    def of(self, outcome: Outcome) -> tuple[Check, ...]:
        """The checks that say this."""
        return tuple(check for check in self.checks if check.outcome is outcome)

    def as_json(self) -> dict[str, Any]:
        """Everything."""
        before = self.baseline.model_dump(mode="json", include={"bundle_sha256", "created", "reason"})
        return {
            "outcome": str(self.outcome),
            "checks": [check.as_json() for check in self.checks],
            "notes": list(self.notes),
            "bundle_sha256": self.bundle_sha256,
            "baseline": {**before, "place": self.baseline.environment.model_dump(mode="json")},
            "place": self.environment.model_dump(mode="json"),
        }


def measure_baseline(
    bundle: Bundle,
    labelled: Sequence[DetectionSet],
    reason: str,
    options: MeasurementOptions,
    before: Baseline | None = None,
    progress: Progress | None = None,
) -> Baseline:
    """Measure a bundle as a baseline keeps it.

    Categories of ``labelled``, at least one set, are matched to the classes by name. People read ``reason`` in later
    reports. Of ``before``, which it will be compared with, the minimum score and the reference are taken over.

    Raises:
        DataError: A category without a class.
        ImageError: An image cannot be read: figures over other images would not compare.
        InputError: See ``Detector.load`` and ``check_threads``, or a reference that the baseline was not measured with.
    """
    progress = progress or Silent()
    check_threads(options.threads)
    bank = options.bank or bundle.bank
    labelled = [entry.covered_by(bank.labels) for entry in labelled]
    banks = [bank.subset(own_labels(bank, entry)) for entry in labelled]
    min_score = before.min_score if before else _min_score(bundle, bank)
    sets, device = [], options.device
    for entry, own in zip(labelled, banks, strict=True):
        with Detector.load(bundle, device, prompts=own, threshold=min_score, threads=options.threads) as detector:
            device = detector.choice.device  # the later ones shall be served by the same engine
            progress.step(f"detect on {short_name(entry.name)}", len(entry.images))
            sets.append(set_for_baseline(entry, predict_dataset(detector, entry, progress).bundle))
    paths = [image.path for image in labelled[0].images[:MAX_IMAGES]]
    latency = _latency(bundle, banks[0], device, [load_image(path) for path in paths], options, before, progress)
    progress.step("memory of a whole infer")
    return Baseline(
        created=now(),
        reason=reason,
        environment=current_environment(device, options.threads),
        bundle_sha256=bundle.sha256,
        bank_sha256=bank.content_hash(),
        bundle_bytes=sum(path.stat().st_size for path in bundle.path.rglob("*") if path.is_file()),
        peak_mib=peak_of_infer(bundle.path, device, paths, options.threads),
        min_score=min_score,
        thresholds=thresholds_of(bank.prompts, bundle.manifest.default_threshold),
        sets=tuple(sets),
        latency=latency,
    )


def compare_with_baseline(
    bundle: Bundle | Path | str,
    baseline: Baseline,
    labelled: Sequence[DetectionSet],
    limits: Limits | None = None,
    options: MeasurementOptions | None = None,
    allow_mismatch: bool = False,
    progress: Progress | None = None,
) -> Comparison:
    """Measure a bundle and check each figure's change against its limit.

    ``labelled`` are the baseline's data sets, in its order. With ``allow_mismatch`` they are compared even where the
    hardware differs; times then mean little.

    Raises:
        InputError: Other hardware, engine, threads or reference than the baseline's; see ``measure_baseline``.
        DataError: Other data.
    """
    limits, options = limits or Limits(), options or MeasurementOptions()
    loaded = load_bundle(bundle)
    bank = options.bank or loaded.bank
    labelled = [entry.covered_by(bank.labels) for entry in labelled]  # as the baseline keeps them
    kept = _kept_detections(baseline, labelled)
    notes = _check_environment(baseline.environment, options, allow_mismatch)
    measured = measure_baseline(loaded, labelled, "compared", options, baseline, progress)
    _check_engine(baseline.environment, measured.environment, allow_mismatch)
    tolerance = tolerance_of_device(loaded, measured.environment.device)
    checks: list[Check] = []
    for entry, then, mine in zip(labelled, kept, measured.sets, strict=True):
        found = detections_of_baseline(mine, entry)
        checks += _accuracy_checks(entry, then, found, limits, options)
        thresholds = (baseline.thresholds or measured.thresholds, measured.thresholds)
        pairs = list(zip(then, found, strict=True))
        checks.append(decision_check(entry.name, pairs, thresholds, tolerance, limits.decisions_lost))
    before = None if measured.latency.reference == OLD_BUNDLE else baseline.latency.ratios
    checks.append(latency_check(np.array(measured.latency.ratios), before, limits.latency_ratio, options.seed))
    memory, size = measured.peak_mib / baseline.peak_mib, measured.bundle_bytes / baseline.bundle_bytes
    checks.append(exact("memory", memory, limits.memory_ratio, 1, "runs"))
    checks.append(exact("bundle size", size, limits.bundle_size_ratio, 1, "bundles"))
    changed = baseline.environment.changed_libraries(measured.environment)
    notes += tuple(f"version changed: {line}" for line in changed)
    return Comparison(tuple(checks), baseline, loaded.sha256, measured.environment, notes)


def _kept_detections(baseline: Baseline, labelled: Sequence[DetectionSet]) -> list[list[Detections]]:
    if len(labelled) != len(baseline.sets):
        raise DataError(
            "These are not the baseline's data sets.",
            expected=", ".join(entry.name for entry in baseline.sets),
            got=", ".join(entry.name for entry in labelled),
            fix="name the baseline's sets, in its order",
        )
    return [detections_of_baseline(kept, entry) for kept, entry in zip(baseline.sets, labelled, strict=True)]


def _check_environment(before: Environment, options: MeasurementOptions, allow_mismatch: bool) -> tuple[str, ...]:
    """Refuse hardware or threads of another baseline; a note where that is allowed."""
    here = current_environment(before.device, options.threads)
    pairs = [("hardware", before.hardware, here.hardware), ("threads", str(before.threads), str(here.threads))]
    notes = []
    for name, then, mine in pairs:
        if then != mine and not allow_mismatch:
            raise InputError(
                f"The baseline was measured with different {name}.",
                where="baseline",
                expected=then,
                got=mine,
                fix="use a baseline of this machine and setting, or pass allow_mismatch=True to compare anyway",
            )
        if then != mine:
            notes.append(f"other {name}: then {then}, now {mine}; times do not compare")
    return tuple(notes)


def _check_engine(before: Environment, here: Environment, allow_mismatch: bool) -> None:
    if before.device != here.device and not allow_mismatch:
        raise InputError(
            "The baseline was measured on another engine.",
            where="device",
            expected=before.device,
            got=here.device,
            fix=f"pass device={before.device}, use a baseline of this engine, or pass allow_mismatch=True",
        )


def _min_score(bundle: Bundle, bank: PromptBank) -> float:
    """Well under every threshold, so that a detection on the border is not lost from one side."""
    own = thresholds_of(bank.prompts, bundle.manifest.default_threshold)
    return min(MIN_SCORE, min(own.values()) / 2)


def _accuracy_checks(
    labelled: DetectionSet,
    then: Sequence[Detections],
    found: Sequence[Detections],
    limits: Limits,
    options: MeasurementOptions,
) -> list[Check]:
    draws = draw_images(len(labelled.images), options.resamples, options.seed)
    before, after = (MatchedSet(labelled, side, ious=(0.5,)).resample(draws) for side in (then, found))
    losses = before.less(after)
    limited = {"AP50": (losses["ap50"], limits.ap50_drop), "FROC": (losses["sensitivity"], limits.sensitivity_drop)}
    name, count = short_name(labelled.name), len(labelled.images)
    return [
        Check(f"{title} loss, {name}", loss.value, loss.low, loss.high, limit, count, "images")
        for title, (loss, limit) in limited.items()
    ]


def _latency(
    bundle: Bundle,
    bank: PromptBank,
    device: str,
    images: Sequence[Image],
    options: MeasurementOptions,
    before: Baseline | None,
    progress: Progress,
) -> BaselineLatency:
    """Time the bundle in turn with the old bundle, PyTorch or the reference workload."""
    with ExitStack() as stack:
        detector = stack.enter_context(Detector.load(bundle, device, prompts=bank, threads=options.threads))
        name, reference, repeats = _contender(detector, images[0], options, before, stack)
        progress.step(f"time in turn with {name}", options.rounds)
        report = measure_latency(
            {name: taking_turns(reference, images), "bundle": taking_turns(detector, images)},
            options.rounds,
            options.warmup,
            after_round=progress.advance,
        )
    ratios = report.series["bundle"].wall_ms / report.series[name].wall_ms
    return BaselineLatency(reference=name, repeats=repeats, ratios=tuple(map(float, ratios)))


def _contender(
    detector: Detector, image: Image, options: MeasurementOptions, before: Baseline | None, stack: ExitStack
) -> tuple[str, Callable[[Image], object], int]:
    """Name of the reference, what it does with an image, and the reference workload's repeats."""
    if options.against:
        labels, device = detector.bank.labels, detector.choice.device
        old = stack.enter_context(Detector.load(options.against, device, labels=labels, threads=options.threads))
        return OLD_BUNDLE, old, 0
    if options.checkpoint:
        found = pytorch_contenders(
            detector.bundle, options.checkpoint, False, options.threads, on_gpu=detector.engine.on_gpu
        )
        name, chosen = next(iter(found.items()))
        _check_contender(before, name)
        return name, chosen.call, 0
    _check_contender(before, REFERENCE_WORKLOAD)
    repeats = before.latency.repeats if before else calibrate_repeats(lambda: detector(image))
    workload = ReferenceWorkload(repeats)
    return REFERENCE_WORKLOAD, lambda _: workload(), repeats


def _check_contender(before: Baseline | None, name: str) -> None:
    if before and before.latency.reference != name:
        raise InputError(
            "The baseline was timed against a different reference.",
            where="baseline",
            expected=before.latency.reference,
            got=name,
            fix="pass reference= as for the baseline, or against=OLD_BUNDLE, which needs no times of the baseline",
        )
