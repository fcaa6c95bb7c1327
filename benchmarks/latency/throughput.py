"""Images a second: several in one call, and several workers at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medprompt.runtime.detector import Detector

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Throughput:
    """Images a second of one engine.

    Attributes:
        device: The engine.
        by_batch: By images a call.
        by_workers: By threads that each have a detector of their own, one image a call. On a GPU they share the
            engine; on a CPU each loads its own, for one computes a request at a time.
    """

    device: str
    by_batch: Mapping[int, float]
    by_workers: Mapping[int, float]

    def as_json(self) -> dict[str, Any]:
        """Everything measured."""
        return {"device": self.device, "by_batch": dict(self.by_batch), "by_workers": dict(self.by_workers)}

    def row(self) -> tuple[str, ...]:
        """For tables: columns as ``columns`` names them."""
        return (self.device, *(f"{value:.2f}" for value in (*self.by_batch.values(), *self.by_workers.values())))

    def columns(self) -> tuple[str, ...]:
        """Headings of ``row``."""
        batches = (f"batch {size}" for size in self.by_batch)
        workers = (f"{count} worker{'s' * (count > 1)}" for count in self.by_workers)
        return ("images a second", *batches, *workers)


def measure_throughput(
    load: Callable[[], Detector],
    images: Sequence[Image],
    *,
    batches: Sequence[int] = (1, 2, 4),
    workers: Sequence[int] = (1, 2),
    count: int = 16,
) -> Throughput:
    """Detect in ``count`` images in each way, after a call that is not timed.

    Args:
        load: Makes a detector; each worker gets one, or shares the first.
        images: uint8 ``[H, W, 3]`` each, taken in turn.
        batches: Images a call.
        workers: Threads; engines compute outside Python's lock.
        count: Images each way; at least one call of each batch.
    """
    with load() as detector:
        device = detector.choice.device
        by_batch = {size: _rate_of_batch(detector, _turns(images, size), count) for size in batches}
    by_workers = {number: _rate_of_workers(load, number, _turns(images, count)) for number in workers}
    return Throughput(device, by_batch, by_workers)


def _turns(images: Sequence[Image], count: int) -> list[Image]:
    return [images[number % len(images)] for number in range(count)]


def _rate_of_batch(detector: Detector, batch: list[Image], count: int) -> float:
    calls = max(1, count // len(batch))
    detector.batch(batch)
    began = time.perf_counter()
    for _ in range(calls):
        detector.batch(batch)
    return calls * len(batch) / (time.perf_counter() - began)


def _rate_of_workers(load: Callable[[], Detector], number: int, images: list[Image]) -> float:
    with ExitStack() as stack:
        detectors = [stack.enter_context(load())]
        another = detectors[0].share if detectors[0].engine.on_gpu else load
        detectors += [stack.enter_context(another()) for _ in range(number - 1)]
        pool = stack.enter_context(ThreadPoolExecutor(number))
        list(pool.map(lambda detector: detector(images[0]), detectors))
        began = time.perf_counter()
        shares = [images[index::number] for index in range(number)]
        list(pool.map(lambda detector, share: [detector(image) for image in share], detectors, shares))
        return len(images) / (time.perf_counter() - began)
