"""How TensorRT-RTX makes the kernels of an engine for the GPU at hand: when, and where they are kept."""

from __future__ import annotations

import logging
from typing import Any

from medprompt.core.errors import EngineError
from medprompt.runtime.engines.cuda_buffers import SETTING_UP, Cuda
from medprompt.runtime.engines.feeds import Shapes
from medprompt.runtime.engines.kernel_cache import CacheKey, KernelCache, cache_folder
from medprompt.runtime.engines.loaded_engine import Kernels
from medprompt.runtime.engines.machine import driver_version, read_gpus

_log = logging.getLogger(__name__)


class RtxKernels(Kernels):
    """The execution contexts of one engine, which share one cache of kernels.

    The kernels for the shapes of the self-test are made at once (``EAGER``): with general ones it would prove others
    than those that serve. Shapes that come later do not wait (``LAZY``): general kernels answer until theirs are ready.

    The library stores a bare pointer to the cache, so that whoever uses a context must hold this object.

    Raises:
        EngineError: The library gives no configuration or no cache.
    """

    def __init__(self, library: Any, engine: Any, file: KernelCache) -> None:
        self._engine = engine
        self._file = file
        self._proven: set[Shapes] = set()
        self._serving = False
        strategies = library.DynamicShapesKernelSpecializationStrategy
        self._eager, self._lazy = (_config(library, engine, how) for how in (strategies.EAGER, strategies.LAZY))
        self._cache = _given(self._eager.create_runtime_cache(), "cache of kernels")
        kept = file.read()
        if kept and not self._cache.deserialize(kept):
            _log.info("TensorRT-RTX takes no kernels of %s: they are made again", file.path)
        for config in (self._eager, self._lazy):
            config.set_runtime_cache(self._cache)

    def new_context(self) -> Any:
        """An execution context whose kernels are made when its shapes first run."""
        return self._engine.create_execution_context(self._eager)

    def lazy_context(self, shapes: Shapes) -> Any:
        """See ``Kernels``; None for shapes of the self-test. Without one, those of the first request stand for them."""
        if self._serving and self._proven and shapes not in self._proven:
            return self._engine.create_execution_context(self._lazy)
        self._proven.add(shapes)
        return None

    def begin_serving(self) -> None:
        """See ``Kernels``."""
        self._serving = True

    def is_capturable(self, context: Any, stream: int) -> bool:
        """See ``Kernels``."""
        return bool(context.is_stream_capturable(stream))

    def keep(self) -> None:
        """See ``Kernels``; a failure is logged."""
        with SETTING_UP:
            try:
                kernels = bytes(self._cache.serialize())
            except Exception as error:  # its exceptions are bare pybind types under Exception
                _log.warning("compiled kernels are not kept: %s", error)
                return
        self._file.write(kernels)


def kernel_file(library: Any, cuda: Cuda, engine_sha256: str) -> KernelCache:
    """The kernels' file of an engine on this machine."""
    gpus, _ = read_gpus()
    driver = driver_version() or f"cuda{cuda('cudaDriverGetVersion')}"
    key = CacheKey(engine_sha256, gpus[0].name if gpus else "unknown", driver, library.__version__)
    return KernelCache(key, cache_folder())


def _config(library: Any, engine: Any, specialization: Any) -> Any:
    config = _given(engine.create_runtime_config(), "runtime configuration")
    config.set_execution_context_allocation_strategy(library.ExecutionContextAllocationStrategy.USER_MANAGED)
    config.cuda_graph_strategy = library.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    config.dynamic_shapes_kernel_specialization_strategy = specialization
    return config


def _given(made: Any, what: str) -> Any:
    if made is None:
        raise EngineError(f"TensorRT-RTX makes no {what}.", fix="medprompt doctor BUNDLE says what does not fit")
    return made
