"""What a compiled engine depends on, as found here: GPUs, driver, system, TensorRT packages. Opens no GPU context."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import Any

PACKAGES = ("tensorrt", "tensorrt_rtx")
"""Python packages that load compiled engines."""

NO_DRIVER = "no NVIDIA driver (libcuda) was found"


@dataclass(frozen=True)
class Gpu:
    """One GPU.

    ``sm`` is its compute capability, such as ``sm86``.
    """

    name: str
    sm: str

    def __str__(self) -> str:
        return f"{self.name} ({self.sm})"


@dataclass(frozen=True)
class Machine:
    """What was found here.

    Attributes:
        gpus: In CUDA's order, ``CUDA_VISIBLE_DEVICES`` applied: the first one serves.
        driver: The driver's version, such as ``580.65.06``; empty where it could not be read.
        system: ``OS-machine``, such as ``linux-x86_64``.
        packages: Version of each TensorRT package that can be imported, by import name.
        problems: Why a package that is installed cannot be imported, by import name.
        no_gpu: Why ``gpus`` is empty; empty where it is not.
    """

    gpus: tuple[Gpu, ...] = ()
    driver: str = ""
    system: str = ""
    packages: Mapping[str, str] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)
    no_gpu: str = ""


def system_name() -> str:
    """``OS-machine`` in lower case, such as ``linux-x86_64`` or ``windows-amd64``."""
    return f"{platform.system()}-{platform.machine()}".lower()


def read_machine(packages: Sequence[str] = PACKAGES) -> Machine:
    """Look at this machine. Nothing raises: what is absent is said in ``no_gpu`` and ``problems``.

    Each of the TensorRT packages that are imported for their version takes some tenths of a second.
    """
    found = {package: package_version(package) for package in packages}
    versions = {package: version for package, (version, _) in found.items() if version}
    problems = {package: problem for package, (_, problem) in found.items() if problem}
    gpus, no_gpu = read_gpus()
    return Machine(gpus, driver_version(), system_name(), versions, problems, no_gpu)


def package_version(package: str) -> tuple[str, str]:
    """Version of a TensorRT package, and why it cannot be imported; both empty where it is not installed.

    The import loads ``libnvinfer``, which is what fails where the libraries are absent or of another version.
    """
    if find_spec(package) is None:
        return "", ""
    try:
        return str(import_module(package).__version__), ""
    except Exception as error:  # a missing library raises OSError, ImportError, FileNotFoundError or RuntimeError
        return "", f"{package} is installed but cannot be imported: {type(error).__name__}: {error}"


def read_gpus() -> tuple[tuple[Gpu, ...], str]:
    """The GPUs in CUDA's order, and why there is none.

    NVML answers only where ``cuda-python`` is absent: it also lists GPUs that ``CUDA_VISIBLE_DEVICES`` hides.
    """
    if find_spec("cuda") is not None:
        gpus, why = _gpus_by_cuda()
    else:
        gpus, why = _gpus_by_nvml()
        why = f"cuda-python is not installed; {why}"
    return gpus, "" if gpus else why


def _gpus_by_cuda() -> tuple[tuple[Gpu, ...], str]:
    try:
        from cuda.bindings import driver

        _ask(driver, driver.cuInit(0))
        return tuple(_gpu_by_cuda(driver, index) for index in range(_ask(driver, driver.cuDeviceGetCount()))), (
            "CUDA lists no GPU (see CUDA_VISIBLE_DEVICES)"
        )
    except _CudaError as error:
        return (), f"the driver returned {error}"
    except Exception:  # cuda.pathfinder raises types of its own where libcuda is absent
        return (), NO_DRIVER


class _CudaError(Exception):
    """The driver refused; the text is its own name of the error."""


def _ask(driver: Any, answer: tuple[Any, ...]) -> Any:
    """The value of a driver call, which answers ``(status, value)``."""
    if answer[0] != driver.CUresult.CUDA_SUCCESS:
        raise _CudaError(getattr(answer[0], "name", str(answer[0])))
    return answer[1] if len(answer) > 1 else None


def _gpu_by_cuda(driver: Any, index: int) -> Gpu:
    device = _ask(driver, driver.cuDeviceGet(index))
    name = _ask(driver, driver.cuDeviceGetName(128, device)).split(b"\0")[0].decode()
    attribute = driver.CUdevice_attribute
    major, minor = (
        _ask(driver, driver.cuDeviceGetAttribute(wanted, device))
        for wanted in (
            attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
            attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
        )
    )
    return Gpu(name, f"sm{major}{minor}")


def _gpus_by_nvml() -> tuple[tuple[Gpu, ...], str]:
    nvml, why = open_nvml()
    if nvml is None:
        return (), why
    try:
        return tuple(_gpu_by_nvml(nvml, index) for index in range(nvml.nvmlDeviceGetCount())), "NVML lists no GPU"
    except nvml.NVMLError as error:
        return (), f"NVML returned {error}"
    finally:
        nvml.nvmlShutdown()


def _gpu_by_nvml(nvml: Any, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    return Gpu(_text(nvml.nvmlDeviceGetName(handle)), f"sm{major}{minor}")


def driver_version() -> str:
    """The NVIDIA driver's version by ``nvidia-ml-py``; empty where it cannot be read."""
    nvml, _ = open_nvml()
    if nvml is None:
        return ""
    try:
        return _text(nvml.nvmlSystemGetDriverVersion())
    except nvml.NVMLError:
        return ""
    finally:
        nvml.nvmlShutdown()


def open_nvml() -> tuple[Any, str]:
    """NVML, opened, for the caller to shut down; or None and why not."""
    if find_spec("pynvml") is None:
        return None, "nvidia-ml-py is not installed"
    nvml = import_module("pynvml")
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None, NO_DRIVER
    return nvml, ""


def _text(value: str | bytes) -> str:
    """NVML answered bytes in its older versions."""
    return value.decode() if isinstance(value, bytes) else value
