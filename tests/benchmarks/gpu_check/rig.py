"""CUDA's doubles, with what the GPU check asks besides."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from medprompt.benchmarks.gpu_check.gpu import Bindings
from tests.runtime.engines.cuda_double import CudaDouble, cudaError_t
from tests.runtime.engines.tap_doubles import DriverDouble, run_twin


class GpuDouble(CudaDouble):
    """A ``CudaDouble`` that tells its free memory, and copies from pageable memory."""

    def cudaMemGetInfo(self) -> tuple[cudaError_t, int, int]:
        used = sum(len(block) for kind, block in self.blocks.values() if kind == "device")
        return cudaError_t.cudaSuccess, self.memory - used, self.memory

    def cudaMemcpy(self, target: int, source: int, size: int, kind: str) -> tuple[cudaError_t]:
        if not self.has("device", target if kind == "h2d" else source, size):
            return (cudaError_t.cudaErrorInvalidValue,)
        ctypes.memmove(target, source, size)
        return (cudaError_t.cudaSuccess,)


def gpu(run: Callable[[str, tuple[int, int], int, int], Any] = run_twin) -> Bindings:
    cuda = GpuDouble()
    return Bindings(cuda, DriverDouble(cuda, run))
