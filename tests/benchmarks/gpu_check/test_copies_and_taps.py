"""Copies and resize kernels on doubles."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

from medprompt.benchmarks.gpu_check import host_path, taps
from medprompt.benchmarks.gpu_check.notes import ended
from medprompt.core.errors import MedpromptError
from tests.benchmarks.gpu_check.rig import GpuDouble, gpu
from tests.runtime.engines.tap_doubles import DriverDouble, run_twin


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taps, "LAUNCHES", 2)
    monkeypatch.setattr(host_path, "COPIES", 2)


def test_copies_are_timed_and_compared() -> None:
    bindings = gpu()
    facts = host_path.copies(bindings, 5000)
    ways = ["into pinned", "pinned up", "pinned down", "pageable up", "pageable down"]
    assert list(facts) == [f"{way} GB/s" for way in ways]
    assert min(facts.values()) >= 0
    assert bindings.runtime.nothing_left()


def test_a_copy_that_loses_a_byte_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    bindings = gpu()
    copy = GpuDouble.cudaMemcpyAsync

    def short(self: GpuDouble, target: int, source: int, size: int, kind: str, stream: int) -> Any:
        return copy(self, target, source, size - 1, kind, stream)

    monkeypatch.setattr(GpuDouble, "cudaMemcpyAsync", short)
    with pytest.raises(MedpromptError, match="not what was sent"):
        host_path.copies(bindings, 5000)
    assert bindings.runtime.nothing_left()


@pytest.mark.parametrize("name", taps.SPECS)
def test_kernels_are_compared_with_the_host(name: str) -> None:
    spec = taps.SPECS[name].model_copy(update={"size_hw": (24, 24)})
    bindings = gpu()
    facts = taps.resize(bindings, (40, 56), spec)
    assert facts["largest difference"] <= (taps.FLOAT if name == "zoom" else 0)
    assert bindings.runtime.nothing_left()


def test_a_kernel_that_is_off_by_a_level_is_found() -> None:
    def off(name: str, grid: tuple[int, int], threads: int, parameters: int) -> None:
        run_twin(name, grid, threads, parameters)
        written = ctypes.cast(parameters, ctypes.POINTER(ctypes.POINTER(ctypes.c_void_p)))[1][0]
        first = (ctypes.c_uint8 * 1).from_address(written or 0)
        first[0] = 255 - first[0]

    cuda = GpuDouble()
    bindings = type(gpu())(cuda, DriverDouble(cuda, off))
    spec = taps.SPECS["bicubic"].model_copy(update={"size_hw": (24, 24)})
    status, _ = ended(lambda: taps.resize(bindings, (40, 56), spec))
    assert "grey levels from the host's" in status


def test_the_bundles_own_sizes_are_the_frames_of_video() -> None:
    assert list(taps.SOURCES_HW.values()) == [(480, 640), (1080, 1920), (2160, 3840)]
    assert np.prod(taps.SOURCES_HW["1080p"]) * 3 == host_path.SIZES["1080p frame"]
