"""ONNX Runtime on the CPU: float32 as exported."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Self

from numpy.typing import NDArray

from medprompt.runtime.engines.base import Engine, check_names, closed, refused

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
    def open(cls, model: Path, threads: int | None = None) -> Self:
        """See ``Engine.open``."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = ERRORS_ONLY
        if threads:
            options.intra_op_num_threads = threads
        try:
            return cls(onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"]), model)
        except Exception as error:  # its exceptions are bare pybind types under Exception
            raise refused("ONNX Runtime", model, error) from error

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """See ``Engine.run``."""
        if self._session is None:
            raise closed("ONNX Runtime")
        check_names("ONNX Runtime", (entry.name for entry in self._session.get_inputs()), feeds)
        names = [output.name for output in self._session.get_outputs()]
        try:
            return dict(zip(names, self._session.run(names, dict(feeds)), strict=True))
        except Exception as error:  # its exceptions are bare pybind types under Exception
            raise refused("ONNX Runtime", self._model, error) from error

    def close(self) -> None:
        """See ``Engine.close``."""
        self._session = None
