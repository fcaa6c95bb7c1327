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

    ``sm`` is its compute capability, such as ``sm86``; ``pci`` its bus id, on which CUDA and NVML agree, for they count
    GPUs in different orders. Empty where it was not read.
    """

    name: str
    sm: str
    pci: str = field(default="", compare=False)

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


def cuda_python_problem() -> str:
    """Why ``cuda-python`` cannot be used; empty if it can. Loads no driver.

    A package ``cuda`` proves nothing: other distributions share the name, and 12.6.0 has no ``cuda.bindings`` yet.
    """
    try:
        if find_spec("cuda.bindings") is None:
            return "cuda-python 12.6.1 or newer is not installed"
        from cuda.bindings import driver  # noqa: F401
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("cuda"):
            return "cuda-python 12.6.1 or newer is not installed"
        return f"cuda-python cannot be imported: {error}"
    except Exception as error:  # cuda.pathfinder raises types of its own
        return f"cuda-python cannot be imported: {type(error).__name__}: {error}"
    return ""


def read_gpus() -> tuple[tuple[Gpu, ...], str]:
    """The GPUs in CUDA's order, and why there is none.

    NVML answers only where ``cuda-python`` cannot: it also lists GPUs that ``CUDA_VISIBLE_DEVICES`` hides.
    """
    problem = cuda_python_problem()
    gpus, why = _gpus_by_nvml() if problem else _gpus_by_cuda()
    return gpus, "" if gpus else "; ".join(filter(None, [problem, why]))


def _gpus_by_cuda() -> tuple[tuple[Gpu, ...], str]:
    from cuda.bindings import driver

    try:
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
    pci = _ask(driver, driver.cuDeviceGetPCIBusId(32, device)).split(b"\0")[0].decode()
    return Gpu(name, f"sm{major}{minor}", pci)


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
