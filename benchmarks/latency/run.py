"""``medprompt bench latency``: a bundle's stages and memory first, then its engines and PyTorch in turn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medprompt.benchmarks.latency.gpu_watch import GPU_COLUMNS, GpuUse, GpuWatch
from medprompt.benchmarks.latency.machine import check_threads, format_machine
from medprompt.benchmarks.latency.measure import LatencyOptions, bench_bundle
from medprompt.benchmarks.latency.roofline import Roofline, roofline_of_bundle
from medprompt.benchmarks.latency.stages import STAGES, StageReport, measure_stages, peak_mib
from medprompt.benchmarks.latency.throughput import Throughput, measure_throughput
from medprompt.benchmarks.latency.timing import LatencyReport
from medprompt.bundles.load import Bundle, load_bundle
from medprompt.core.errors import EngineError
from medprompt.core.progress import Progress, Silent
from medprompt.core.terminal import Table
from medprompt.images.read import load_image
from medprompt.runtime.detector import Detector
from medprompt.runtime.engines import engine_class
from medprompt.runtime.selection.order import engine_order


@dataclass(frozen=True)
class EngineRun:
    """One engine on its own: from file to boxes, and the largest memory of the process when it was done.

    ``gpu`` is None for engines on the CPU and where NVML is not available, ``throughput`` where it was not requested.
    """

    stages: StageReport
    peak_mib: float
    gpu: GpuUse | None = None
    throughput: Throughput | None = None


@dataclass(frozen=True)
class LatencyRun:
    """Everything about speed.

    Attributes:
        latency: Contenders in turn, from decoded array to boxes.
        engines: Each on its own, in the order in which they were loaded.
        peak_mib: Largest memory of the process at the end, PyTorch's among it where it was requested.
        failures: Error of each engine or contender that failed on the way; the others went on.
        roofline: What the machine could do at best; None where onnx is not installed.
    """

    latency: LatencyReport
    engines: tuple[EngineRun, ...]
    peak_mib: float
    failures: Mapping[str, str] = field(default_factory=dict)
    roofline: Roofline | None = None

    @property
    def stages(self) -> tuple[StageReport, ...]:
        """Of each engine."""
        return tuple(engine.stages for engine in self.engines)

    def as_json(self) -> dict[str, Any]:
        """Everything measured."""
        images = self.latency.rounds
        return {
            **self.latency.as_json(),
            "died": dict(self.failures),
            "stages": [entry.as_json() for entry in self.stages],
            "throughput": [engine.throughput.as_json() for engine in self.engines if engine.throughput],
            "gpu": {e.stages.device: e.gpu.as_json(images) for e in self.engines if e.gpu},
            "peak_mib_of_process_so_far": self._memory("with all rivals"),
            "floor": self.roofline.as_json() if self.roofline else None,
        }

    def tables(self) -> Iterator[Table]:
        """What the command line prints."""
        facts = self.latency.context
        title = (
            f"{facts['family']}, {facts['size_hw']}, threads: {facts['threads']}, {self.latency.rounds} rounds in turn"
        )
        caption = format_machine(dict(self.latency.machine))
        yield Table(title, self.latency.columns(), self.latency.rows(), caption)
        memory = ", ".join(f"{name} {size:.0f} MiB" for name, size in self._memory("with all contenders").items())
        columns = ("stage by stage, p50 ms", *STAGES)
        caption = f"from file to boxes; largest memory of the process so far: {memory}"
        yield Table("Where the time goes", columns, [entry.row() for entry in self.stages], caption)
        yield from self._more_of_engines()
        if self.roofline:
            yield self.roofline.table(
                {name: float(np.median(series.wall_ms)) for name, series in self.latency.series.items()}
            )

    def _memory(self, whole: str) -> dict[str, float]:
        return {engine.stages.device: engine.peak_mib for engine in self.engines} | {whole: self.peak_mib}

    def _more_of_engines(self) -> Iterator[Table]:
        parts = [entry for entry in self.stages if entry.device_ms]
        if parts:
            rows = [(e.device, *(f"{float(np.median(ms)):.2f}" for ms in e.device_ms.values())) for e in parts]
            yield Table(
                "On the device, by CUDA events, p50 ms", ("", *parts[0].device_ms), rows, "without a CUDA graph"
            )
        rates = [engine.throughput for engine in self.engines if engine.throughput]
        if rates:
            caption = "a worker is a thread with a detector of its own"
            yield Table("Throughput", rates[0].columns(), [rate.row() for rate in rates], caption)
        images = self.latency.rounds
        watched = [engine.gpu.row(engine.stages.device, images) for engine in self.engines if engine.gpu]
        if watched:
            yield Table("GPU", GPU_COLUMNS, watched, "while its stages were measured, from file to boxes")


def run_latency(
    bundle: Path | str,
    paths: Sequence[Path],
    options: LatencyOptions | None = None,
    *,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> LatencyRun:
    """Time a bundle's engines, and PyTorch beside them.

    Args:
        bundle: The bundle's folder.
        paths: Image files, at least one.
        options: How.
        checkpoint: The checkpoint that it was made from; None: no PyTorch, and the first engine is the baseline.
        progress: Notified of each step.

    Raises:
        InputError: See ``bench_bundle``.
        EngineError: An engine that does not exist or cannot run here, or the only one failed.
        ImageError: An image that cannot be read.
    """
    progress, options = progress or Silent(), options or LatencyOptions()
    check_threads(options.threads)
    loaded = load_bundle(bundle)
    images = [load_image(path) for path in paths]
    engines, failures = [], {}
    for device in options.devices:
        # What is not there at all was requested by mistake; what fails is reported.
        engine_order(loaded.manifest, device)
    for device in options.devices:
        progress.step(f"{device} on its own")
        try:
            engines.append(_isolated(loaded, device, paths, images, options))
        except (EngineError, RuntimeError) as error:
            if len(options.devices) == 1:
                raise
            failures[device] = str(error)
    latency = bench_bundle(
        loaded,
        checkpoint,
        images,
        replace(options, devices=[engine.stages.device for engine in engines]),
        progress,
    )
    memory = peak_mib()
    progress.step("measure the machine's own rates")
    return LatencyRun(
        latency, tuple(engines), memory, {**failures, **latency.failures}, roofline_of_bundle(loaded, options.threads)
    )


def _isolated(
    bundle: Bundle, device: str, paths: Sequence[Path], images: Sequence[NDArray[np.uint8]], options: LatencyOptions
) -> EngineRun:
    load = partial(Detector.load, bundle.path, device, threads=options.threads)
    with GpuWatch() if device != "auto" and engine_class(device).on_gpu else nullcontext() as watch:
        stages = measure_stages(load, paths, options.rounds, options.warmup)
    memory, rates = peak_mib(), None
    if options.batches or options.workers:
        load = partial(Detector.load, bundle, stages.device, threads=options.threads)
        rates = measure_throughput(load, images, batches=options.batches, workers=options.workers, count=options.rounds)
    return EngineRun(stages, memory, watch.use if watch else None, rates)
