"""ONNX Runtime on NVIDIA GPUs: the CUDA and TensorRT providers and the TensorRT-RTX plug-in provider.

ONNX Runtime that cannot set a provider up goes on with the next one and says so in its log at most. So the providers
that a session really has are read back, and a session without the one asked for has ``fell_back`` set.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from medprompt.core.errors import EngineError
from medprompt.runtime.engines.base import ModelSource, refused, source_of
from medprompt.runtime.engines.machine import read_gpus
from medprompt.runtime.engines.ort import OnnxRuntime, session_options
from medprompt.runtime.engines.placement import CPU, RECORD_KEY, Placement, read_placement

PLUGIN_PACKAGE = "onnxruntime_ep_nv_tensorrt_rtx"


class OrtCuda(OnnxRuntime):
    """The CUDA provider.

    Attributes:
        provider: ONNX Runtime's name of the provider.
        options: Its settings. TF32 is off: it would be a silent change of precision.
        memory: ONNX Runtime's name of the memory that tensors are bound in.
    """

    extra: ClassVar[str] = "cuda"
    on_gpu: ClassVar[bool] = True
    provider: ClassVar[str] = "CUDAExecutionProvider"
    options: ClassVar[dict[str, str]] = {"use_tf32": "0"}
    memory: ClassVar[str] = "cuda"

    def __init__(self, session: Any, model: Path) -> None:
        super().__init__(session, model)
        self.placement: Placement | None = read_placement(session)
        self.fell_back = fallback_of(session, self.provider)
        self._memory = "cpu" if self.fell_back else self.memory
        self._bound = threading.local()
        self.notes = (self.placement.describe(),) if self.placement else ()

    @classmethod
    def available(cls) -> str:
        """See ``Engine.available``."""
        absent = super().available()
        if absent:
            return absent
        gpus, no_gpu = read_gpus()
        return cls._without_provider() if gpus else f"no GPU: {no_gpu}"

    @classmethod
    def open(cls, model: ModelSource | Path, threads: int | None = None) -> Self:
        """See ``Engine.open``."""
        source = source_of(model)
        options = session_options(threads)
        options.add_session_config_entry(RECORD_KEY, "1")
        try:
            with warnings.catch_warnings():
                # It warns of an absent provider; ``fell_back`` says it in our words.
                warnings.simplefilter("ignore", UserWarning)
                engine = cls(cls._session_with_provider(source.path, options), source.path)
        except EngineError:
            raise
        except Exception as error:  # its exceptions are bare pybind types under Exception
            raise refused("ONNX Runtime", source.path, error) from error
        if engine.fell_back and source.strict:
            engine.close()
            raise EngineError(
                "ONNX Runtime quietly fell back to another provider, and strict=True is set.",
                where=str(source.path),
                expected=cls.provider,
                got=engine.fell_back,
                fix="medprompt doctor says what is missing; or leave strict= out",
            )
        return engine

    @classmethod
    def _without_provider(cls) -> str:
        """Why this ONNX Runtime has no such provider; empty if it has."""
        import onnxruntime

        if cls.provider in onnxruntime.get_available_providers():
            return ""
        return (
            f"onnxruntime {onnxruntime.__version__} has no {cls.provider}: "
            "pip uninstall onnxruntime, then pip install onnxruntime-gpu (the two exclude each other)"
        )

    @classmethod
    def _session_with_provider(cls, model: Path, options: Any) -> Any:
        import onnxruntime

        return onnxruntime.InferenceSession(str(model), options, providers=[(cls.provider, cls.options), CPU])

    def _compute(self, session: Any, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        # A binding holds one call's tensors, so each thread has its own.
        if not hasattr(self._bound, "tensors"):
            self._bound.tensors = BoundTensors(session, self._memory)
        answer: dict[str, NDArray[Any]] = self._bound.tensors.run(feeds)
        return answer

    def close(self) -> None:
        """See ``Engine.close``."""
        super().close()
        self._bound = threading.local()


class OrtTensorRt(OrtCuda):
    """The TensorRT provider: it compiles the ONNX when the session is made, which takes minutes."""

    provider: ClassVar[str] = "TensorrtExecutionProvider"
    options: ClassVar[dict[str, str]] = {}


class OrtNvTensorRtRtx(OrtCuda):
    """The TensorRT-RTX provider, a plug-in library that is registered once a process."""

    provider: ClassVar[str] = "NvTensorRTRTXExecutionProvider"
    options: ClassVar[dict[str, str]] = {}
    memory: ClassVar[str] = "cpu"  # an onnxruntime without CUDA of its own cannot allocate on the GPU

    @classmethod
    def _without_provider(cls) -> str:
        if find_spec(PLUGIN_PACKAGE) is None:
            return f"{PLUGIN_PACKAGE} is missing: pip install onnxruntime-ep-nv-tensorrt-rtx-cu13"
        return ""

    @classmethod
    def _session_with_provider(cls, model: Path, options: Any) -> Any:
        import onnxruntime

        devices = plugin_devices(onnxruntime, import_module(PLUGIN_PACKAGE).get_library_path(), cls.provider)
        if devices:
            options.add_provider_for_devices(devices[:1], cls.options)
        return onnxruntime.InferenceSession(str(model), options)


def plugin_devices(onnxruntime: Any, library: str, provider: str) -> list[Any]:
    """The devices of a plug-in provider, its library registered at the first call.

    Raises:
        EngineError: The library cannot be registered, as without ``libcuda``.
    """
    known = [device for device in onnxruntime.get_ep_devices() if device.ep_name == provider]
    if known:
        return known
    try:
        onnxruntime.register_execution_provider_library(provider, library)
    except Exception as error:  # its exceptions are bare pybind types under Exception
        raise EngineError(
            "ONNX Runtime cannot register the plug-in provider.",
            where=library,
            expected=provider,
            got=str(error).strip(),
            fix="install the NVIDIA driver (libcuda.so.1) and an onnxruntime that the plug-in supports",
        ) from error
    return [device for device in onnxruntime.get_ep_devices() if device.ep_name == provider]


def fallback_of(session: Any, provider: str) -> str:
    """What a session has instead of the provider that was requested; empty if it has it."""
    found = list(session.get_providers())
    return "" if provider in found else f"the session has no {provider} but {', '.join(found)}"


class BoundTensors:
    """One thread's tensors of a session: inputs stay in device memory from call to call while shapes stay."""

    def __init__(self, session: Any, memory: str) -> None:
        self._session = session
        self._memory = memory
        self._names = [output.name for output in session.get_outputs()]
        self._binding = session.io_binding()
        self._inputs: dict[str, tuple[Any, Any]] = {}

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Compute; the arrays returned are copies in host memory."""
        for name, array in feeds.items():
            self._bind(name, np.ascontiguousarray(array))
        for name in self._names:
            self._binding.bind_output(name, self._memory)  # ONNX Runtime allocates: K and B set the shape
        self._binding.synchronize_inputs()
        self._session.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()
        outputs = self._binding.copy_outputs_to_cpu()
        return {name: np.array(value) for name, value in zip(self._names, outputs, strict=True)}

    def _bind(self, name: str, array: NDArray[Any]) -> None:
        from onnxruntime import OrtValue

        kind = (array.shape, array.dtype)
        if name not in self._inputs or self._inputs[name][0] != kind:
            # Never made from the array itself: on the CPU that would share the caller's memory.
            made = OrtValue.ortvalue_from_shape_and_type(list(array.shape), array.dtype, self._memory, 0)
            self._inputs[name] = (kind, made)
            self._binding.bind_ortvalue_input(name, made)
        self._inputs[name][1].update_inplace(array)
