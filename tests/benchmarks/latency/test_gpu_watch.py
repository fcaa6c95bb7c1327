"""What a GPU does meanwhile, read through a double of NVML that counts every call: nothing is ever set."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from medprompt.benchmarks.latency import gpu_watch
from medprompt.benchmarks.latency.gpu_watch import (
    GPU_COLUMNS,
    GpuReading,
    GpuWatch,
    handle_of_first_gpu,
    read_gpu,
    use_of_readings,
)
from medprompt.runtime.engines import machine
from medprompt.runtime.engines.machine import Gpu


class NVMLError(Exception):
    """As NVML's."""


class Nvml(ModuleType):
    """A GPU that warms up by a degree and draws 50 J a reading; ``silent`` names what it does not tell."""

    NVML_CLOCK_SM, NVML_TEMPERATURE_GPU = 1, 0
    NVMLError = NVMLError

    def __init__(self, silent: tuple[str, ...] = (), reasons: int = 0) -> None:
        super().__init__("pynvml")
        self.silent, self.reasons, self.readings, self.asked = silent, reasons, 0, set()
        self.opened = 0
        self.nvmlClocksEventReasonNone, self.nvmlClocksEventReasonGpuIdle = 0, 1
        self.nvmlClocksEventReasonSwPowerCap, self.nvmlClocksEventReasonHwThermalSlowdown = 4, 64

    def nvmlInit(self) -> None:
        self.opened += 1

    def nvmlShutdown(self) -> None:
        self.opened -= 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return self._told("nvmlDeviceGetHandleByIndex", index)

    def nvmlDeviceGetHandleByPciBusId(self, bus: str) -> str:
        return f"at {bus}"

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        return uuid

    def nvmlDeviceGetCount(self) -> int:
        return 3

    def nvmlDeviceGetUUID(self, handle: int) -> bytes | str:
        return ("GPU-0000cccc", b"GPU-1111bbbb", "GPU-2222aaaa")[handle]

    def nvmlDeviceGetClockInfo(self, handle: int, clock: int) -> int:
        return self._told("nvmlDeviceGetClockInfo", {1: 1500 - 10 * self.readings}[clock])

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> int:
        return self._told("nvmlDeviceGetTemperature", 60 + self.readings)

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        return self._told("nvmlDeviceGetMemoryInfo", SimpleNamespace(used=3 * 2**30))

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:
        return self._told("nvmlDeviceGetTotalEnergyConsumption", 1_000_000 + 50_000 * self.readings)

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: int) -> int:
        self.readings += 1
        return self._told("nvmlDeviceGetCurrentClocksEventReasons", self.reasons)

    def _told(self, name: str, value: Any) -> Any:
        self.asked.add(name)
        if name in self.silent:
            raise NVMLError("Not Supported")
        return value


def use(monkeypatch: pytest.MonkeyPatch, nvml: Nvml) -> None:
    monkeypatch.setattr(machine, "find_spec", lambda name: name == "pynvml" or None)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)


def test_energy_heat_and_reasons_from_start_to_end(monkeypatch):
    nvml = Nvml(reasons=1 | 4)  # idle counts for nothing, the power cap does
    use(monkeypatch, nvml)
    monkeypatch.setattr(gpu_watch, "EVERY_S", 60.0)  # the first reading and the last alone
    with GpuWatch() as watch:
        pass
    assert watch.why == ""
    seen = watch.use
    assert (seen.readings, seen.joules, seen.celsius, seen.sm_mhz) == (2, 50.0, 61, (1490, 1500))
    assert (seen.memory_mib, seen.reasons) == (3072.0, ("SwPowerCap",))
    assert seen.as_json(images=10)["joules_per_image"] == 5.0
    assert seen.row("trt", 10) == ("trt", "1490 … 1500", "61", "3072", "5.00", "SwPowerCap")
    assert len(seen.row("trt", 10)) == len(GPU_COLUMNS)
    assert nvml.opened == 0
    assert not [name for name in nvml.asked if "Set" in name]


def test_it_looks_while_something_runs(monkeypatch):
    nvml = Nvml()
    use(monkeypatch, nvml)
    monkeypatch.setattr(gpu_watch, "EVERY_S", 0.001)
    with GpuWatch() as watch:
        while nvml.readings < 5:
            pass
    assert watch.use.readings >= 5


def test_what_a_gpu_does_not_tell_is_not_made_up():
    silent = ("nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetTemperature", "nvmlDeviceGetClockInfo")
    seen = use_of_readings([read_gpu(Nvml(silent), 0)] * 2, 1.0)
    assert (seen.joules, seen.celsius, seen.sm_mhz) == (None, None, None)
    assert seen.as_json(5)["joules_per_image"] is None
    assert seen.row("trt", 5) == ("trt", "-", "-", "3072", "-", "none")


def test_a_gpu_that_tells_nothing():
    nothing = GpuReading(None, None, None, None, ())
    assert use_of_readings([nothing], 0.0).row("trt", 1) == ("trt", "-", "-", "-", "-", "none")


@pytest.mark.parametrize(
    ("nvml", "why"),
    [(None, "nvidia-ml-py is not installed"), (Nvml(("nvmlDeviceGetHandleByIndex",)), "NVML returned Not Supported")],
)
def test_without_a_gpu_nothing_is_seen_and_why_is_said(nvml, why, monkeypatch):
    if nvml:
        use(monkeypatch, nvml)
    else:
        monkeypatch.setattr(machine, "find_spec", lambda name: None)
    with GpuWatch() as watch:
        pass
    assert (watch.use, watch.why) == (None, why)
    assert nvml is None or nvml.opened == 0


@pytest.mark.parametrize(
    ("visible", "index"),
    [
        ("", 0),
        ("2", 2),
        ("3,1", 3),
        (" 1 ", 1),
        ("GPU-1111", 1),
        ("GPU-2222aaaa,GPU-1111bbbb", 2),
        ("MIG-77", "MIG-77"),
    ],
)
def test_the_gpu_that_cuda_takes_first(visible, index, monkeypatch):
    nvml = Nvml()
    use(monkeypatch, nvml)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert handle_of_first_gpu(nvml) == index


def test_the_gpu_is_found_by_its_bus_id_whatever_the_order(monkeypatch):
    nvml = Nvml()
    use(monkeypatch, nvml)
    monkeypatch.setattr(gpu_watch, "cuda_python_problem", lambda: "")
    monkeypatch.setattr(gpu_watch, "read_gpus", lambda: ((Gpu("RTX 4090", "sm89", "0000:65:00.0"),), ""))
    assert handle_of_first_gpu(nvml) == "at 0000:65:00.0"
