"""TensorRT and TensorRT-RTX: engine files of the bundle, run with ``cuda-python`` alone. One code path for both."""

from __future__ import annotations

import hashlib
import re
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from medprompt.core.errors import EngineError, MedpromptError
from medprompt.core.packages import install_command
from medprompt.runtime.engines.base import DeviceEngine, ModelSource, check_names, closed, source_of
from medprompt.runtime.engines.cuda_buffers import SETTING_UP, Cuda
from medprompt.runtime.engines.device_step import DeviceStep
from medprompt.runtime.engines.engine_files import check_request, validity_problem
from medprompt.runtime.engines.feeds import Feed, Shapes, layout_of
from medprompt.runtime.engines.loaded_engine import Kernels, LoadedEngine, Profile, library_error
from medprompt.runtime.engines.machine import cuda_python_problem, read_gpus
from medprompt.runtime.engines.rtx_kernels import RtxKernels, kernel_file
from medprompt.runtime.engines.tap_kernel import IMAGE, MADE, TapStep
from medprompt.runtime.engines.tensorrt_worker import SLOTS, Pending, Workers

MAX_MESSAGES = 20
"""Error lines of the library that are kept for our own errors."""

DOCTOR = "medprompt doctor BUNDLE says what does not fit; medprompt compile makes the engine anew"


class TensorRt(DeviceEngine):
    """Engines of the package ``tensorrt``. See ``Engine``.

    Attributes:
        least_version: Of the package; an older one lacks what is called here.
        captures: Whether CUDA graphs are captured here.
    """

    package: ClassVar[str] = "tensorrt"
    extra: ClassVar[str] = "trt"
    least_version: ClassVar[tuple[int, ...]] = (10, 1)
    needs_compiled: ClassVar[bool] = True
    on_gpu: bool = True
    in_flight: int = SLOTS
    joins_rows: bool = True
    captures: ClassVar[bool] = True

    def __init__(self, source: ModelSource, runtime: Any, loaded: LoadedEngine) -> None:
        self._source = source
        self._runtime = runtime  # the library wants it alive as long as its engines
        self._loaded: LoadedEngine | None = loaded
        self.resizes = loaded.step is not None
        self._workers = Workers(loaded)
        self._dropped = weakref.finalize(self, _close_quietly, self._workers)
        self._dropped.atexit = False  # a process that ends gives all back by itself, and CUDA may be gone by then

    @classmethod
    def available(cls) -> str:
        """See ``DeviceEngine.available``; whether the bundle has an engine for this GPU is another question."""
        problem = cuda_python_problem() if find_spec(cls.package) else f"{cls.package} is not installed"
        if problem:
            return problem
        gpus, no_gpu = read_gpus()
        return "" if gpus else f"no GPU: {no_gpu}"

    @classmethod
    def open(cls, model: ModelSource | Path, threads: int | None = None) -> Self:
        """See ``DeviceEngine.open``; threads of the CPU have no say."""
        source = source_of(model)
        if source.compiled is None:
            raise EngineError(
                f"{cls.package} loads an engine file, and none was given.",
                where=str(source.path),
                fix="medprompt compile BUNDLE makes one",
            )
        content = _bytes_of(source)
        library, cuda = cls._imported()
        log = error_log(library)
        with SETTING_UP, _explained(f"{cls.package} cannot load the engine", log, source):
            cuda.start()  # its own error says more than the library's answer, which is NULL
            runtime = library.Runtime(log)
            engine = runtime.deserialize_cuda_engine(content)
            if engine is None:
                said = ": ".join(filter(None, (validity_problem(library, runtime, content), log.take())))
                raise library_error(f"{cls.package} refuses the engine.", said, str(source.path), DOCTOR)
            return cls(source, runtime, cls._described(library, engine, cuda, log, source, content))

    @classmethod
    def _imported(cls) -> tuple[Any, Cuda]:
        try:
            library, cuda = import_module(cls.package), Cuda(import_module("cuda.bindings.runtime"))
        except (ImportError, OSError, RuntimeError) as error:  # a missing libnvinfer is an OSError
            raise EngineError(
                f"{cls.package} cannot be imported.",
                got=f"{type(error).__name__}: {error}",
                fix=f"{install_command(cls.extra)}; medprompt doctor",
            ) from error
        version = str(library.__version__)
        if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < cls.least_version:
            raise EngineError(
                f"This {cls.package} is too old.",
                expected=f"{'.'.join(map(str, cls.least_version))} or newer",
                got=version,
                fix=f"{install_command(cls.extra, '--upgrade')}, and compile the engine with that version",
            )
        return library, cuda

    @classmethod
    def _described(
        cls, library: Any, engine: Any, cuda: Cuda, log: Any, source: ModelSource, content: bytes
    ) -> LoadedEngine:
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        kinds = {name: np.dtype(library.nptype(engine.get_tensor_dtype(name))) for name in names}
        fed = {name for name in names if engine.get_tensor_mode(name) == library.TensorIOMode.INPUT}
        new_context, kernels = cls._contexts(library, engine, cuda, content)
        return LoadedEngine(
            cuda=cuda,
            inputs={name: kind for name, kind in kinds.items() if name in fed},
            outputs={name: kind for name, kind in kinds.items() if name not in fed},
            new_context=_guarded(new_context, cls.package, log, source),
            captures=cls.captures,
            check=_profile_check(source),
            messages=log.take,
            profiles=_profiles(engine, fed),
            step=cls._resize(source, kinds),
            most_workspace=int(engine.device_memory_size_v2),
            kernels=kernels,
        )

    @classmethod
    def _resize(cls, source: ModelSource, kinds: Mapping[str, np.dtype[Any]]) -> DeviceStep | None:
        """What makes the graph's image of a source; nothing where that is not known, or the graph does it itself."""
        kind = kinds[IMAGE].name if IMAGE in kinds else ""
        if source.preprocess is None or source.preprocess.placement == "graph" or kind not in MADE:
            return None
        return TapStep(source.preprocess, kind, import_module("cuda.bindings.driver"))

    @classmethod
    def _contexts(cls, library: Any, engine: Any, cuda: Cuda, content: bytes) -> tuple[Callable[[], Any], Kernels]:
        """What makes execution contexts, and their kernels."""
        strategy = library.ExecutionContextAllocationStrategy.USER_MANAGED
        return lambda: engine.create_execution_context(strategy), Kernels()

    def run(self, feeds: Mapping[str, Feed]) -> dict[str, NDArray[Any]]:
        """See ``Engine.run``. Threads may call at the same time; each gets contexts of its own."""
        self._check(feeds)
        return self._workers.run(feeds)

    def submit(self, feeds: Mapping[str, Feed]) -> Pending:
        """See ``Engine.submit``; the inputs are on their way while an earlier request computes."""
        self._check(feeds)
        return self._workers.submit(feeds)

    def collect(self, pending: Pending) -> dict[str, NDArray[Any]]:
        """See ``Engine.collect``."""
        return pending.collect()

    def begin_serving(self) -> None:
        """See ``Engine.begin_serving``."""
        if self._loaded is not None:
            self._loaded.kernels.begin_serving()

    def device_stages_ms(self, feeds: Mapping[str, Feed]) -> dict[str, float]:
        """See ``Engine.device_stages_ms``; by CUDA events, and without a CUDA graph, which would hide the parts."""
        self._check(feeds)
        return self._workers.stages_ms(feeds)

    def _check(self, feeds: Mapping[str, Feed]) -> None:
        if self._loaded is None:
            raise closed(self.package)
        wanted = self._loaded.fed
        check_names(self.package, wanted, feeds)
        for name, kind in wanted.items():
            found = layout_of(name, feeds[name])[1]
            if found != kind:
                raise EngineError(
                    f"{self.package} refuses the inputs: another element type.",
                    where=name,
                    expected=str(kind),
                    got=str(found),
                    fix="export the bundle again: its manifest does not fit its engine",
                )

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]  # known only once it has run
        """See ``Engine``."""
        return self._workers.notes

    def close(self) -> None:
        """See ``Engine.close``. What is in flight in other threads is freed when they have collected it."""
        self._dropped.detach()
        self._loaded = None
        self._workers.close()
        self._runtime = None


