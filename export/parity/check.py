"""The last step of every export: the bundle, run by the runtime's own Detector, against PyTorch."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medprompt.bundles.load import load_bundle
from medprompt.core.detections import Detections
from medprompt.core.errors import EngineError, ParityError, missing_extra
from medprompt.core.manifest import EngineRecord, ParityRecord, Postprocess, Tolerance
from medprompt.core.progress import Progress
from medprompt.export.families.base import Family
from medprompt.export.parity.images import ParityImages
from medprompt.export.parity.reference import reference_detections
from medprompt.export.parity.stages import OutputError, compare_stages, output_errors, stages_of_image
from medprompt.metrics.agreement import check_decisions, compare_detections
from medprompt.prompts.schema import Prompts
from medprompt.runtime.detector import Detector
from medprompt.runtime.engines import ENGINES, engine_class

ROUNDS = 7
"""Timed rounds a device; the first of them warms up and does not count."""

SECONDS_FOR_TIMING = 20.0
"""Timing ends early after this long: a rank order of engines is wanted, not a benchmark."""

REAL_IMAGES = "compare on images like those the model was trained on (images=FOLDER)"
STAGE_TEXTS = {
    "preprocess": (
        "preprocess: medprompt's resize differs from that of the checkpoint's image processor",
        f"{REAL_IMAGES}, and report it with the versions of transformers, torch and torchvision if it stays",
    ),
    "core": (
        "core: the family's graph differs from transformers' forward, or phrases of different classes score so nearly "
        "alike that rounding decides which of them wins",
        f"{REAL_IMAGES}; reword phrases of different classes that mean the same; report it if it stays",
    ),
    "graph": (
        "graph: pooling or top-K in the graph differs from the decision rule",
        f"{REAL_IMAGES}, and report it if it stays",
    ),
    "": ("ONNX or the engine: every stage inside PyTorch agrees", f"{REAL_IMAGES}, and report it if it stays"),
}
"""Cause and remedy by the stage that parted first."""


@dataclass(frozen=True)
class ParityReport:
    """Everything that the comparison measured.

    Attributes:
        engines: One record a device that medprompt knows for this machine.
        output_errors: Index-wise errors of the raw outputs, by device, on the weakest image.
        stages: Comparison of each stage inside PyTorch with the one before it, on that image.
        image_source: Which images were compared.
        one_size: What the model's one size keeps of the decisions of the checkpoint's own processor, where they differ.
    """

    engines: tuple[EngineRecord, ...]
    output_errors: Mapping[str, tuple[OutputError, ...]]
    stages: Mapping[str, ParityRecord]
    image_source: str
    one_size: ParityRecord | None = None

    def summary(self) -> dict[str, Any]:
        """The report as JSON values: the content of ``reports/parity.json``."""
        return {
            "image_source": self.image_source,
            "engines": [record.model_dump(mode="json") for record in self.engines],
            "output_errors": {d: [asdict(e) for e in errors] for d, errors in self.output_errors.items()},
            "stages_in_pytorch": {name: record.model_dump(mode="json") for name, record in self.stages.items()},
            "one_size_in_pytorch": self.one_size.model_dump(mode="json") if self.one_size else None,
        }


def parity_devices() -> dict[str, str]:
    """Devices whose parity is checked, with the reason where one cannot run here (empty: it can).

    Those that load an engine file or a typed model are left out: an export has none yet.
    """
    classes = {device: engine_class(device) for device in ENGINES if device != "fake"}
    loading = {device: engine for device, engine in classes.items() if not (engine.needs_compiled or engine.model)}
    return {device: engine.available() for device, engine in loading.items()}


def check_devices() -> None:
    """Refuse to start an export whose parity no engine could check.

    Raises:
        EngineError: No engine is installed.
    """
    if all(parity_devices().values()):
        raise missing_extra("The parity check at the end of an export", "onnxruntime or openvino", "cpu")


def references_of_images(
    family: Family, prompts: Prompts, postprocess: Postprocess, images: ParityImages, progress: Progress
) -> list[Detections]:
    """What PyTorch decides on each image, all K detections."""
    progress.step("PyTorch reference", len(images))
    found = []
    for image in images:
        found.append(reference_detections(family, image, prompts, postprocess))
        progress.advance()
    return found


@dataclass(frozen=True)
class ParityCheck:
    """A bundle in the making, and what its engines are compared with.

    Attributes:
        family: The checkpoint that the bundle came from.
        folder: The bundle; its manifest need not list engines yet.
        images: What to compare on.
        references: PyTorch's detections on them, see ``references_of_images``.
        threshold: Minimum score of a decision.
        progress: Notified of each step.
    """

    family: Family
    folder: Path
    images: ParityImages
    references: Sequence[Detections]
    threshold: float
    progress: Progress


def check_parity(check: ParityCheck) -> ParityReport:
    """Compare a bundle's decisions with PyTorch's on every device that can run here.

    Raises:
        ParityError: No device decides as PyTorch does; the text names the numbers and the stage that parted
            first. Or PyTorch finds nothing, and nothing can be compared.
    """
    if not any(map(len, check.references)):
        raise _nothing_found(check)
    runs: list[_Run] = []
    skipped: list[EngineRecord] = []
    with ExitStack() as stack:
        for device, obstacle in parity_devices().items():
            try:
                runs.append(_run_device(check, device, obstacle, stack))
            except EngineError as error:
                skipped.append(_not_run(device, obstacle, error))
        if not runs:
            raise _failure(ParityReport(tuple(skipped), {}, {}, check.images.source))
        report = _report(check, runs, skipped)
    if not any(record.parity and record.parity.passed for record in report.engines):
        raise _failure(report)
    return report


def typed_engines(check: ParityCheck, model: str) -> tuple[EngineRecord, ...]:
    """The records of the engines that load a bundle's typed model. See ``check_parity``; one that fails is no error."""
    return tuple(_typed_engine(check, device) for device in ENGINES if engine_class(device).model == model)


