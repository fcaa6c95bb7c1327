"""What this machine has: read through doubles of ``cuda.bindings.driver`` and ``pynvml``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from medprompt.runtime.engines import machine
from medprompt.runtime.engines.machine import Gpu, driver_version, package_version, read_gpus, read_machine, system_name


class CUresult(Enum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_NO_DEVICE = 100


GPUS = [(b"RTX A4000\0\0\0", (8, 6)), (b"RTX PRO 6000\0", (12, 0))]
NO_BINDINGS = "cuda-python 12.6.1 or newer is not installed"


def cuda_double(gpus: list[Any] = GPUS, status: CUresult = CUresult.CUDA_SUCCESS) -> Any:
    ok = CUresult.CUDA_SUCCESS
    attribute = SimpleNamespace(
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR=0, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR=1
    )
    return SimpleNamespace(
        CUresult=CUresult,
        CUdevice_attribute=attribute,
        cuInit=lambda flags: (status,),
        cuDeviceGetCount=lambda: (ok, len(gpus)),
        cuDeviceGet=lambda index: (ok, index),
        cuDeviceGetPCIBusId=lambda length, device: (ok, b"0000:%02x:00.0\0\0" % device),
        cuDeviceGetName=lambda length, device: (ok, gpus[device][0]),
        cuDeviceGetAttribute=lambda wanted, device: (ok, gpus[device][1][wanted]),
    )


class NVMLError(Exception):
    pass


class NvmlDouble(ModuleType):
    """``opened`` counts what was not shut down again."""

    def __init__(self, fails: bool = False) -> None:
        super().__init__("pynvml")
        self.NVMLError, self.opened, self.fails = NVMLError, 0, fails

    def nvmlInit(self) -> None:
        if self.fails:
            raise NVMLError("NVML Shared Library Not Found")
        self.opened += 1

    def nvmlShutdown(self) -> None:
        self.opened -= 1

    def nvmlDeviceGetCount(self) -> int:
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetCudaComputeCapability(self, handle: int) -> tuple[int, int]:
        return 8, 9

    def nvmlDeviceGetName(self, handle: int) -> bytes:
        return b"RTX 4000 Ada"

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.65.06"


def install(monkeypatch: pytest.MonkeyPatch, cuda: Any, nvml: NvmlDouble | None) -> None:
    """Put doubles in the packages' place; None: not installed."""
    there = {"cuda.bindings": cuda is not None, "pynvml": nvml is not None}
    real = machine.find_spec
    monkeypatch.setattr(
        machine, "find_spec", lambda name: (True if there[name] else None) if name in there else real(name)
    )
    bindings = ModuleType("cuda.bindings")
    bindings.driver = cuda  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cuda", ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.bindings", bindings)
    monkeypatch.setitem(sys.modules, "pynvml", nvml or ModuleType("pynvml"))


@pytest.fixture
def unloaded() -> Iterator[None]:
    """No ``tensorrt`` is loaded before or after, whatever the test imports."""
    sys.modules.pop("tensorrt", None)
    yield
    sys.modules.pop("tensorrt", None)


def test_gpus_come_in_cudas_order(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = NvmlDouble()
    install(monkeypatch, cuda_double(), nvml)
    found = read_machine(packages=())
    assert found.gpus == (Gpu("RTX A4000", "sm86"), Gpu("RTX PRO 6000", "sm120"))
    assert (found.driver, found.system, found.no_gpu) == ("580.65.06", system_name(), "")
    assert str(found.gpus[0]) == "RTX A4000 (sm86)"
    assert [gpu.pci for gpu in found.gpus] == ["0000:00:00.0", "0000:01:00.0"]
    assert nvml.opened == 0


def test_nvml_answers_where_cuda_python_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = NvmlDouble()
    install(monkeypatch, None, nvml)
    assert read_gpus() == ((Gpu("RTX 4000 Ada", "sm89"),), "")
    assert nvml.opened == 0


@pytest.mark.parametrize(
    ("cuda", "nvml", "why"),
    [
        (None, None, f"{NO_BINDINGS}; nvidia-ml-py is not installed"),
        (None, NvmlDouble(fails=True), f"{NO_BINDINGS}; no NVIDIA driver (libcuda) was found"),
        (SimpleNamespace(CUresult=CUresult), NvmlDouble(fails=True), "no NVIDIA driver (libcuda) was found"),
        (
            cuda_double(status=CUresult.CUDA_ERROR_NO_DEVICE),
            None,
            "the driver returned CUDA_ERROR_NO_DEVICE",
        ),
        (
            cuda_double(gpus=[]),
            NvmlDouble(),
            "CUDA lists no GPU (see CUDA_VISIBLE_DEVICES)",
        ),
    ],
    ids=["nothing", "NVML without driver", "no driver", "driver refuses", "none visible"],
)
def test_no_gpu_says_why(cuda: Any, nvml: NvmlDouble | None, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, cuda, nvml)
    assert read_gpus() == ((), why)
    assert driver_version() == ("580.65.06" if nvml and not nvml.fails else "")


def test_a_package_cuda_without_bindings_is_no_absent_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """``cuda`` is there (by cuda-pathfinder, or cuda-python 12.6.0) and so are driver and GPU: NVML tells of them."""
    install(monkeypatch, None, NvmlDouble())
    assert read_gpus() == ((Gpu("RTX 4000 Ada", "sm89"),), "")


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (ModuleNotFoundError("No module named 'cuda'", name="cuda"), NO_BINDINGS),
        (
            ImportError("libcudart.so.13: cannot open"),
            "cuda-python cannot be imported: ImportError: libcudart.so.13: cannot open",
        ),
    ],
)
def test_a_broken_cuda_python_is_told_from_an_absent_one(
    raised: Exception, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(name: str) -> Any:
        raise raised

    monkeypatch.setattr(machine, "find_spec", broken)
    assert machine.cuda_python_problem() == expected


@pytest.mark.parametrize(
    ("content", "version", "problem"),
    [
        (None, "", ""),
        ("__version__ = '10.9.0'", "10.9.0", ""),
        ("raise OSError('libnvinfer.so.10: cannot open shared object file')", "", "OSError: libnvinfer.so.10"),
        ("import no_such_bindings", "", "ModuleNotFoundError"),
    ],
    ids=["absent", "good", "libnvinfer missing", "bindings missing"],
)
def test_a_package_tells_its_version_or_its_problem(
    content: str | None,
    version: str,
    problem: str,
    unloaded: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    if content is not None:
        (tmp_path / "tensorrt.py").write_text(content)
    found = package_version("tensorrt")
    assert found[0] == version
    assert problem in found[1]
    assert bool(found[1]) == bool(problem)
    machine_found = read_machine(packages=("tensorrt",))
    assert dict(machine_found.packages) == ({"tensorrt": version} if version else {})
    assert set(machine_found.problems) == ({"tensorrt"} if problem else set())
