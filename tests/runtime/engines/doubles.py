"""Recording doubles of ``cuda.bindings.runtime`` and ``tensorrt`` / ``tensorrt_rtx``.

Memory is real (so a wrong size or address is seen in the numbers), "device" and "pinned" blocks are told apart, streams
record while they are captured, and a graph refuses to be replayed once its context has moved on, as NVIDIA documents.
The engine computes the rule of ``tests.runtime.bundles.save_model``.
"""

from __future__ import annotations

import ctypes
import threading
from collections import Counter
from collections.abc import Callable
from enum import Enum
from types import SimpleNamespace
from typing import Any

import numpy as np

from medprompt.core.manifest import AxisRange, CompiledEngine
from tests.runtime.bundles import BOXES_XYXY, DIRECTIONS, QUERIES, make_manifest

ENGINE_BYTES = b"an engine, whole"


class cudaError_t(Enum):  # CUDA's own name
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorIllegalAddress = 700
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901


OK = cudaError_t.cudaSuccess
INVALID = cudaError_t.cudaErrorInvalidValue
Operation = Callable[[], bool]


class CudaDouble:
    """``cuda.bindings.runtime``; ``calls`` counts each function, ``fail_next`` makes one fail once."""

    cudaError_t = cudaError_t
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice="h2d", cudaMemcpyDeviceToHost="d2h")
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal="thread")
    cudaStreamNonBlocking = 1

    def __init__(self, memory: int = 1 << 30) -> None:
        self.memory = memory
        self.blocks: dict[int, tuple[str, Any]] = {}
        self.streams: dict[int, list[Operation] | None] = {}
        self.broken: set[int] = set()
        self.graphs: dict[int, list[Operation]] = {}
        self.execs: dict[int, list[Operation]] = {}
        self.events: dict[int, int | None] = {}
        self.done = 0
        self.calls: Counter[str] = Counter()
        self.fail_next: dict[str, cudaError_t] = {}
        self._numbers = iter(range(1, 1 << 30))
        self._lock = threading.RLock()

    def _count(self, name: str) -> cudaError_t:
        with self._lock:
            self.calls[name] += 1
            return self.fail_next.pop(name, OK)

    def _allocate(self, name: str, kind: str, size: int) -> tuple[cudaError_t, int | None]:
        status = self._count(name)
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
        if status is not OK:
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

    def has(self, kind: str, address: int, size: int) -> bool:
        """Whether a live block of that kind begins there and is large enough."""
        held, block = self.blocks.get(address, ("", b""))
        return held == kind and size <= len(block)

    def enqueue(self, stream: int, operation: Operation) -> bool:
        """Run now, or record while the stream is captured."""
        recorded = self.streams[stream]
        if recorded is None:
            self.done += 1
            return operation()
        recorded.append(operation)
        return True

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: str, stream: int) -> tuple[cudaError_t]:
        status = self._count("cudaMemcpyAsync")
        kinds = ("device", "pinned") if kind == "h2d" else ("pinned", "device")

        def copy() -> bool:
            fits = self.has(kinds[0], target, size) and self.has(kinds[1], source, size)
            if fits:
                ctypes.memmove(target, source, size)
            return fits

        return (status,) if status is not OK else (OK if self.enqueue(stream, copy) else INVALID,)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[cudaError_t, int]:
        status = self._count("cudaStreamCreateWithFlags")
        stream = next(self._numbers)
        self.streams[stream] = None
        return status, stream

    def cudaStreamDestroy(self, stream: int) -> tuple[cudaError_t]:
        self._count("cudaStreamDestroy")
        return (OK,) if self.streams.pop(stream, INVALID) is None else (INVALID,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[cudaError_t]:
        return (self._count("cudaStreamSynchronize"),)

    def cudaStreamBeginCapture(self, stream: int, mode: str) -> tuple[cudaError_t]:
        self.streams[stream] = []
        return (self._count("cudaStreamBeginCapture"),)

    def cudaStreamEndCapture(self, stream: int) -> tuple[cudaError_t, int | None]:
        status = self._count("cudaStreamEndCapture")
        recorded, self.streams[stream] = self.streams[stream], None
        if stream in self.broken:
            self.broken.discard(stream)
            return cudaError_t.cudaErrorStreamCaptureInvalidated, None
        graph = next(self._numbers)
        self.graphs[graph] = recorded or []
        return status, graph

    def cudaGraphInstantiate(self, graph: int, flags: int) -> tuple[cudaError_t, int]:
        status, ready = self._count("cudaGraphInstantiate"), next(self._numbers)
        if status is OK:
            self.execs[ready] = self.graphs[graph]
        return status, ready

    def cudaGraphDestroy(self, graph: int) -> tuple[cudaError_t]:
        self._count("cudaGraphDestroy")
        return (OK,) if self.graphs.pop(graph, None) is not None else (INVALID,)

    def cudaGraphExecDestroy(self, ready: int) -> tuple[cudaError_t]:
        self._count("cudaGraphExecDestroy")
        return (OK,) if self.execs.pop(ready, None) is not None else (INVALID,)

    def cudaGraphLaunch(self, ready: int, stream: int) -> tuple[cudaError_t]:
        status = self._count("cudaGraphLaunch")
        return (status if all(operation() for operation in self.execs[ready]) else INVALID,)

    def cudaEventCreate(self) -> tuple[cudaError_t, int]:
        status, event = self._count("cudaEventCreate"), next(self._numbers)
        self.events[event] = None
        return status, event

    def cudaEventRecord(self, event: int, stream: int) -> tuple[cudaError_t]:
        self.events[event] = self.done
        return (self._count("cudaEventRecord") if stream in self.streams else INVALID,)

    def cudaEventElapsedTime(self, begun: int, ended: int) -> tuple[cudaError_t, float]:
        """A millisecond for each operation between the two."""
        first, last = self.events[begun], self.events[ended]
        if first is None or last is None:
            return INVALID, 0.0
        return self._count("cudaEventElapsedTime"), float(last - first)

    def cudaEventDestroy(self, event: int) -> tuple[cudaError_t]:
        self._count("cudaEventDestroy")
        return (INVALID if self.events.pop(event, INVALID) is INVALID else OK,)

    def nothing_left(self) -> bool:
        """Whether everything was given back."""
        return not (self.blocks or self.streams or self.graphs or self.execs or self.events)


class ILogger:
    """The base of a logger."""

    ERROR, INTERNAL_ERROR, WARNING = "error", "internal", "warning"


class TrtDouble:
    """``tensorrt`` or ``tensorrt_rtx`` over a ``CudaDouble``.

    Attributes:
        contexts: Every execution context that was made.
        capturable: Whether the engine's work can be captured.
        during: Called in every execution, for tests of threads.
    """

    ILogger = ILogger
    TensorIOMode = SimpleNamespace(INPUT="in", OUTPUT="out")
    ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="mine", STATIC="static")
    CudaGraphStrategy = SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole", DISABLED="disabled")
    DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER="eager", LAZY="lazy")

    def __init__(self, cuda: CudaDouble) -> None:
        self.cuda = cuda
        self.contexts: list[ContextDouble] = []
        self.capturable = True
        self.during: Callable[[], None] = lambda: None
        self.logger: Any = None
        self.configs: list[SimpleNamespace] = []

    def nptype(self, kind: str) -> str:
        return kind

    def Runtime(self, logger: Any) -> Any:
        self.logger = logger
        return SimpleNamespace(deserialize_cuda_engine=self._engine)

    def _engine(self, content: bytes) -> EngineDouble | None:
        if content != ENGINE_BYTES:
            self.logger.log(ILogger.WARNING, "this is no reason")
            self.logger.log(ILogger.ERROR, "Error Code 2: Internal Error (readHeader) ")
            return None
        return EngineDouble(self)


