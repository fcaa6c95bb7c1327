"""``medprompt bench latency``: a bundle's stages and memory first, then its engines and PyTorch in turn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from medprompt.benchmarks.command import Table
from medprompt.benchmarks.floor import Floor, floor_of_bundle
from medprompt.benchmarks.latency import bench_bundle
from medprompt.benchmarks.machine import check_threads, machine_sentence
from medprompt.benchmarks.stages import STAGES, StageReport, measure_stages, peak_mib
from medprompt.benchmarks.timing import LatencyReport
from medprompt.bundle import load_bundle
from medprompt.images import load_image
from medprompt.progress import Progress, Silent
from medprompt.runtime.detector import Detector


@dataclass(frozen=True)
class LatencyRun:
    """Everything about speed.

    Attributes:
        latency: Rivals in turn, from decoded array to boxes.
        stages: One report an engine.
        peak_mib: Largest memory of the process so far, by when it was read: after each engine, in the order in which
            they were loaded, and ``with all rivals`` at the end, PyTorch among them where it was asked for.
        floor: What the machine could do at best; None where onnx is not installed.
    """

    latency: LatencyReport
    stages: tuple[StageReport, ...]
    peak_mib: dict[str, float]
    floor: Floor | None = None

    def as_json(self) -> dict[str, Any]:
        """Everything measured."""
        return {
            **self.latency.as_json(),
            "stages": [entry.as_json() for entry in self.stages],
            "peak_mib_of_process_so_far": self.peak_mib,
            "floor": self.floor.as_json() if self.floor else None,
        }

    def tables(self) -> Iterator[Table]:
        """What the command line prints."""
        facts = self.latency.context
        title = (
            f"{facts['family']}, {facts['size_hw']}, threads: {facts['threads']}, {self.latency.rounds} rounds in turn"
        )
        sentence = machine_sentence(dict(self.latency.machine))
        yield Table(title, self.latency.columns(), self.latency.rows(), sentence)
        memory = ", ".join(f"{name} {size:.0f} MiB" for name, size in self.peak_mib.items())
        columns = ("stage by stage, p50 ms", *STAGES)
        caption = f"from file to boxes; largest memory of the process so far: {memory}"
        yield Table("Where the time goes", columns, [entry.row() for entry in self.stages], caption)
        if self.floor:
            yield self.floor.table(
                {name: float(np.median(series.wall_ms)) for name, series in self.latency.series.items()}
            )


def run_latency(
    bundle: Path | str,
    paths: Sequence[Path],
    *,
    checkpoint: Path | None = None,
    devices: Sequence[str] = ("auto",),
    threads: int = 1,
    rounds: int = 10,
    warmup: int = 2,
    autocast: bool = False,
    most_seconds: float | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> LatencyRun:
    """Time a bundle's engines, and PyTorch beside them.

    Args:
        bundle: The bundle's folder.
        paths: Image files, at least one.
        checkpoint: The checkpoint that it was made from; None: no PyTorch, and the first engine is the baseline.
        devices: Engines to time.
        threads: CPU threads of every rival, no more than cores.
        rounds: Timed calls of each.
        warmup: Calls of each before them.
        autocast: Time PyTorch in bfloat16 too.
        most_seconds: See ``measure_latency``.
        seed: Of the ratios' intervals.
        progress: Told about each step.

    Raises:
        InputError: See ``bench_bundle``.
        ImageError: An image that cannot be read.
    """
    progress = progress or Silent()
    check_threads(threads)
    loaded = load_bundle(bundle)
    images = [load_image(path) for path in paths]
    stages, memory = [], {}
    for device in devices:
        progress.step(f"stages on {device}")
        load = partial(Detector.load, loaded.path, device, threads=threads)
        stages.append(measure_stages(load, paths, rounds, warmup))
        memory[stages[-1].device] = peak_mib()
    latency = bench_bundle(
        loaded,
        checkpoint,
        images,
        threads=threads,
        rounds=rounds,
        warmup=warmup,
        devices=[entry.device for entry in stages],
        autocast=autocast,
        seed=seed,
        most_seconds=most_seconds,
        progress=progress,
    )
    memory["with all rivals"] = peak_mib()
    progress.step("measure the machine's own rates")
    return LatencyRun(latency, tuple(stages), memory, floor_of_bundle(loaded, threads))
