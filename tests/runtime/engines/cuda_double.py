"""A recording double of ``cuda.bindings.runtime``.

Memory is real (so a wrong size or address is seen in the numbers), and "device" and "pinned" blocks are told apart.
Streams are as late as CUDA allows: what is queued runs when somebody waits for it, or for what comes after it. So a
pinned block that is written again too early, or memory that is freed under a request, is seen too. While a stream is
captured it records; while a library captures by itself, other threads may not allocate.
"""

from __future__ import annotations

import ctypes
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from types import SimpleNamespace
from typing import Any


class cudaError_t(Enum):  # CUDA's own name
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorIllegalAddress = 700
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901


OK = cudaError_t.cudaSuccess
INVALID = cudaError_t.cudaErrorInvalidValue
Operation = Callable[[], bool]


class Stream:
    """What was queued and has not run, and what is recorded instead while it is captured."""

    def __init__(self) -> None:
        self.waiting: deque[Operation] = deque()
        self.ended = 0
        self.recorded: list[Operation] | None = None
        self.lock = threading.RLock()

    @property
    def queued(self) -> int:
        return self.ended + len(self.waiting)

    def run_until(self, count: int) -> None:
        """Run what was queued first, up to that many operations of its life."""
        with self.lock:
            while self.ended < count and self.waiting:
                self.waiting.popleft()()
                self.ended += 1


