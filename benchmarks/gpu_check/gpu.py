"""The GPU of this machine through ``cuda-python``: the bindings, what was taken and not given back, time by events."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from medprompt.benchmarks.gpu_check.notes import NotRun
from medprompt.runtime.engines.cuda_buffers import Cuda
from medprompt.runtime.engines.machine import cuda_python_problem, read_gpus

TAKES = {
    "cudaMalloc": "device blocks",
    "cudaMallocHost": "pinned blocks",
    "cudaStreamCreateWithFlags": "streams",
    "cudaEventCreate": "events",
    "cudaEventCreateWithFlags": "events",
    "cudaStreamEndCapture": "graphs",
    "cudaGraphInstantiate": "ready graphs",
}
"""Functions that take something of the GPU's, and what."""

GIVES = {
    "cudaFree": "device blocks",
    "cudaFreeHost": "pinned blocks",
    "cudaStreamDestroy": "streams",
    "cudaEventDestroy": "events",
    "cudaGraphDestroy": "graphs",
    "cudaGraphExecDestroy": "ready graphs",
}
"""Functions that give it back."""


class Ledger:
    """``cuda.bindings.runtime``, or a double of it, that counts what is taken and given back.

    Attributes:
        held: How many of each kind are not given back.
        calls: How often each function was called.
    """

    def __init__(self, module: Any) -> None:
        self._module = module
        self._lock = threading.Lock()
        self.held: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._module, name)
        return self._counted(name, found) if callable(found) and not isinstance(found, type) else found

    def left(self) -> dict[str, int]:
        """What was not given back."""
        return {kind: count for kind, count in self.held.items() if count}

    def _counted(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            answer = function(*arguments)
            with self._lock:
                self.calls[name] += 1
                if answer[0] == self._module.cudaError_t.cudaSuccess:
                    self._book(name, arguments, answer)
            return answer

        return call

    def _book(self, name: str, arguments: tuple[Any, ...], answer: tuple[Any, ...]) -> None:
        if name in TAKES and answer[1] is not None:
            self.held[TAKES[name]] += 1
        elif name in GIVES and arguments != (0,):
            self.held[GIVES[name]] -= 1


@dataclass(frozen=True)
class Bindings:
    """``cuda.bindings.runtime`` and ``cuda.bindings.driver``, or doubles of them."""

    runtime: Any
    driver: Any


def bindings_of_gpu() -> Bindings:
    """The bindings, with a GPU behind them that works.

    Raises:
        NotRun: There is no GPU, or no ``cuda-python``.
        EngineError: CUDA does not start.
    """
    problem = cuda_python_problem()
    if problem:
        raise NotRun(problem)
    gpus, no_gpu = read_gpus()
    if not gpus:
        raise NotRun(f"no GPU: {no_gpu}")
    from cuda.bindings import driver, runtime

    Cuda(runtime).start()
    return Bindings(runtime, driver)


class Clock:
    """A stream of its own, and times in it by CUDA events. A context manager."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._freed = ExitStack()
        self.stream = cuda("cudaStreamCreateWithFlags", cuda.module.cudaStreamNonBlocking)
        self._freed.callback(cuda, "cudaStreamDestroy", self.stream)
        self._begun, self._ended = self._event(), self._event()

    def __enter__(self) -> Clock:
        return self

    def __exit__(self, *_: object) -> None:
        self._freed.close()

    def us(self, queue: Callable[[], object], count: int) -> float:
        """Microseconds that each of ``count`` queued calls takes on the device, after one that is not counted."""
        queue()
        self._cuda("cudaEventRecord", self._begun, self.stream)
        for _ in range(count):
            queue()
        self._cuda("cudaEventRecord", self._ended, self.stream)
        self._cuda("cudaEventSynchronize", self._ended)
        return float(self._cuda("cudaEventElapsedTime", self._begun, self._ended)) * 1e3 / count

    def wait(self) -> None:
        """Until all that was queued is done."""
        self._cuda("cudaStreamSynchronize", self.stream)

    def _event(self) -> Any:
        event = self._cuda("cudaEventCreate")
        self._freed.callback(self._cuda, "cudaEventDestroy", event)
        return event
