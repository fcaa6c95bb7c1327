"""What a figure was measured on: hardware, library versions, threads and load."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medprompt.core.errors import InputError
from medprompt.core.packages import package_version

LIBRARIES = ("torch", "transformers", "onnxruntime", "openvino", "numpy", "pillow", "medprompt")

CPU_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
"""What decides which arithmetic a CPU is fast in, under Linux's names."""


def describe_machine() -> dict[str, Any]:
    """Return JSON values: CPU, its vector units, cores, memory, load, system, library versions."""
    name, flags = _cpu()
    return {
        "cpu": name,
        "cores": os.cpu_count(),
        "cores_usable": usable_cores(),
        "vector_units": [flag for flag in CPU_FLAGS if flag in flags],
        "memory_gib": _memory_gib(),
        "load_1min": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "libraries": {name: package_version(name) or "not installed" for name in LIBRARIES},
    }


def usable_cores() -> int:
    """Cores that this process may run on now; the system can change that while it runs."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_threads(threads: int) -> None:
    """Refuse more threads than cores: PyTorch's waiting threads then take the cores from its working ones.

    Measured with 2 threads on 1 core: PyTorch took 4,500 ms for what takes it 100 ms with 1.

    Raises:
        InputError: More threads than cores, or none.
    """
    cores = usable_cores()
    if not 1 <= threads <= cores:
        raise InputError(
            "There are more threads than cores, or none.",
            where="threads",
            expected=f"1 … {cores}",
            got=str(threads),
            fix=f"pass threads={cores}",
        )


def format_machine(machine: dict[str, Any]) -> str:
    """The machine in one line for people, with a warning where others were using it."""
    units = ", ".join(machine["vector_units"]) or "no vector units known"
    busy = "; the machine was busy: CPU time says more than wall time" if was_busy(machine) else ""
    return f"{machine['cpu']}, {machine['cores_usable']} cores ({units}), load {machine['load_1min']}{busy}"


def was_busy(machine: Mapping[str, Any]) -> bool:
    """Whether more wanted to run than there are cores."""
    return bool(machine["load_1min"] and machine["load_1min"] > machine["cores_usable"])


def _cpu() -> tuple[str, frozenset[str]]:
    """Name and feature flags; the flags are known under Linux only."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine(), frozenset()
    pairs = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return pairs.get("model name", platform.machine()), frozenset(pairs.get("flags", "").split())


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None