def _typed_engine(check: ParityCheck, device: str) -> EngineRecord:
    obstacle = engine_class(device).available()
    with ExitStack() as stack:
        try:
            run = _run_device(check, device, obstacle, stack)
        except EngineError as error:
            return _not_run(device, obstacle, error)
        return _record(run, _latencies_ms({device: run.detector}, next(iter(check.images)))[device])


def _not_run(device: str, obstacle: str, error: EngineError) -> EngineRecord:
    reason = obstacle or " ".join(str(error).split())
    return EngineRecord(device=device, precision=precision_of(device), reason=reason)


@dataclass(frozen=True)
class _Run:
    """One device's answers."""

    device: str
    detector: Detector
    parity: ParityRecord
    weakest: int
    batch_parity: ParityRecord
    load_ms: float | None = None


def _report(check: ParityCheck, runs: Sequence[_Run], skipped: Sequence[EngineRecord]) -> ParityReport:
    """Time the devices, then follow the weakest image through every stage."""
    check.progress.step("latency")
    latencies = _latencies_ms({run.device: run.detector for run in runs}, next(iter(check.images)))
    bundle = load_bundle(check.folder)
    weakest = next(islice(check.images, runs[0].weakest, None))
    check.progress.step("stages inside PyTorch")
    stages = stages_of_image(check.family, bundle.bank, bundle.manifest.postprocess, weakest)
    outputs = {run.device: run.detector.engine.run(run.detector.feeds([weakest])) for run in runs}
    return ParityReport(
        engines=(*(_record(run, latencies[run.device]) for run in runs), *skipped),
        output_errors={device: output_errors(stages.graph_outputs, named) for device, named in outputs.items()},
        stages=compare_stages(stages, check.threshold, check.family.tolerances["fp32"]),
        image_source=check.images.source,
    )


def precision_of(device: str) -> str:
    """Arithmetic of a device that loads an ONNX file."""
    return engine_class(device).arithmetic


def _run_device(check: ParityCheck, device: str, obstacle: str, stack: ExitStack) -> _Run:
    """Load the bundle on a device, until ``stack`` closes, and let it decide on every image."""
    if obstacle:
        raise EngineError(obstacle)
    began = time.perf_counter()
    detector = Detector.load(check.folder, device=device, threshold=0.0, self_test=False)
    load_ms = (time.perf_counter() - began) * 1e3
    stack.callback(detector.close)
    check.progress.step(f"parity on {device}", len(check.images))
    found = []
    for image in check.images:
        found.append(detector(image))
        check.progress.advance()
    pairs = list(zip(check.references, found, strict=True))
    top_k = detector.manifest.postprocess.top_k
    tolerance = check.family.tolerances.get(precision_of(device), check.family.tolerances["fp32"])
    compared = [compare_detections(*pair, check.threshold, tolerance, top_k) for pair in pairs]
    return _Run(
        device=device,
        detector=detector,
        parity=check_decisions(pairs, check.threshold, tolerance, check.images.source, top_k),
        weakest=int(np.argmin([len(image.ious) / image.decisions if image.decisions else 1.0 for image in compared])),
        batch_parity=_batch_of_two(detector, next(iter(check.images)), check.threshold, tolerance),
        load_ms=load_ms,
    )


