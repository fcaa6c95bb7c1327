"""Section "worker": the code between a detector and TensorRT, on this GPU, with an engine whose answers are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medprompt.benchmarks.gpu_check.gpu import Bindings, Ledger, bindings_of_gpu
from medprompt.benchmarks.gpu_check.notes import Notes, Subject, expect
from medprompt.benchmarks.gpu_check.real_engine import check_real_engines
from medprompt.benchmarks.gpu_check.stand_in import RESIZED, answer_of, feeds_of, noise, stand_in
from medprompt.core.errors import MedpromptError, OutOfMemoryError
from medprompt.core.manifest import Preprocess
from medprompt.images.resize import resize_on_host
from medprompt.runtime.engines.cuda_buffers import Cuda
from medprompt.runtime.engines.feeds import Feed
from medprompt.runtime.engines.tap_kernel import TapStep
from medprompt.runtime.engines.tensorrt_slot import MAX_PLANS
from medprompt.runtime.engines.tensorrt_worker import Workers

Check = Callable[["Bench"], Mapping[str, Any]]

SMALL, LARGE = (40, 56), (300, 200)
"""Height and width of sources."""

THREADS, ROUNDS = 4, 8
"""Of the check of threads."""

OPENED, MOST_LOST_MIB = 10, 8
"""Workers of the check of leaks, twice, and MiB that may be gone after the second time."""

TOO_MANY = 1 << 32
"""Images of a batch that no GPU holds: 29 TB of them."""


class Bench:
    """Workers over a stand-in engine, and the ledger of all that they take."""

    def __init__(self, bindings: Bindings, step: Preprocess | None = None) -> None:
        self.ledger = Ledger(bindings.runtime)
        self.step = step
        before = TapStep(step, "uint8", bindings.driver) if step else None
        self.workers = Workers(stand_in(Cuda(self.ledger), bindings.driver, before))

    def feeds(self, images: NDArray[np.uint8]) -> dict[str, Feed]:
        """For a batch of images."""
        return dict(feeds_of(images, self.step.size_hw if self.step else None))

    def asked(self, shape_hw: tuple[int, int], seed: int, batch: int = 1) -> None:
        """Compute a batch of noise, and compare the answer with the host's."""
        images = noise(shape_hw, seed, batch)
        expect_equal(self.workers.run(self.feeds(images))[RESIZED], answer_of(images))


def expect_equal(found: NDArray[Any], wanted: NDArray[Any]) -> None:
    """Let a check fail where one value differs."""
    wrong = int((found != wanted).sum()) if found.shape == wanted.shape else wanted.size
    expect(not wrong, f"{wrong} of {wanted.size} values are wrong")


def check_worker(subject: Subject, notes: Notes) -> None:
    """The section. See ``notes.Notes``."""
    bindings = bindings_of_gpu()
    check_stand_in(bindings, notes)
    check_real_engines(subject, notes)


def check_stand_in(bindings: Bindings, notes: Notes) -> None:
    """Every check, each on workers of its own, which must give back what they took."""
    for name, check in CHECKS.items():
        notes.check(name, partial(_checked, Bench(bindings), check))
    notes.check("resize step in the graph", partial(_resize_in_graph, bindings))
    notes.check("leaks", partial(_leaks, bindings))


def _checked(bench: Bench, check: Check) -> Mapping[str, Any]:
    try:
        facts = check(bench)
        expect(not bench.workers.notes, f"the worker notes: {'; '.join(bench.workers.notes)}")
    finally:
        bench.workers.close()
    left = bench.ledger.left()
    expect(not left, f"not given back: {', '.join(f'{count} {kind}' for kind, count in left.items())}")
    return facts


def _capture_and_replay(bench: Bench) -> Mapping[str, Any]:
    """The first runs of a shape are captured, the later ones replayed, each with its own image."""
    batches = [noise(SMALL, seed) for seed in range(6)]
    found = [bench.workers.run(bench.feeds(images))[RESIZED] for images in batches]
    for answer, images in zip(found, batches, strict=True):  # only now: an answer has to outlast the later requests
        expect_equal(answer, answer_of(images))
    return _replayed(bench, at_least=3)


def _same_array(bench: Bench) -> Mapping[str, Any]:
    """An array that its caller changes in place is sent again; prompts that cannot change are not."""
    images = noise(SMALL, 0)
    feeds = bench.feeds(images)
    for seed in range(4):
        images[:] = noise(SMALL, seed)
        expect_equal(bench.workers.run(feeds)[RESIZED], answer_of(images))
    return _replayed(bench, at_least=2)


def _growth(bench: Bench) -> Mapping[str, Any]:
    """Larger requests move the memory that graphs of smaller ones point to."""
    for step in range(5):
        for seed in range(3):
            bench.asked((SMALL[0] + 40 * step, SMALL[1] + 50 * step), seed, batch=1 + step)
            bench.asked(SMALL, seed)
    return _replayed(bench, at_least=5)


