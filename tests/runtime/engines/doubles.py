"""Doubles of ``tensorrt`` and ``tensorrt_rtx`` over ``CudaDouble``.

A graph refuses to be replayed once its context has moved on, as NVIDIA documents. What the real bindings do not keep
alive is held by weak references here, and factories may answer NULL in each binding's own way. The engine computes the
rule of ``tests.runtime.bundles.save_model``.
"""

from __future__ import annotations

import ctypes
import json
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from weakref import WeakSet

import numpy as np

from medprompt.core.manifest import AxisRange, CompiledEngine
from tests.runtime.bundles import BOXES_XYXY, DIRECTIONS, QUERIES, make_manifest
from tests.runtime.engines.cuda_double import CudaDouble

ENGINE_BYTES = b"an engine, whole"

GPU_OF_KERNELS = "the GPU of this machine"


class ILogger:
    """The base of a logger."""

    ERROR, INTERNAL_ERROR, WARNING = "error", "internal", "warning"


class TrtDouble:
    """``tensorrt`` or ``tensorrt_rtx`` over a ``CudaDouble``.

    Attributes:
        contexts: What happened to each execution context that was made; the contexts themselves live as long as real
            ones would.
        alive: Engines, contexts and caches that were not freed.
        faults: What would have been undefined behaviour.
        refuses: Names of factories that answer NULL.
        says: What the library logs when a factory answers NULL.
        capturable: Whether the engine's work can be captured.
        during: Called in every execution, for tests of threads.
        while_capturing: Called while the library captures by itself.
        workspace: Bytes of workspace that an image needs, or None for the answer of an error.
        profiles: Largest batch of each optimisation profile.
    """

    ILogger = ILogger
    TensorIOMode = SimpleNamespace(INPUT="in", OUTPUT="out")
    ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="mine", STATIC="static")
    CudaGraphStrategy = SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole", DISABLED="disabled")
    DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER="eager", LAZY="lazy")

    def __init__(self, cuda: CudaDouble, version: str = "10.13.3") -> None:
        self.__version__ = version
        self.cuda = cuda
        self.contexts: list[ContextLog] = []
        self.alive: WeakSet[Any] = WeakSet()
        self.faults: list[str] = []
        self.refuses: set[str] = set()
        self.says = "CUDA initialization failure with error: 35"
        self.capturable = True
        self.during: Callable[[], None] = lambda: None
        self.while_capturing: Callable[[], None] = lambda: None
        self.workspace: int | None = 1000
        self.profiles = [16]
        self.logger: Any = None
        self.compiled: list[Any] = []

    def nptype(self, kind: str) -> str:
        return kind

    def answers_null(self, factory: str) -> bool:
        if factory in self.refuses:
            self.logger.log(ILogger.ERROR, self.says)
        return factory in self.refuses

    def Runtime(self, logger: Any) -> Any:
        self.logger = logger
        if self.answers_null("Runtime"):
            raise TypeError("pybind11::init(): factory function returned nullptr")
        return SimpleNamespace(deserialize_cuda_engine=self._engine)

    def _engine(self, content: bytes) -> EngineDouble | None:
        if content != ENGINE_BYTES:
            self.logger.log(ILogger.WARNING, "this is no reason")
            self.logger.log(ILogger.ERROR, "Error Code 2: Internal Error (readHeader) ")
            return None
        return None if self.answers_null("deserialize_cuda_engine") else EngineDouble(self)

    def living(self, kind: type) -> int:
        """How many of a class were not freed."""
        return sum(isinstance(one, kind) for one in self.alive)


class RuntimeCacheDouble:
    """``IRuntimeCache``: the kernels made so far, one a set of shapes. Contexts hold a bare pointer to it."""

    def __init__(self, library: TrtDouble) -> None:
        self.library = library
        self.kernels: set[str] = set()
        library.alive.add(self)

    def serialize(self) -> bytes:
        return json.dumps([GPU_OF_KERNELS, *sorted(self.kernels)]).encode()

    def deserialize(self, content: bytes) -> bool:
        gpu, *kernels = json.loads(content)  # a real one may do worse with what is no cache
        if gpu != GPU_OF_KERNELS:
            return False
        self.kernels |= set(kernels)
        return True


class RuntimeConfigDouble:
    """``IRuntimeConfig``; it keeps the bare pointer of a cache, as the real one does."""

    def __init__(self) -> None:
        self.memory = self.cuda_graph_strategy = self.dynamic_shapes_kernel_specialization_strategy = ""
        self.cache: Callable[[], RuntimeCacheDouble | None] = lambda: None
        self.library: Any = None

    def set_execution_context_allocation_strategy(self, value: str) -> None:
        self.memory = value

    def create_runtime_cache(self) -> RuntimeCacheDouble | None:
        return None if self.library.answers_null("create_runtime_cache") else RuntimeCacheDouble(self.library)

    def set_runtime_cache(self, cache: RuntimeCacheDouble) -> bool:
        self.cache = weakref.ref(cache)
        return True


