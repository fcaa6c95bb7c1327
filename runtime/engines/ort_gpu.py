"""ONNX Runtime on NVIDIA GPUs: the CUDA provider and the TensorRT-RTX plug-in provider.

ONNX Runtime that cannot set a provider up goes on with the CPU's and says so in its log at most. So its own second try
is off, the providers that a session really has are read back, and a session without the one asked for is refused.
"""

from __future__ import annotations

import ctypes
import threading
import warnings
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from medprompt.core.errors import EngineError
from medprompt.core.packages import install_command
from medprompt.runtime.engines.base import ModelSource, refused, source_of
from medprompt.runtime.engines.machine import read_gpus
from medprompt.runtime.engines.ort import OnnxRuntime, session_options
from medprompt.runtime.engines.placement import CPU, RECORD_KEY, Placement, read_placement
from medprompt.runtime.engines.stdout import stdout_on_stderr

PLUGIN_PACKAGE = "onnxruntime_ep_nv_tensorrt_rtx"
PLUGIN_GPUS = ("sm86", "sm89", "sm120", "sm121")
"""Compute capabilities that the plug-in compiles for (its 0.5.0)."""


class OrtCuda(OnnxRuntime):
    """The CUDA provider.

    Attributes:
        provider: ONNX Runtime's name of the provider.
        options: Its settings. TF32 is off: it would be a silent change of precision.
        memory: ONNX Runtime's name of the memory that tensors are bound in.
    """

    extra: ClassVar[str] = "cuda"
    on_gpu: bool = True
    provider: ClassVar[str] = "CUDAExecutionProvider"
    options: ClassVar[dict[str, str]] = {"use_tf32": "0"}
    memory: ClassVar[str] = "cuda"

    def __init__(self, session: Any, model: Path) -> None:
        super().__init__(session, model)
        self.placement: Placement | None = read_placement(session)
        self._bound = threading.local()
        self.notes = (self.placement.describe(),) if self.placement else ()

    @classmethod
    def available(cls) -> str:
        """See ``DeviceEngine.available``."""
        absent = super().available()
        if absent:
            return absent
        gpus, no_gpu = read_gpus()
        return cls._without_provider(gpus[0].sm) if gpus else f"no GPU: {no_gpu}"

    @classmethod
    def open(cls, model: ModelSource | Path, threads: int | None = None) -> Self:
        """See ``DeviceEngine.open``."""
        source = source_of(model)
        options = session_options(threads)
        options.add_session_config_entry(RECORD_KEY, "1")
        try:
            with warnings.catch_warnings(), stdout_on_stderr():
                # It warns of an absent provider, which is refused below in our words.
                warnings.simplefilter("ignore", UserWarning)
                session = cls._session_with_provider(source.path, options)
        except EngineError:
            raise
        except Exception as error:  # its exceptions are bare pybind types under Exception
            raise refused("ONNX Runtime", source.path, error) from error
        found = list(session.get_providers())
        if cls.provider not in found:
            raise EngineError(
                "ONNX Runtime does not compute on the GPU: it fell back to another provider.",
                where=str(source.path),
                expected=cls.provider,
                got=", ".join(found),
                fix="medprompt doctor says what is missing; device=auto steps down with a reason",
            )
        return cls(session, source.path)

    @classmethod
    def _without_provider(cls, sm: str) -> str:
        """Why this ONNX Runtime has no such provider for a GPU such as ``sm86``; empty if it has."""
        import onnxruntime

        if cls.provider in onnxruntime.get_available_providers():
            return cuda_provider_problem()
        return (
            f"onnxruntime {onnxruntime.__version__} has no {cls.provider}: "
            f"pip uninstall onnxruntime, then {install_command(cls.extra)} (the two exclude each other)"
        )

    @classmethod
    def _session_with_provider(cls, model: Path, options: Any) -> Any:
        import onnxruntime

        preload_cuda()
        providers = [(cls.provider, cls.options), CPU]
        return onnxruntime.InferenceSession(str(model), options, providers=providers, enable_fallback=0)

    def _compute(self, session: Any, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        # A binding holds one call's tensors, so each thread has its own.
        if not hasattr(self._bound, "tensors"):
            self._bound.tensors = BoundTensors(session, self.memory)
        answer: dict[str, NDArray[Any]] = self._bound.tensors.run(feeds)
        return answer

    def close(self) -> None:
        """See ``Engine.close``."""
        super().close()
        self._bound = threading.local()


class OrtNvTensorRtRtx(OrtCuda):
    """The TensorRT-RTX provider, a plug-in library that is registered once a process. It compiles when it loads."""

    provider: ClassVar[str] = "NvTensorRTRTXExecutionProvider"
    options: ClassVar[dict[str, str]] = {}
    memory: ClassVar[str] = "cpu"  # an onnxruntime without CUDA of its own cannot allocate on the GPU

    @classmethod
    def _without_provider(cls, sm: str) -> str:
        if find_spec(PLUGIN_PACKAGE) is None:
            return f"{PLUGIN_PACKAGE} is missing: pip install onnxruntime-ep-nv-tensorrt-rtx-cu13"
        return "" if sm in PLUGIN_GPUS else f"the plug-in compiles for {', '.join(PLUGIN_GPUS)}; this GPU is {sm}"

    @classmethod
    def _session_with_provider(cls, model: Path, options: Any) -> Any:
        import onnxruntime

        devices = plugin_devices(onnxruntime, import_module(PLUGIN_PACKAGE).get_library_path(), cls.provider)
        if devices:
            options.add_provider_for_devices(devices[:1], cls.options)
        return onnxruntime.InferenceSession(str(model), options, enable_fallback=0)


@cache
def preload_cuda() -> None:
    """Load the CUDA and cuDNN libraries of NVIDIA's wheels, which ``medprompt[cuda]`` brings, before they are needed.

    The loader does not look into site-packages. It tells on stdout what it does not find; whether the provider loads is
    asked of the provider.
    """
    import onnxruntime

    if hasattr(onnxruntime, "preload_dlls"):
        with stdout_on_stderr():
            onnxruntime.preload_dlls()


@cache
def cuda_provider_problem() -> str:
    """Why the CUDA provider's library cannot be loaded; empty if it can, or where it lies is not known."""
    import onnxruntime

    folder = Path(onnxruntime.__file__).parent / "capi"
    libraries = [folder / f"libonnxruntime_providers_{name}.so" for name in ("shared", "cuda")]
    if not libraries[-1].is_file():
        return ""  # another system's names, or built into one library
    preload_cuda()
    try:
        for library in libraries:
            ctypes.CDLL(str(library))
    except OSError as error:
        return f"the CUDA provider cannot be loaded: {error}"
    return ""


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
