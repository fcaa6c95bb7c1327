"""Section "host path": what a frame costs on its way to the GPU and back: pinned and pageable copies, in GB/s."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from medprompt.benchmarks.gpu_check.gpu import Bindings, Clock, Ledger, bindings_of_gpu
from medprompt.benchmarks.gpu_check.notes import Notes, Subject, expect
from medprompt.runtime.engines.cuda_buffers import SETTING_UP, Cuda, TensorMemory

SIZES = {"1080p frame": 1080 * 1920 * 3, "4K frame": 2160 * 3840 * 3, "256 MiB": 256 << 20}
"""Bytes of a copy."""

COPIES = 20
"""Of each size and way; a median of as many on the host's clock."""


def check_host_path(subject: Subject, notes: Notes) -> None:
    """The section. See ``notes.Notes``."""
    bindings = bindings_of_gpu()
    for name, size in SIZES.items():
        notes.check(name, partial(copies, bindings, size))


def copies(bindings: Bindings, size: int) -> Mapping[str, Any]:
    """Rates of copies of so many bytes, and whether they come back as they were sent."""
    cuda = Cuda(Ledger(bindings.runtime))
    memory = TensorMemory(cuda)
    source = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8)
    try:
        with Clock(cuda) as clock:
            memory.reserve(size)
            pinned = memory.view((size,), np.uint8)
            into_pinned = _gb_s(size, lambda: np.copyto(pinned, source))
            up = _device_gb_s(size, clock, lambda: memory.upload(size, clock.stream))
            pinned[:] = 0
            down = _device_gb_s(size, clock, lambda: memory.download(size, clock.stream))
            expect(np.array_equal(pinned, source), "what came back is not what was sent")
            pageable = _pageable(cuda, memory.device.address, source)
    finally:
        with SETTING_UP:
            memory.free()
    return {"into pinned GB/s": into_pinned, "pinned up GB/s": up, "pinned down GB/s": down, **pageable}


def _pageable(cuda: Cuda, address: int, source: np.ndarray[Any, Any]) -> Mapping[str, float]:
    kinds, back = cuda.module.cudaMemcpyKind, np.zeros_like(source)
    size = source.nbytes
    up = _gb_s(size, lambda: cuda("cudaMemcpy", address, source.ctypes.data, size, kinds.cudaMemcpyHostToDevice))
    down = _gb_s(size, lambda: cuda("cudaMemcpy", back.ctypes.data, address, size, kinds.cudaMemcpyDeviceToHost))
    expect(np.array_equal(back, source), "what came back by pageable memory is not what was sent")
    return {"pageable up GB/s": up, "pageable down GB/s": down}


def _gb_s(size: int, copy: Callable[[], object]) -> float:
    """By the host's clock, the median of some copies."""
    times = []
    for _ in range(COPIES):
        began = time.perf_counter()
        copy()
        times.append(time.perf_counter() - began)
    return round(size / float(np.median(times)) / 1e9, 2)


def _device_gb_s(size: int, clock: Clock, copy: Callable[[], object]) -> float:
    return round(size / clock.us(copy, COPIES) / 1e3, 2)
