"""OpenVINO on the CPU, in float32 or, where the processor computes it, in bfloat16."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from medprompt.runtime.engines.base import DeviceEngine, ModelSource, check_names, closed, cpu_cores, refused, source_of


def refuse_telemetry() -> None:
    """Keep OpenVINO, before it is imported, from reporting to its maker.

    OpenVINO 2026.4 sends an event to Google Analytics when it is imported, unless the user has opted out by a file at
    home. Where its telemetry package cannot be imported it takes a stub of its own.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


def shared_core() -> Any:
    """The process's one ``openvino.Core``, which is never dropped.

    A core gives the thread that first uses it another stack for signals, and takes that away where and when it is
    dropped. After two cores were dropped in the order they were made, or one in another thread, the next signal, a
    Ctrl-C say, ends the process by SIGSEGV in the middle of whatever it writes (seen with OpenVINO 2026.4).
    """
    with _making_core:
        return _core()


@cache
def _core() -> Any:
    refuse_telemetry()
    import openvino

    return openvino.Core()


_making_core = threading.Lock()
"""Two threads could else make a core each, and one of these would be dropped."""


class OpenVino(DeviceEngine):
    """See ``Engine``. Threads may share it: each has requests of its own.

    ``precision`` is OpenVINO's name of the arithmetic. Always set: its own default is bfloat16 wherever the CPU has it,
    which would be a silent change of precision.
    """

    package: ClassVar[str] = "openvino"
    extra: ClassVar[str] = "cpu"
    precision: ClassVar[str] = "f32"

    def __init__(self, compiled: Any, model: Path, at_once: int = 1) -> None:
        self._compiled = compiled
        self._own = threading.local()
        self._inputs = [port.get_any_name() for port in compiled.inputs]
        self._names = [port.get_any_name() for port in compiled.outputs]
        self._model = model
        self.in_flight = at_once + 1  # one waits, so that none has to be waited for

    @classmethod
    def available(cls) -> str:
        """See ``DeviceEngine.available``."""
        return "" if find_spec("openvino") else "openvino is not installed"

    @classmethod
    def open(cls, model: ModelSource | Path, threads: int | None = None) -> Self:
        """See ``DeviceEngine.open``. No model cache is kept: nothing may be written into a bundle."""
        core, source = shared_core(), source_of(model)
        at_once = min(source.at_once, threads or cpu_cores())
        # LATENCY: all cores work on one request, unless they are to be split among several.
        settings = {"INFERENCE_PRECISION_HINT": cls.precision, "PERFORMANCE_HINT": "LATENCY"}
        if at_once > 1:
            settings["NUM_STREAMS"] = str(at_once)
        if threads:
            settings["INFERENCE_NUM_THREADS"] = str(threads)
        try:
            return cls(core.compile_model(str(source.path), "CPU", settings), source.path, at_once)
        except Exception as error:  # OpenVINO raises RuntimeError and its own types under Exception
            raise refused("OpenVINO", source.path, error) from error

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """See ``Engine.run``."""
        return self.collect(self._started(dict(feeds)))

    def submit(self, feeds: Mapping[str, NDArray[Any]]) -> Any:
        """See ``Engine.submit``."""
        return self._started({name: np.array(array) for name, array in feeds.items()})

    def collect(self, pending: Any) -> dict[str, NDArray[Any]]:
        """See ``Engine.collect``."""
        request, _ = pending
        try:
            request.wait()
            # Copies: the request's own tensors are overwritten by its next call.
            outputs = {name: np.array(request.get_tensor(name).data) for name in self._names}
        except Exception as error:  # OpenVINO raises RuntimeError and its own types under Exception
            raise refused("OpenVINO", self._model, error) from error
        self._idle().append(request)
        return outputs

    def close(self) -> None:
        """See ``Engine.close``."""
        self._compiled = None
        self._own = threading.local()

    def _started(self, feeds: dict[str, NDArray[Any]]) -> tuple[Any, dict[str, NDArray[Any]]]:
        """A request that computes, and the inputs that it reads meanwhile.

        They are always shared: unshared ones would be copied into what the request shared last.
        """
        if self._compiled is None:
            raise closed("OpenVINO")
        check_names("OpenVINO", self._inputs, feeds)
        idle = self._idle()
        try:
            request = idle.pop() if idle else self._compiled.create_infer_request()
            request.start_async(feeds, share_inputs=True)
        except Exception as error:  # OpenVINO raises RuntimeError and its own types under Exception
            raise refused("OpenVINO", self._model, error) from error
        return request, feeds

    def _idle(self) -> list[Any]:
        """This thread's requests that do not compute."""
        if not hasattr(self._own, "idle"):
            self._own.idle = []
        idle: list[Any] = self._own.idle
        return idle


class OpenVinoBf16(OpenVino):
    """OpenVINO in bfloat16: several times faster where the CPU has AMX or AVX512-BF16."""

    precision: ClassVar[str] = "bf16"
    arithmetic: ClassVar[str] = "bf16"

    @classmethod
    def available(cls) -> str:
        """See ``DeviceEngine.available``."""
        absent = super().available()
        if absent:
            return absent
        capabilities = shared_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        return "" if "BF16" in capabilities else "this CPU does not compute bfloat16"


class OpenVinoMixed(OpenVinoBf16):
    """OpenVINO on the typed file of ``--precision auto-bf16``: bfloat16 where the decisions bear it, float32 elsewhere.

    Its ``precision`` is float32, so that OpenVINO takes each operator's type from the file: bfloat16 would be forced on
    those that are float32 there. A CPU without bfloat16 would compute all of it in float32, and prove nothing.
    """

    precision: ClassVar[str] = "f32"
    model: ClassVar[str] = "model-auto-bf16.onnx"
