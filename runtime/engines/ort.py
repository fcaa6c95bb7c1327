"""ONNX Runtime on the CPU: float32 as exported."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Self

from numpy.typing import NDArray

from medprompt.runtime.engines.base import Engine, ModelSource, check_names, closed, refused, source_of

ERRORS_ONLY = 3
"""ONNX Runtime's log severity: its warnings on stderr concern graph details that no user can act on."""


class OnnxRuntime(Engine):
    """See ``Engine``."""

    package: ClassVar[str] = "onnxruntime"
    extra: ClassVar[str] = "cpu"

    def __init__(self, session: Any, model: Path) -> None:
        self._session = session
        self._model = model

    @classmethod
    def available(cls) -> str:
        """See ``Engine.available``."""
        return "" if find_spec("onnxruntime") else "onnxruntime is not installed"

    @classmethod
    def open(cls, model: ModelSource | Path, threads: int | None = None) -> Self:
        """See ``Engine.open``."""
        import onnxruntime

        source = source_of(model)
        options = session_options(threads)
        try:
            session = onnxruntime.InferenceSession(str(source.path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions are bare pybind types under Exception
            raise refused("ONNX Runtime", source.path, error) from error
        return cls(session, source.path)

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """See ``Engine.run``."""
        if self._session is None:
            raise closed("ONNX Runtime")
        check_names("ONNX Runtime", (entry.name for entry in self._session.get_inputs()), feeds)
        try:
            return self._compute(self._session, feeds)
        except Exception as error:  # its exceptions are bare pybind types under Exception
            raise refused("ONNX Runtime", self._model, error) from error

    def close(self) -> None:
        """See ``Engine.close``."""
        self._session = None

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
