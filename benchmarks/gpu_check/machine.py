"""Section "machine": what is here, as ``doctor`` and ``bench latency`` see it."""

from __future__ import annotations

from dataclasses import asdict
from importlib.util import find_spec
from typing import Any

from medprompt.benchmarks.gpu_check.gpu import bindings_of_gpu
from medprompt.benchmarks.gpu_check.notes import Notes, Subject
from medprompt.benchmarks.latency.gpu_watch import GpuWatch
from medprompt.benchmarks.latency.machine import describe_machine
from medprompt.runtime.doctor import diagnose
from medprompt.runtime.engines.cuda_buffers import Cuda


def check_machine(subject: Subject, notes: Notes) -> None:
    """The section. See ``notes.Notes``."""
    found = diagnose(subject.bundle)
    notes.add("host", describe_machine())
    notes.add("doctor", [asdict(line) for line in found.findings])
    notes.add("engines", [asdict(verdict) for verdict in found.engines])
    if subject.bundle:
        notes.add("auto takes", f"{found.serves or 'none'}: {found.reason}")
    cuda = Cuda(bindings_of_gpu().runtime)
    notes.add("GPU", next((line.found for line in found.findings if line.name == "GPU"), ""))
    notes.add("free GPU MiB", round(float(cuda("cudaMemGetInfo")) / 2**20))
    notes.add("PyTorch", _pytorch())
    with GpuWatch() as watch:
        pass
    notes.add("GPU now", watch.use.as_json(1) if watch.use else f"not read: {watch.why}")


def _pytorch() -> dict[str, Any] | str:
    """Which PyTorch, and what of CUDA it was built for."""
    if find_spec("torch") is None:
        return "not installed"
    import torch

    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none that it can use"
    return {"version": torch.__version__, "cuda": torch.version.cuda or "none", "gpu": gpu}
