"""Where a bundle's time goes: decode, preprocess, engine, postprocess, by the runtime's own steps; and memory."""

from __future__ import annotations

import itertools
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from medprompt.images.read import load_image
from medprompt.runtime.detector import Detector

Answer = TypeVar("Answer")

STAGES = ("decode", "preprocess", "engine", "postprocess")


@dataclass(frozen=True)
class StageReport:
    """One engine, stage by stage.

    Attributes:
        device: The engine.
        load_ms: Wall time until it could detect: hashes, library, model.
        first_ms: The first image, decoding included.
        wall_ms: By stage, float64 ``[rounds]``.
        device_ms: Of a GPU engine, the parts of its stage by the device's own clock (CUDA events), each float64
            ``[rounds]``; measured in calls of their own. Empty for the others.
    """

    device: str
    load_ms: float
    first_ms: float
    wall_ms: Mapping[str, NDArray[np.float64]]
    device_ms: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Median and 90th percentile of each stage, and its share of the medians' sum."""
        medians = {name: float(np.median(times)) for name, times in self.wall_ms.items()}
        whole = sum(medians.values())
        stages = {
            name: {"p50_ms": medians[name], "p90_ms": float(np.percentile(times, 90)), "share": medians[name] / whole}
            for name, times in self.wall_ms.items()
        }
        on_device = {name: {"p50_ms": float(np.median(times))} for name, times in self.device_ms.items()}
        return {
            "device": self.device,
            "load_ms": self.load_ms,
            "first_ms": self.first_ms,
            "stages": stages,
            "on_device": on_device,
        }

    def row(self) -> tuple[str, ...]:
        """For tables: device and the median of each stage in ms."""
        return (self.device, *(f"{float(np.median(self.wall_ms[name])):.2f}" for name in STAGES))


def measure_stages(load: Callable[[], Detector], paths: Sequence[Path], rounds: int, warmup: int = 2) -> StageReport:
    """Load a detector, time each stage on ``rounds`` image files in turn, and close it.

    ``warmup`` images come before them, at least one: the first is reported apart.

    Raises:
        ValueError: No file, no round or no warm-up.
    """
    if not paths or rounds < 1 or warmup < 1:
        raise ValueError(f"expected a file, a round and a warm-up, got {len(paths)}, {rounds}, {warmup}")
    detector, load_ms = _timed(load)
    turns = itertools.cycle(paths)
    with detector:
        first = sum(_stages(detector, next(turns)).values())
        for _ in range(warmup - 1):
            _stages(detector, next(turns))
        times = [_stages(detector, next(turns)) for _ in range(rounds)]
        parts = [_device_stages(detector, next(turns)) for _ in range(rounds)] if detector.engine.on_gpu else []
        return StageReport(detector.choice.device, load_ms, first, _by_name(times), _by_name(parts))


def _by_name(times: Sequence[Mapping[str, float]]) -> dict[str, NDArray[np.float64]]:
    """From rounds of names to names of rounds."""
    return {name: np.array([one[name] for one in times], dtype=np.float64) for name in (times[0] if times else ())}


def _device_stages(detector: Detector, path: Path) -> dict[str, float]:
    return detector.device_stages_ms(detector.image_feeds([load_image(path)]), detector.prompts.whole)


def _stages(detector: Detector, path: Path) -> dict[str, float]:
    """One image through the runtime's own steps: what ``Detector.__call__`` does, with a clock between them."""
    prompts = detector.prompts.whole
    image, decode = _timed(lambda: load_image(path))
    feeds, preprocess = _timed(lambda: detector.image_feeds([image]))
    outputs, engine = _timed(lambda: detector.outputs(feeds, prompts))
    _, postprocess = _timed(lambda: detector.detections(outputs, 0, image.shape[:2], prompts))
    return dict(zip(STAGES, (decode, preprocess, engine, postprocess), strict=True))


def _timed(call: Callable[[], Answer]) -> tuple[Answer, float]:
    """What a call returns, and its wall time in milliseconds."""
    began = time.perf_counter()
    answer = call()
    return answer, (time.perf_counter() - began) * 1e3


def peak_mib() -> float:
    """Largest resident memory of this process so far, in MiB.

    Under Linux from ``/proc``: what ``getrusage`` says there includes the process that started this one.
    """
    try:
        return _status_mib("VmHWM")
    except (OSError, StopIteration):
        unit = 2**20 if sys.platform == "darwin" else 2**10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def resident_mib() -> float:
    """Resident memory of this process now, in MiB; NaN where there is no ``/proc``."""
    try:
        return _status_mib("VmRSS")
    except (OSError, StopIteration):
        return float("nan")


def _status_mib(name: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    return next(int(line.split()[1]) / 2**10 for line in lines if line.startswith(name))