def _eviction(bench: Bench) -> Mapping[str, Any]:
    """More shapes than are kept ready, in turn, twice."""
    for seed in range(2 * (MAX_PLANS + 3)):
        for _ in range(3):
            bench.asked((SMALL[0], SMALL[1] + 2 * (seed % (MAX_PLANS + 3))), seed)
    graphs = bench.ledger.held["ready graphs"]
    expect(graphs <= MAX_PLANS, f"{graphs} graphs are kept ready, of {MAX_PLANS} at most")
    return {"graphs_kept": graphs}


def _out_of_memory(bench: Bench) -> Mapping[str, Any]:
    """A request beyond the GPU's memory is told as that, and those after it are answered."""
    bench.asked(SMALL, 0)
    # One image, seen as very many: the request has a size and takes no memory of the host.
    many = np.broadcast_to(noise(SMALL, 0), (TOO_MANY, *SMALL, 3))
    try:
        bench.workers.run(bench.feeds(many))
    except OutOfMemoryError:
        pass
    else:
        raise MedpromptError("a request of more memory than any GPU has was answered")
    for seed in range(4):
        bench.asked(SMALL, seed)
    return {}


def _two_in_flight(bench: Bench) -> Mapping[str, Any]:
    """A second request is submitted before the first is collected; one is dropped by its owner."""
    for seed in range(0, 12, 2):
        batches = [noise(SMALL, seed), noise(LARGE if seed % 4 else SMALL, seed + 1)]
        pending = [bench.workers.submit(bench.feeds(images)) for images in batches]
        for one, images in zip(pending, batches, strict=True):
            expect_equal(one.collect()[RESIZED], answer_of(images))
    dropped = bench.workers.submit(bench.feeds(noise(SMALL, 99)))
    del dropped
    bench.asked(SMALL, 100)
    return {}


def _threads(bench: Bench) -> Mapping[str, Any]:
    """Threads capture while others allocate, free and replay."""

    def work(thread: int) -> None:
        for turn in range(ROUNDS):
            height = SMALL[0] + 16 * ((thread + turn // 2) % ROUNDS)
            bench.asked((height, SMALL[1] + thread), 100 * thread + turn, batch=1 + turn % 2)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, range(THREADS)))
    return {"threads": THREADS, "requests": THREADS * ROUNDS}


def _stages(bench: Bench) -> Mapping[str, Any]:
    """Time by CUDA events; the request after it is answered as ever."""
    times = bench.workers.stages_ms(bench.feeds(noise(LARGE, 0)))
    expect(min(times.values()) >= 0 < sum(times.values()), f"stages of {times}")
    bench.asked(LARGE, 1)
    return {f"{name} ms": round(ms, 4) for name, ms in times.items()}


CHECKS: dict[str, Check] = {
    "capture and replay": _capture_and_replay,
    "an array changed in place": _same_array,
    "growth": _growth,
    "eviction": _eviction,
    "out of memory": _out_of_memory,
    "two in flight": _two_in_flight,
    "threads": _threads,
    "stages": _stages,
}
"""By name, in order. Each also fails where something is not given back, or where the worker could not capture."""


def _resize_in_graph(bindings: Bindings) -> Mapping[str, Any]:
    """Sources of several sizes, resized by the step before the engine, in its graph."""
    spec = Preprocess(size_hw=(96, 80), resample="bicubic")

    def check(bench: Bench) -> Mapping[str, Any]:
        for seed, shape in enumerate((SMALL, SMALL, SMALL, LARGE, SMALL, LARGE)):
            images = noise(shape, seed)
            before = np.stack([resize_on_host(image, spec).astype(np.uint8) for image in images])
            expect_equal(bench.workers.run(bench.feeds(images))[RESIZED], answer_of(before))
        return _replayed(bench, at_least=1)

    return _checked(Bench(bindings, spec), check)


def _leaks(bindings: Bindings) -> Mapping[str, Any]:
    """The GPU has as much free memory after many workers as after a few: what the driver keeps is kept once."""
    free: list[float] = []
    for _ in range(2):
        for _ in range(OPENED):
            _checked(Bench(bindings), _capture_and_replay)
        free.append(float(Cuda(bindings.runtime)("cudaMemGetInfo")) / 2**20)
    lost = round(free[0] - free[1])
    expect(lost <= MOST_LOST_MIB, f"{lost} MiB of GPU memory are gone, or another process took them")
    return {"workers opened and closed": 2 * OPENED, "MiB gone": lost}


def _replayed(bench: Bench, at_least: int) -> Mapping[str, Any]:
    launches = bench.ledger.calls["cudaGraphLaunch"]
    expect(launches >= at_least, f"{launches} requests were replayed from a graph, of {at_least} at least")
    return {"replays": launches}