class EngineDouble:
    """``ICudaEngine`` of the tests' own graph."""

    def __init__(self, library: TrtDouble) -> None:
        self.library = library
        manifest = make_manifest()
        self.specs = {spec.name: spec for spec in (*manifest.inputs, *manifest.outputs)}
        self.names = list(self.specs)
        self.num_io_tensors = len(self.names)
        self.num_optimization_profiles = len(library.profiles)
        self.device_memory_size_v2 = 16_000 if library.workspace != 0 else 0
        library.alive.add(self)

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def get_tensor_dtype(self, name: str) -> str:
        return self.specs[name].dtype

    def get_tensor_mode(self, name: str) -> str:
        return "out" if self.specs[name].source == "output" else "in"

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        def ends(dynamic: int) -> tuple[int, ...]:
            return tuple(size if isinstance(size, int) else dynamic for size in self.specs[name].shape)

        most = self.library.profiles[profile]
        largest = (most, *ends(16)[1:]) if name == "image" else ends(16)
        return [ends(1), ends(1), largest]

    def create_runtime_config(self) -> RuntimeConfigDouble | None:
        if self.library.answers_null("create_runtime_config"):
            return None
        config = RuntimeConfigDouble()
        config.library = self.library
        return config

    def create_execution_context(self, how: Any) -> ContextDouble | None:
        cuda = self.library.cuda
        if cuda.capturing_alone not in (None, threading.get_ident()):
            cuda.intruded = True
        return None if self.library.answers_null("create_execution_context") else ContextDouble(self, how)


@dataclass
class ContextLog:
    """What happened to an execution context, which this does not keep alive."""

    how: Any
    executions: int = 0
    profile: int = 0
    threads: set[int] = field(default_factory=set)
    streams: set[int] = field(default_factory=set)


class ContextDouble:
    """``IExecutionContext``. Its ``state`` grows with each change, and graphs remember the one of their capture."""

    def __init__(self, engine: EngineDouble, how: Any) -> None:
        self.engine = engine  # kept alive by the bindings, as ``how`` is
        self.how = how
        self.library = engine.library
        self.cuda = engine.library.cuda
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.workspace = (0, 0)
        self.state = 0
        self.flushed = -1
        self.log = ContextLog(how)
        self.library.contexts.append(self.log)
        self.library.alive.add(self)
        self._needs_its_cache()
        if isinstance(how, RuntimeConfigDouble):
            weakref.finalize(how.cache(), self._cache_freed, self.library, weakref.ref(self))

    @staticmethod
    def _cache_freed(library: TrtDouble, context: Callable[[], Any]) -> None:
        if context() is not None:
            library.faults.append("the cache was freed before a context that uses it")

    def _needs_its_cache(self) -> None:
        if isinstance(self.how, RuntimeConfigDouble) and self.how.cache() is None:
            self.library.faults.append("a freed cache was used")
            raise SystemError("segmentation fault")

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        self.state += 1
        self.log.profile = profile
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        spec = self.engine.specs[name]
        if len(shape) != len(spec.shape):
            self.library.logger.log(ILogger.ERROR, f"{name}: wrong rank")
            return False
        wrong = [want for want, size in zip(spec.shape, shape, strict=True) if isinstance(want, int) and want != size]
        if wrong or (name == "image" and shape[0] > self.library.profiles[self.log.profile]):
            self.library.logger.log(ILogger.ERROR, f"{name}: static dimension mismatch")
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
        return (self.library.workspace or 0) * self.shapes["image"][0]

    def set_device_memory(self, address: int, size: int) -> None:
        self.state += 1
        self.workspace = (address, size)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.state += 1
        self.addresses[name] = address
        return address % 16 == 0

    def is_stream_capturable(self, stream: int) -> bool:
        return self.library.capturable

    def execute_async_v3(self, stream: int) -> bool:
        self.log.threads.add(threading.get_ident())
        self.log.streams.add(stream)
        captured = self.cuda.is_captured(stream)
        if captured and (not self.library.capturable or self.flushed != self.state):
            self.cuda.broken.add(stream)
            self.library.logger.log(ILogger.ERROR, "operation not permitted when stream is capturing")
            return False
        if isinstance(self.how, RuntimeConfigDouble):
            self._compile_and_capture()
        self.flushed = state = self.state
        own = weakref.ref(self)  # a context that was freed computes nothing
        self.cuda.enqueue(stream, lambda: (self_ := own()) is not None and self_.state == state and self_._compute())
        return True

    def _compile_and_capture(self) -> None:
        """What TensorRT-RTX does when shapes are new: kernels that the cache lacks, then a graph of its own."""
        self._needs_its_cache()
        cache, shapes = self.how.cache(), str(sorted(self.shapes.items()))
        if shapes not in cache.kernels:
            self.library.compiled.append(shapes)
            cache.kernels.add(shapes)
        if self.flushed != self.state:
            with self.cuda.library_captures():
                self.library.while_capturing()

    def _compute(self) -> bool:
        self.log.executions += 1
        self.library.during()
        needed = self.update_device_memory_size_for_shapes()
        if needed and not (self.cuda.has("device", *self.workspace) and self.workspace[1] >= needed):
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
