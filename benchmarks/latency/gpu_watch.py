"""What an NVIDIA GPU does while something is measured on it: clocks, heat, why it slows down, energy. Read, never set.

No GPU was at hand: what the tests check is which calls of NVML are made, and what is made of their results.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import asdict, dataclass
from typing import Any, Self

from medprompt.runtime.engines.machine import cuda_python_problem, open_nvml, read_gpus

EVERY_S = 0.1
"""Between readings: NVML itself renews power and clocks about as often."""

REASON = "nvmlClocksEventReason"
QUIET = ("None", "All", "GpuIdle", "ApplicationsClocksSetting", "UserDefinedClocks")
"""Reasons that are none, or a setting of the owner's."""


@dataclass(frozen=True)
class GpuReading:
    """One look at a GPU; what it does not tell is None.

    Attributes:
        sm_mhz: Clock of the multiprocessors.
        celsius: Of the chip.
        memory_mib: In use, by all processes.
        joules: Drawn since the driver was loaded.
        reasons: Why the clocks are lower than they could be, in NVML's words.
    """

    sm_mhz: int | None
    celsius: int | None
    memory_mib: float | None
    joules: float | None
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class GpuUse:
    """What was seen from start to end of a measurement.

    Attributes:
        seconds: Its length.
        readings: How often it was looked at.
        sm_mhz: Minimum and maximum clock.
        celsius, memory_mib: Greatest.
        joules: Drawn in that time; None where the GPU does not count it.
        reasons: All that slowed it down at some time.
    """

    seconds: float
    readings: int
    sm_mhz: tuple[int, int] | None
    celsius: int | None
    memory_mib: float | None
    joules: float | None
    reasons: tuple[str, ...]

    def as_json(self, images: int) -> dict[str, Any]:
        """All of it, and the energy of one of the images that were detected in meanwhile."""
        return {**asdict(self), "joules_per_image": None if self.joules is None else self.joules / images}

    def row(self, device: str, images: int) -> tuple[str, ...]:
        """For tables."""
        clock = f"{self.sm_mhz[0]} … {self.sm_mhz[1]}" if self.sm_mhz else "-"
        energy = "-" if self.joules is None else f"{self.joules / images:.2f}"
        shown = ("-" if value is None else f"{value:.0f}" for value in (self.celsius, self.memory_mib))
        return (device, clock, *shown, energy, ", ".join(self.reasons) or "none")


GPU_COLUMNS = ("", "SM MHz", "°C at most", "GPU MiB at most", "J an image", "slowed down by")


class GpuWatch:
    """Looks at the GPU that CUDA would take, from entering to leaving.

    Attributes:
        use: What was read; None before the end, and where NVML is not available (``why`` says so).
        why: Empty where it is available.
    """

    def __init__(self) -> None:
        self.use: GpuUse | None = None
        self.why = ""
        self._readings: list[GpuReading] = []
        self._over = threading.Event()

    def __enter__(self) -> Self:
        self._nvml, self.why = open_nvml()
        if self._nvml is None:
            return self
        try:
            self._handle = handle_of_first_gpu(self._nvml)
        except self._nvml.NVMLError as error:
            self._nvml.nvmlShutdown()
            self._nvml, self.why = None, f"NVML returned {error}"
            return self
        self._began = time.perf_counter()
        self._readings.append(read_gpu(self._nvml, self._handle))
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._nvml is None:
            return
        self._over.set()
        self._thread.join()
        self._readings.append(read_gpu(self._nvml, self._handle))
        self._nvml.nvmlShutdown()
        self.use = use_of_readings(self._readings, time.perf_counter() - self._began)

    def _look(self) -> None:
        while not self._over.wait(EVERY_S):
            self._readings.append(read_gpu(self._nvml, self._handle))


def handle_of_first_gpu(nvml: Any) -> Any:
    """NVML's handle of the GPU that is CUDA's first.

    By its bus id, for CUDA counts the fastest GPU first and NVML the lowest slot; without CUDA by what
    ``CUDA_VISIBLE_DEVICES`` names: a number, a UUID or its beginning.
    """
    gpus = () if cuda_python_problem() else read_gpus()[0]
    if gpus:
        return nvml.nvmlDeviceGetHandleByPciBusId(gpus[0].pci)
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    if not first.startswith(("GPU-", "MIG-")):
        return nvml.nvmlDeviceGetHandleByIndex(int(first) if first.isdecimal() else 0)
    handles = (nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount()))
    named = next((handle for handle in handles if _uuid(nvml, handle).startswith(first)), None)
    return nvml.nvmlDeviceGetHandleByUUID(first) if named is None else named


def _uuid(nvml: Any, handle: Any) -> str:
    uuid = nvml.nvmlDeviceGetUUID(handle)
    return uuid.decode() if isinstance(uuid, bytes) else str(uuid)


def read_gpu(nvml: Any, handle: Any) -> GpuReading:
    """Look once, with NVML's opened module and the GPU's handle."""

    def query(name: str, *arguments: Any) -> Any:
        try:
            return getattr(nvml, name)(handle, *arguments)
        except nvml.NVMLError:  # not every GPU tells everything
            return None

    memory, energy = query("nvmlDeviceGetMemoryInfo"), query("nvmlDeviceGetTotalEnergyConsumption")
    return GpuReading(
        sm_mhz=query("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM),
        celsius=query("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU),
        memory_mib=None if memory is None else memory.used / 2**20,
        joules=None if energy is None else energy / 1e3,
        reasons=_reasons(nvml, query("nvmlDeviceGetCurrentClocksEventReasons") or 0),
    )


def _reasons(nvml: Any, bits: int) -> tuple[str, ...]:
    """Names of the set bits that slow a GPU down."""
    names = (name for name in dir(nvml) if name.startswith(REASON))
    known = {name.removeprefix(REASON): getattr(nvml, name) for name in names}
    return tuple(name for name, bit in known.items() if name not in QUIET and bits & bit)


def use_of_readings(readings: list[GpuReading], seconds: float) -> GpuUse:
    """Sum up readings, at least one; ``seconds`` lie between the first and the last."""
    clocks = [reading.sm_mhz for reading in readings if reading.sm_mhz is not None]
    heat = [reading.celsius for reading in readings if reading.celsius is not None]
    memory = [reading.memory_mib for reading in readings if reading.memory_mib is not None]
    first, last = readings[0].joules, readings[-1].joules
    return GpuUse(
        seconds=seconds,
        readings=len(readings),
        sm_mhz=(min(clocks), max(clocks)) if clocks else None,
        celsius=max(heat, default=None),
        memory_mib=max(memory, default=None),
        joules=None if first is None or last is None else last - first,
        reasons=tuple(sorted({reason for reading in readings for reason in reading.reasons})),
    )
