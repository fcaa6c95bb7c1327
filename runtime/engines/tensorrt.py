"""TensorRT and TensorRT-RTX: engine files of the bundle, run with ``cuda-python`` alone. One code path for both."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from medprompt.core.errors import EngineError
from medprompt.core.install import install_command
from medprompt.runtime.engines.base import Engine, ModelSource, check_names, closed, source_of
from medprompt.runtime.engines.cuda_buffers import Cuda
from medprompt.runtime.engines.engine_files import check_request, validity_problem
from medprompt.runtime.engines.machine import read_gpus
from medprompt.runtime.engines.tensorrt_worker import LoadedEngine, Shapes, Workers

MAX_MESSAGES = 20
"""Error lines of the library that are kept for our own errors."""


class TensorRt(Engine):
    """Engines of the package ``tensorrt``. See ``Engine``."""

    package: ClassVar[str] = "tensorrt"
    extra: ClassVar[str] = "trt"
    needs_compiled: ClassVar[bool] = True
    on_gpu: ClassVar[bool] = True
    captures: ClassVar[bool] = True  # CUDA graphs, here; TensorRT-RTX captures its own

    def __init__(self, source: ModelSource, runtime: Any, loaded: LoadedEngine) -> None:
        self._source = source
        self._runtime = runtime  # the library wants it alive as long as its engines
        self._loaded: LoadedEngine | None = loaded
        self._workers = Workers(loaded)

    @classmethod
    def available(cls) -> str:
        """See ``Engine.available``; whether the bundle has an engine for this GPU is another question."""
        for package, name in ((cls.package, cls.package), ("cuda", "cuda-python")):
            if find_spec(package) is None:
                return f"{name} is not installed"
        gpus, no_gpu = read_gpus()
        return "" if gpus else f"no GPU: {no_gpu}"

    @classmethod
    def open(cls, model: ModelSource | Path, threads: int | None = None) -> Self:
        """See ``Engine.open``; threads of the CPU have no say."""
        source = source_of(model)
        if source.compiled is None:
            raise EngineError(
                f"{cls.package} loads an engine file, and none was given.",
                where=str(source.path),
                fix="medprompt compile BUNDLE makes one",
            )
        library, cuda = cls._imported()
        log = error_log(library)
        runtime = library.Runtime(log)
        content = _bytes_of(source)
        engine = runtime.deserialize_cuda_engine(content)
        if engine is None:
            raise EngineError(
                f"{cls.package} refuses the engine.",
                where=str(source.path),
                got=": ".join(filter(None, (validity_problem(library, runtime, content), log.take()))),
                fix="medprompt doctor BUNDLE says what does not fit; medprompt compile makes the engine anew",
            )
        return cls(source, runtime, cls._described(library, engine, cuda, log, source))

    @classmethod
    def _imported(cls) -> tuple[Any, Cuda]:
        try:
            return import_module(cls.package), Cuda(import_module("cuda.bindings.runtime"))
        except (ImportError, OSError, RuntimeError) as error:  # a missing libnvinfer is an OSError
            raise EngineError(
                f"{cls.package} cannot be imported.",
                got=f"{type(error).__name__}: {error}",
                fix=f"{install_command(cls.extra)}; medprompt doctor",
            ) from error

    @classmethod
    def _described(cls, library: Any, engine: Any, cuda: Cuda, log: Any, source: ModelSource) -> LoadedEngine:
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        kinds = {name: np.dtype(library.nptype(engine.get_tensor_dtype(name))) for name in names}
        fed = {name for name in names if engine.get_tensor_mode(name) == library.TensorIOMode.INPUT}
        make = cls._context_maker(library, engine)

        def new_context() -> Any:
            context = make()
            if context is None:
                raise EngineError(
                    f"{cls.package} cannot create an execution context.",
                    got=log.take(),
                    fix="free GPU memory, or compile with smaller limits (max_batch=, max_phrases=, …)",
                )
            return context

        return LoadedEngine(
            cuda=cuda,
            inputs={name: kind for name, kind in kinds.items() if name in fed},
            outputs={name: kind for name, kind in kinds.items() if name not in fed},
            new_context=new_context,
            captures=cls.captures,
            check=_profile_check(source),
            messages=log.take,
        )

    @classmethod
    def _context_maker(cls, library: Any, engine: Any) -> Any:
        strategy = library.ExecutionContextAllocationStrategy.USER_MANAGED
        return lambda: engine.create_execution_context(strategy)

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """See ``Engine.run``. Threads may call at the same time; each gets a context of its own."""
        self._check(feeds)
        return self._workers.run(feeds)

    def device_stages_ms(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, float]:
        """See ``Engine.device_stages_ms``; by CUDA events, and without a CUDA graph, which would hide the parts."""
        self._check(feeds)
        return self._workers.stages_ms(feeds)

    def _check(self, feeds: Mapping[str, NDArray[Any]]) -> None:
        if self._loaded is None:
            raise closed(self.package)
        check_names(self.package, self._loaded.inputs, feeds)
        for name, kind in self._loaded.inputs.items():
            if feeds[name].dtype != kind:
                raise EngineError(
                    f"{self.package} refuses the inputs: another element type.",
                    where=name,
                    expected=str(kind),
                    got=str(feeds[name].dtype),
                    fix="export the bundle again: its manifest does not fit its engine",
                )

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]  # known only once it has run
        """See ``Engine``."""
        return self._workers.notes

    def close(self) -> None:
        """See ``Engine.close``."""
        self._loaded = None
        self._workers.close()
        self._runtime = None


class TensorRtRtx(TensorRt):
    """Engines of the package ``tensorrt_rtx``, whose kernels are compiled for the GPU when first used.

    It captures CUDA graphs itself, once the kernels of a shape are there. They are requested at once (``EAGER``): with
    its default, general kernels answer until the special ones are ready, so the self-test would prove others than
    those that serve. All contexts share one cache of kernels.
    """

    package: ClassVar[str] = "tensorrt_rtx"
    extra: ClassVar[str] = "trt-rtx"
    captures: ClassVar[bool] = False

    @classmethod
    def _context_maker(cls, library: Any, engine: Any) -> Any:
        config = engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(library.ExecutionContextAllocationStrategy.USER_MANAGED)
        config.cuda_graph_strategy = library.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        config.dynamic_shapes_kernel_specialization_strategy = library.DynamicShapesKernelSpecializationStrategy.EAGER
        cache = config.create_runtime_cache()
        config.set_runtime_cache(cache)
        return lambda: engine.create_execution_context(config)


def error_log(library: Any) -> Any:
    """A logger that keeps the library's last errors for ours, and prints nothing."""

    class ErrorLog(library.ILogger):
        def __init__(self) -> None:
            library.ILogger.__init__(self)
            self.lines: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (library.ILogger.ERROR, library.ILogger.INTERNAL_ERROR):
                self.lines = [*self.lines, message.strip()][-MAX_MESSAGES:]

        def take(self) -> str:
            lines, self.lines = self.lines, []
            return "; ".join(lines) or "no reason given"

    return ErrorLog()


def _bytes_of(source: ModelSource) -> bytes:
    try:
        return source.path.read_bytes()
    except OSError as error:
        raise EngineError(
            "The engine file cannot be read.",
            where=str(source.path),
            got=str(error),
            fix="copy the bundle again, or check who may read it",
        ) from error


def _profile_check(source: ModelSource) -> Any:
    def check(shapes: Shapes) -> None:
        if source.compiled is not None:
            check_request(source.compiled, source.inputs, dict(shapes), source.bundle)

    return check