def _batch_of_two(detector: Detector, image: NDArray[np.uint8], threshold: float, tolerance: Tolerance) -> ParityRecord:
    """An image and its mirror image in one batch must decide as each does alone."""
    pair = [image, np.ascontiguousarray(image[:, ::-1])]
    isolated = [detector(item) for item in pair]
    together = detector.batch(pair)
    return check_decisions(list(zip(isolated, together, strict=True)), threshold, tolerance, "batch of two")


def _latencies_ms(detectors: Mapping[str, Detector], image: NDArray[np.uint8]) -> dict[str, float]:
    """Median time from image to detections by device, devices interleaved."""
    times: dict[str, list[float]] = {device: [] for device in detectors}
    started = time.perf_counter()
    for done in range(ROUNDS):
        for device, detector in detectors.items():
            before = time.perf_counter()
            detector(image)
            times[device].append(1000 * (time.perf_counter() - before))
        if done and time.perf_counter() - started > SECONDS_FOR_TIMING:
            break
    return {device: float(np.median(values[1:])) for device, values in times.items()}


def _record(run: _Run, latency_ms: float) -> EngineRecord:
    parity, precision, reason = run.parity, precision_of(run.device), ""
    min_share = parity.kept if precision == "fp32" else least_share(parity.kept, parity.decisions)
    if not run.batch_parity.passed:
        reason = f"a batch of two decides otherwise than one by one: {describe_parity(run.batch_parity)}"
    elif not parity.passed:
        reason = describe_parity(parity)
    elif min_share < parity.tolerance.min_kept:
        reason = f"{describe_parity(parity)}; so few decisions leave {min_share:.2%} possible: more images are needed"
    if reason:
        parity = parity.model_copy(update={"passed": False})
    return EngineRecord(
        device=run.device,
        precision=precision,
        parity=parity,
        latency_ms=round(latency_ms, 3),
        load_ms=None if run.load_ms is None else round(run.load_ms, 1),
        machine=processor_name(),
        reason=reason,
    )


def least_share(kept: float, decisions: int) -> float:
    """Minimum share of decisions kept that a sample leaves likely: the lower end of Wilson's 95 % interval.

    float32 differs from PyTorch by rounding alone, but a lower precision loses decisions at a rate that few images
    cannot tell: the demo's bf16 kept 99.63 % of 803 on ten images, and 97.7 % of 3,641 on forty others.
    """
    if not decisions:
        return 0.0
    spread = NormalDist().inv_cdf(0.975) ** 2 / decisions
    return (kept + spread / 2 - math.sqrt(spread * (kept * (1 - kept) + spread / 4))) / (1 + spread)


def processor_name() -> str:
    """The processor's name, so that a latency can be placed."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} logical" if names else platform.processor() or platform.machine()


def describe_parity(parity: ParityRecord) -> str:
    """The numbers of a comparison in one line."""
    wanted = parity.tolerance
    masks = "" if parity.min_mask_iou is None else f", IoU of masks >= {wanted.min_mask_iou:g}"
    what = f"the best {parity.fallback_top} an image" if parity.fallback_top else f"score >= {parity.threshold:g}"
    return (
        f"kept {parity.kept:.2%} of {parity.decisions} reference detections ({what}; "
        f"wanted {wanted.min_kept:.2%} at IoU >= {wanted.min_iou:g}, score within "
        f"{wanted.max_score_delta:g}{masks}), {parity.extra} extra"
    )


def _nothing_found(check: ParityCheck) -> ParityError:
    return ParityError(
        "PyTorch itself finds nothing, so no decision can be compared; no bundle was made.",
        where=check.images.source,
        expected="an image, at least, in which the model finds something",
        got=f"0 detections, at any score, in {len(check.images)} images",
        fix="compare on images like those the model was trained on (--images FOLDER); one that was not trained may find"
        " nothing in any",
    )


def _failure(report: ParityReport) -> ParityError:
    tried = [record for record in report.engines if record.parity] or report.engines
    where, fix = _cause(report)
    details = [f"{name} {record.kept:.2%}" for name, record in report.stages.items()]
    on_weakest = f" (kept on the weakest image: {', '.join(details)})" if details else ""
    return ParityError(
        "The exported model decides otherwise than PyTorch; no bundle was made.",
        where=where + on_weakest,
        expected=f"as PyTorch decides on {report.image_source}",
        got="; ".join(f"{record.device}: {record.reason}" for record in tried),
        fix=fix,
    )


def _cause(report: ParityReport) -> tuple[str, str]:
    """Which stage parted first and what to do about it, in a user's words; see ``medprompt.export.parity.stages``."""
    if not report.stages:
        return "no engine could run the graph", "install another engine: onnxruntime or openvino"
    parted = next((name for name, record in report.stages.items() if not record.passed), "")
    return STAGE_TEXTS[parted]