class CudaDouble:
    """``cuda.bindings.runtime``; ``calls`` counts each function, ``fail_next`` makes one fail once."""

    cudaError_t = cudaError_t
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice="h2d", cudaMemcpyDeviceToHost="d2h")
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal="thread")
    cudaStreamNonBlocking = 1
    cudaEventDisableTiming = 2

    def __init__(self, memory: int = 1 << 30) -> None:
        self.memory = memory
        self.blocks: dict[int, tuple[str, Any]] = {}
        self.streams: dict[int, Stream] = {}
        self.broken: set[int] = set()
        self.graphs: dict[int, list[Operation]] = {}
        self.execs: dict[int, list[Operation]] = {}
        self.events: dict[int, tuple[int, int]] = {}
        self.times: dict[int, int] = {}
        self.done = 0
        self.failed = False
        self.copied: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.fail_next: dict[str, cudaError_t] = {}
        self.capturing_alone: int | None = None
        self.intruded = False
        self._numbers = iter(range(1, 1 << 30))
        self._lock = threading.RLock()

    def _count(self, name: str) -> cudaError_t:
        with self._lock:
            self.calls[name] += 1
            return self.fail_next.pop(name, OK)

    @contextmanager
    def library_captures(self) -> Iterator[None]:
        """While a library captures in a mode of its own, synchronous calls of other threads break it."""
        self.capturing_alone = threading.get_ident()
        try:
            yield
        finally:
            self.capturing_alone = None

    def _intrudes(self) -> bool:
        if self.capturing_alone in (None, threading.get_ident()):
            return False
        self.intruded = True
        return True

    def _allocate(self, name: str, kind: str, size: int) -> tuple[cudaError_t, int | None]:
        status = self._count(name)
        if self._intrudes():
            return cudaError_t.cudaErrorStreamCaptureUnsupported, None
        with self._lock:
            used = sum(len(block) for held, block in self.blocks.values() if held == kind)
            if status is OK and used + size > self.memory:
                status = cudaError_t.cudaErrorMemoryAllocation
            if status is not OK:
                return status, None
            block = (ctypes.c_uint8 * size)()
            self.blocks[ctypes.addressof(block)] = (kind, block)
            return OK, ctypes.addressof(block)

    def _free(self, name: str, kind: str, address: int) -> tuple[cudaError_t]:
        status = self._count(name)
        if self._intrudes():
            return (cudaError_t.cudaErrorStreamCaptureUnsupported,)
        if status is not OK or address == 0:
            return (status,)
        with self._lock:
            return (OK,) if self.blocks.pop(address, ("", None))[0] == kind else (INVALID,)

    def cudaMalloc(self, size: int) -> tuple[cudaError_t, int | None]:
        return self._allocate("cudaMalloc", "device", size)

    def cudaMallocHost(self, size: int) -> tuple[cudaError_t, int | None]:
        return self._allocate("cudaMallocHost", "pinned", size)

    def cudaFree(self, address: int) -> tuple[cudaError_t]:
        return self._free("cudaFree", "device", address)

    def cudaFreeHost(self, address: int) -> tuple[cudaError_t]:
        return self._free("cudaFreeHost", "pinned", address)

    def cudaDriverGetVersion(self) -> tuple[cudaError_t, int]:
        return self._count("cudaDriverGetVersion"), 13000

    def has(self, kind: str, address: int, size: int) -> bool:
        """Whether a live block of that kind begins there and is large enough."""
        held, block = self.blocks.get(address, ("", b""))
        return held == kind and size <= len(block)

    def enqueue(self, stream: int, operation: Operation) -> None:
        """Queue, or record while the stream is captured."""

        def counted() -> bool:
            self.done += 1
            self.failed |= not operation()
            return True

        found = self.streams[stream]
        if found.recorded is None:
            found.waiting.append(counted)
        else:
            found.recorded.append(operation)

    def is_captured(self, stream: int) -> bool:
        return self.streams[stream].recorded is not None

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: str, stream: int) -> tuple[cudaError_t]:
        status = self._count("cudaMemcpyAsync")
        kinds = ("device", "pinned") if kind == "h2d" else ("pinned", "device")

        def copy() -> bool:
            fits = self.has(kinds[0], target, size) and self.has(kinds[1], source, size)
            if fits:
                ctypes.memmove(target, source, size)
                with self._lock:
                    self.copied[kind] += 1
            return fits

        if status is OK:
            self.enqueue(stream, copy)
        return (status,)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[cudaError_t, int | None]:
        status = self._count("cudaStreamCreateWithFlags")
        if status is not OK:
            return status, None
        stream = next(self._numbers)
        self.streams[stream] = Stream()
        return OK, stream

    def cudaStreamDestroy(self, stream: int) -> tuple[cudaError_t]:
        self._count("cudaStreamDestroy")
        found = self.streams.pop(stream, None)
        return (OK if found is not None and not found.recorded else INVALID,)

    def _waited(self, stream: int, count: int, status: cudaError_t) -> tuple[cudaError_t]:
        self.streams[stream].run_until(count)
        failed, self.failed = self.failed, False
        return (cudaError_t.cudaErrorIllegalAddress if failed else status,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[cudaError_t]:
        return self._waited(stream, self.streams[stream].queued, self._count("cudaStreamSynchronize"))

    def cudaStreamBeginCapture(self, stream: int, mode: str) -> tuple[cudaError_t]:
        self.streams[stream].recorded = []
        return (self._count("cudaStreamBeginCapture"),)

    def cudaStreamEndCapture(self, stream: int) -> tuple[cudaError_t, int | None]:
        status = self._count("cudaStreamEndCapture")
        recorded, self.streams[stream].recorded = self.streams[stream].recorded, None
        if stream in self.broken:
            self.broken.discard(stream)
            return cudaError_t.cudaErrorStreamCaptureInvalidated, None
        graph = next(self._numbers)
        self.graphs[graph] = recorded or []
        return status, graph

    def cudaGraphInstantiate(self, graph: int, flags: int) -> tuple[cudaError_t, int | None]:
        status, ready = self._count("cudaGraphInstantiate"), next(self._numbers)
        if status is not OK:
            return status, None
        self.execs[ready] = self.graphs[graph]
        return OK, ready

    def cudaGraphDestroy(self, graph: int) -> tuple[cudaError_t]:
        self._count("cudaGraphDestroy")
        return (OK,) if self.graphs.pop(graph, None) is not None else (INVALID,)

    def cudaGraphExecDestroy(self, ready: int) -> tuple[cudaError_t]:
        self._count("cudaGraphExecDestroy")
        return (OK,) if self.execs.pop(ready, None) is not None else (INVALID,)

    def cudaGraphLaunch(self, ready: int, stream: int) -> tuple[cudaError_t]:
        status = self._count("cudaGraphLaunch")
        operations = self.execs.get(ready)
        if operations is None:
            return (INVALID,)
        self.enqueue(stream, lambda: all([operation() for operation in operations]))
        return (status,)

    def cudaEventCreate(self) -> tuple[cudaError_t, int]:
        return self._new_event("cudaEventCreate")

    def cudaEventCreateWithFlags(self, flags: int) -> tuple[cudaError_t, int]:
        return self._new_event("cudaEventCreateWithFlags")

    def _new_event(self, name: str) -> tuple[cudaError_t, int]:
        status, event = self._count(name), next(self._numbers)
        self.events[event] = (0, 0)
        return status, event

    def cudaEventRecord(self, event: int, stream: int) -> tuple[cudaError_t]:
        if event not in self.events or stream not in self.streams:
            return (INVALID,)

        def mark() -> bool:
            self.times[event] = self.done
            return True

        self.streams[stream].waiting.append(mark)
        self.events[event] = (stream, self.streams[stream].queued)
        return (self._count("cudaEventRecord"),)

    def cudaStreamWaitEvent(self, stream: int, event: int, flags: int) -> tuple[cudaError_t]:
        other, count = self.events[event]

        def wait() -> bool:
            if other in self.streams:
                self.streams[other].run_until(count)
            return True

        self.streams[stream].waiting.append(wait)
        return (self._count("cudaStreamWaitEvent"),)

    def cudaEventSynchronize(self, event: int) -> tuple[cudaError_t]:
        return self._waited(*self.events[event], self._count("cudaEventSynchronize"))

    def cudaEventElapsedTime(self, begun: int, ended: int) -> tuple[cudaError_t, float]:
        """A millisecond for each operation between the two."""
        if begun not in self.times or ended not in self.times:
            return INVALID, 0.0
        return self._count("cudaEventElapsedTime"), float(self.times[ended] - self.times[begun])

    def cudaEventDestroy(self, event: int) -> tuple[cudaError_t]:
        self._count("cudaEventDestroy")
        return (INVALID if self.events.pop(event, None) is None else OK,)

    def nothing_left(self) -> bool:
        """Whether everything was given back."""
        return not (self.blocks or self.streams or self.graphs or self.execs or self.events)