class EngineDouble:
    """``ICudaEngine`` of the tests' own graph."""

    def __init__(self, library: TrtDouble) -> None:
        self.library = library
        manifest = make_manifest()
        self.specs = {spec.name: spec for spec in (*manifest.inputs, *manifest.outputs)}
        self.names = list(self.specs)
        self.num_io_tensors = len(self.names)

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def get_tensor_dtype(self, name: str) -> str:
        return self.specs[name].dtype

    def get_tensor_mode(self, name: str) -> str:
        return "out" if self.specs[name].source == "output" else "in"

    def create_runtime_config(self) -> SimpleNamespace:
        config = SimpleNamespace()
        config.set_execution_context_allocation_strategy = lambda value: setattr(config, "memory", value)
        config.create_runtime_cache = lambda: "cache"
        config.set_runtime_cache = lambda value: setattr(config, "cache", value)
        self.library.configs.append(config)
        return config

    def create_execution_context(self, how: Any) -> ContextDouble:
        context = ContextDouble(self, how)
        self.library.contexts.append(context)
        return context


class ContextDouble:
    """``IExecutionContext``. Its ``state`` grows with each change, and graphs remember the one of their capture."""

    WORKSPACE = 1000

    def __init__(self, engine: EngineDouble, how: Any) -> None:
        self.engine = engine
        self.how = how
        self.cuda = engine.library.cuda
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.workspace = (0, 0)
        self.state = 0
        self.flushed = -1
        self.executions = 0
        self.threads: set[int] = set()
        self.streams: set[int] = set()

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        spec = self.engine.specs[name]
        if len(shape) != len(spec.shape):
            self.engine.library.logger.log(ILogger.ERROR, f"{name}: wrong rank")
            return False
        wrong = [want for want, size in zip(spec.shape, shape, strict=True) if isinstance(want, int) and want != size]
        if wrong:
            self.engine.library.logger.log(ILogger.ERROR, f"{name}: static dimension mismatch")
            return False
        self.state += 1
        self.shapes[name] = tuple(shape)
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if name in self.shapes:
            return self.shapes[name]
        batch = self.shapes["image"][0]
        return (batch, QUERIES, 4) if name == "boxes_xyxy" else (batch, QUERIES)

    def update_device_memory_size_for_shapes(self) -> int:
        return self.WORKSPACE * self.shapes["image"][0]

    def set_device_memory(self, address: int, size: int) -> None:
        self.state += 1
        self.workspace = (address, size)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.state += 1
        self.addresses[name] = address
        return address % 16 == 0

    def execute_async_v3(self, stream: int) -> bool:
        self.threads.add(threading.get_ident())
        self.streams.add(stream)
        captured = self.cuda.streams[stream] is not None
        if captured and (not self.engine.library.capturable or self.flushed != self.state):
            self.cuda.broken.add(stream)
            self.engine.library.logger.log(ILogger.ERROR, "operation not permitted when stream is capturing")
            return False
        self.flushed = state = self.state
        return self.cuda.enqueue(stream, lambda: self.state == state and self._compute())

    def _compute(self) -> bool:
        self.executions += 1
        self.engine.library.during()
        if (
            not self.cuda.has("device", *self.workspace)
            or self.workspace[1] < self.update_device_memory_size_for_shapes()
        ):
            return False
        arrays = {name: self._array(name) for name in self.engine.names}
        if any(array is None for array in arrays.values()):
            return False
        brightness = arrays["image"].reshape(len(arrays["image"]), -1).mean(axis=1) / 255
        answers = arrays["vectors"][0] @ DIRECTIONS.T
        arrays["scores"][:] = np.outer(brightness, answers.max(axis=0))
        arrays["phrase_ids"][:] = answers.argmax(axis=0)
        arrays["class_ids"][:] = arrays["phrase_to_class"].argmax(axis=1)[arrays["phrase_ids"]]
        arrays["boxes_xyxy"][:] = BOXES_XYXY
        return True

    def _array(self, name: str) -> Any:
        """The tensor in device memory; None where its block is not there or too small."""
        shape, kind = self.get_tensor_shape(name), np.dtype(self.engine.specs[name].dtype)
        size = int(np.prod(shape)) * kind.itemsize
        address = self.addresses.get(name, 0)
        if not self.cuda.has("device", address, size):
            return None
        block = (ctypes.c_uint8 * size).from_address(address)
        return np.frombuffer(block, dtype=kind).reshape(shape)


def compiled(**changes: Any) -> CompiledEngine:
    """The record of the tests' engine: up to 16 images and phrases."""
    upto = AxisRange(least=1, typical=1, most=16)
    fields: dict[str, Any] = {
        "path": "engines/test.engine",
        "builder": "tensorrt_rtx",
        "builder_version": "1.0",
        "gpus": ("sm86",),
        "system": "linux-x86_64",
        "precision": "fp32",
        "tf32": False,
        "model": "model.onnx",
        "axes": {"B": upto, "P": upto, "C": upto},
    }
    return CompiledEngine(**(fields | changes))