class TensorRtRtx(TensorRt):
    """Engines of the package ``tensorrt_rtx``, whose kernels are compiled for the GPU when first used.

    It captures CUDA graphs itself, once the kernels of a shape are there. See ``RtxKernels``.
    """

    package: ClassVar[str] = "tensorrt_rtx"
    extra: ClassVar[str] = "trt-rtx"
    least_version: ClassVar[tuple[int, ...]] = ()
    captures: ClassVar[bool] = False

    @classmethod
    def _contexts(cls, library: Any, engine: Any, cuda: Cuda, content: bytes) -> tuple[Callable[[], Any], Kernels]:
        kernels = RtxKernels(library, engine, kernel_file(library, cuda, hashlib.sha256(content).hexdigest()))
        return kernels.new_context, kernels


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


@contextmanager
def _explained(problem: str, log: Any, source: ModelSource) -> Iterator[None]:
    """The library's exceptions as ours: where a factory of it answers NULL its binding raises a TypeError."""
    try:
        yield
    except MedpromptError:
        raise
    except Exception as error:  # its exceptions are bare pybind types under Exception
        said = f"{log.take()} ({type(error).__name__}: {error})"
        raise library_error(f"{problem}.", said, str(source.path), DOCTOR) from error


def _guarded(make: Callable[[], Any], package: str, log: Any, source: ModelSource) -> Callable[[], Any]:
    problem = f"{package} cannot create an execution context"
    fix = "free GPU memory, or compile with smaller limits (max_batch=, max_phrases=, …)"

    def new_context() -> Any:
        with _explained(problem, log, source):
            context = make()
            if context is None:
                raise library_error(f"{problem}.", log.take(), str(source.path), fix)
            return context

    return new_context


def _profiles(engine: Any, inputs: Collection[str]) -> Sequence[Profile]:
    """The optimisation profiles of an engine that has several."""
    count = int(engine.num_optimization_profiles)
    if count < 2:
        return ()
    # The least, the typical and the largest shape.
    shapes = [{name: engine.get_tensor_profile_shape(name, index) for name in inputs} for index in range(count)]
    return tuple({name: (tuple(ends[0]), tuple(ends[2])) for name, ends in profile.items()} for profile in shapes)


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


def _profile_check(source: ModelSource) -> Callable[[Shapes], None]:
    def check(shapes: Shapes) -> None:
        if source.compiled is not None:
            check_request(source.compiled, source.inputs, dict(shapes), source.bundle)

    return check


def _close_quietly(workers: Workers) -> None:
    """Free an engine that was dropped without ``close``: there is nobody to tell an error to."""
    with suppress(MedpromptError):
        workers.close()
