"""ONNX Runtime on the CPU: float32 as exported."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from medprompt.runtime.engines.base import DeviceEngine, ModelSource, check_names, closed, cpu_cores, refused, source_of

ERRORS_ONLY = 3
"""ONNX Runtime's log severity: its warnings on stderr concern graph details that no user can act on."""


class OnnxRuntime(DeviceEngine):
    """See ``Engine``. Threads may share it.

    ``at_once`` requests compute at the same time, in threads of the engine's own; of 0 ``submit`` computes in place.
    """

    package: ClassVar[str] = "onnxruntime"
    extra: ClassVar[str] = "cpu"

    def __init__(self, session: Any, model: Path, at_once: int = 0) -> None:
        self._session = session
        self._model = model
        self._pool = ThreadPoolExecutor(at_once, "medprompt-ort") if at_once else None
        self.in_flight = at_once + 1

    @classmethod
    def available(cls) -> str:
        """See ``DeviceEngine.available``."""
        return "" if find_spec("onnxruntime") else "onnxruntime is not installed"

    @classmethod
    def open(cls, model: ModelSource | Path, threads: int | None = None) -> Self:
        """See ``DeviceEngine.open``."""
        import onnxruntime

        source = source_of(model)
        at_once = min(source.at_once, threads or cpu_cores())
        options = session_options((threads or cpu_cores()) // at_once if at_once > 1 else threads)
        options.enable_mem_pattern = source.plans_memory
        try:
            session = onnxruntime.InferenceSession(str(source.path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions are bare pybind types under Exception
            raise refused("ONNX Runtime", source.path, error) from error
        return cls(session, source.path, at_once)

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """See ``Engine.run``."""
        if self._session is None:
            raise closed("ONNX Runtime")
        check_names("ONNX Runtime", (entry.name for entry in self._session.get_inputs()), feeds)
        try:
            return self._compute(self._session, feeds)
        except Exception as error:  # its exceptions are bare pybind types under Exception
            raise refused("ONNX Runtime", self._model, error) from error

    def submit(self, feeds: Mapping[str, NDArray[Any]]) -> Any:
        """See ``Engine.submit``."""
        if self._pool is None or self._session is None:
            return super().submit(feeds)
        return self._pool.submit(self.run, {name: np.array(array) for name, array in feeds.items()})

    def collect(self, pending: Any) -> dict[str, NDArray[Any]]:
        """See ``Engine.collect``."""
        return super().collect(pending.result() if isinstance(pending, Future) else pending)

    def close(self) -> None:
        """See ``Engine.close``."""
        self._session = None
        if self._pool is not None:
            self._pool.shutdown(wait=False)

    def _compute(self, session: Any, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def session_options(threads: int | None) -> Any:
    """Quiet options with that many threads; ONNX Runtime's own choice where None."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    if threads:
        options.intra_op_num_threads = threads
    return options
