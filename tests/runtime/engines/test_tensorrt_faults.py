"""What goes wrong on a real machine: libraries that answer NULL, memory that is out, engines that are dropped."""

from __future__ import annotations

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medprompt.core.errors import EngineError, OutOfMemoryError
from medprompt.runtime.engines import engine_class
from medprompt.runtime.engines.cuda_buffers import Cuda, Memory
from tests.runtime.engines.cuda_double import CudaDouble, cudaError_t
from tests.runtime.engines.doubles import ContextDouble, EngineDouble, RuntimeCacheDouble
from tests.runtime.engines.rigs import DEVICES, Rig, feeds, install, made, source


def test_the_cache_of_kernels_outlives_the_contexts_that_hold_a_bare_pointer_to_it(rtx: Rig) -> None:
    gc.collect()
    for batch in (1, 2, 1):
        rtx.engine.run(feeds(batch))
    assert rtx.library.living(RuntimeCacheDouble) == 1
    rtx.engine.close()
    gc.collect()
    assert rtx.library.faults == []
    assert not rtx.library.alive


@pytest.mark.parametrize(
    ("device", "factory", "problem"),
    [
        ("trt", "Runtime", "cannot load the engine"),
        ("trt-rtx", "Runtime", "cannot load the engine"),
        ("trt", "deserialize_cuda_engine", "refuses the engine"),
        ("trt-rtx", "create_runtime_config", "makes no runtime configuration"),
        ("trt-rtx", "create_runtime_cache", "makes no cache of kernels"),
        ("trt", "create_execution_context", "cannot create an execution context"),
        ("trt-rtx", "create_execution_context", "cannot create an execution context"),
    ],
)
def test_a_factory_that_answers_null_is_our_error(
    device: str, factory: str, problem: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _, library = install(device, monkeypatch)
    library.refuses.add(factory)
    with pytest.raises(EngineError, match=problem) as caught:
        engine_class(device).open(source(tmp_path)).run(feeds())
    assert "error: 35" in caught.value.got or factory.startswith("create_runtime")
    assert not isinstance(caught.value, OutOfMemoryError)


def test_what_else_a_library_raises_is_our_error_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install("trt", monkeypatch)
    monkeypatch.delattr(EngineDouble, "get_tensor_mode")
    with pytest.raises(EngineError, match="cannot load the engine") as caught:
        engine_class("trt").open(source(tmp_path))
    assert "AttributeError" in caught.value.got


@pytest.mark.parametrize("version", ["8.6.2", "10.0.1"])
def test_a_library_that_is_too_old_is_refused_in_words(
    version: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _, library = install("trt", monkeypatch)
    library.__version__ = version
    with pytest.raises(EngineError, match="too old") as caught:
        engine_class("trt").open(source(tmp_path))
    assert (caught.value.expected, caught.value.got) == ("10.1 or newer", version)


@pytest.mark.parametrize("device", DEVICES)
def test_an_old_driver_is_named_with_what_helps(device: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cuda, _ = install(device, monkeypatch)
    cuda.fail_next["cudaFree"] = cudaError_t.cudaErrorInsufficientDriver
    with pytest.raises(EngineError, match="CUDA does not start") as caught:
        engine_class(device).open(source(tmp_path))
    assert caught.value.got == "cudaErrorInsufficientDriver"
    assert "newer NVIDIA driver" in caught.value.fix


def test_allocations_wait_while_the_library_captures_by_itself(rtx: Rig) -> None:
    """RTX captures in a mode of its own: an allocation of another thread would break it."""
    capturing, arrived = threading.Event(), threading.Event()

    def linger() -> None:
        capturing.set()
        arrived.wait(0.2)  # nobody comes where the other waits

    def intrude() -> None:
        assert capturing.wait(5)
        rtx.engine.run(feeds(2))
        arrived.set()

    rtx.library.while_capturing = linger
    with ThreadPoolExecutor(2) as pool:
        other = pool.submit(intrude)
        assert rtx.engine.run(feeds(1))["scores"][0, 2] == pytest.approx(1.8)
        other.result(10)
    assert not rtx.cuda.intruded


@pytest.mark.parametrize("function", ["cudaMalloc", "cudaMallocHost"])
def test_cuda_without_memory_is_out_of_memory(rig: Rig, function: str) -> None:
    rig.cuda.fail_next[function] = cudaError_t.cudaErrorMemoryAllocation
    with pytest.raises(OutOfMemoryError) as caught:
        rig.engine.run(feeds())
    assert caught.value.got == "cudaErrorMemoryAllocation"
    assert rig.engine.run(feeds())["scores"][0, 2] == pytest.approx(1.8)


@pytest.mark.parametrize(
    "says",
    [
        "Error Code 1: Cuda Runtime (out of memory)",
        "Error Code 2: OutOfMemory (Requested size was 221772288 bytes.)",
        "Requested amount of GPU memory (221772288 bytes) could not be allocated.",
    ],
)
@pytest.mark.parametrize("step", ["create_execution_context", "execute_async_v3"])
def test_tensorrt_without_memory_is_out_of_memory(
    rig: Rig, says: str, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.library.says = says
    rig.library.refuses.add(step)

    def failing(self: ContextDouble, stream: int) -> bool:
        return not self.library.answers_null("execute_async_v3")

    monkeypatch.setattr(ContextDouble, "execute_async_v3", failing)
    with pytest.raises(OutOfMemoryError) as caught:
        rig.engine.run(feeds())
    assert says in caught.value.got


def test_a_workspace_of_nothing_is_an_error_where_the_engine_needs_one(rig: Rig) -> None:
    rig.library.workspace = None
    with pytest.raises(EngineError, match="how much memory"):
        rig.engine.run(feeds())


def test_an_engine_may_need_no_workspace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _, library = install("trt", monkeypatch)
    library.workspace = 0
    with engine_class("trt").open(source(tmp_path)) as engine:
        assert engine.run(feeds())["scores"][0, 2] == pytest.approx(1.8)


def test_the_workspace_follows_the_request(trt: Rig) -> None:
    def workspace() -> int:
        return max(len(block) for kind, block in trt.cuda.blocks.values() if kind == "device")

    trt.library.workspace = 100_000
    trt.engine.run(feeds(1))
    one = workspace()
    trt.engine.run(feeds(4))
    assert (one, workspace()) == (100_096, 400_128)


@pytest.mark.parametrize(("batch", "profile"), [(1, 0), (2, 1), (8, 1)])
def test_a_request_takes_the_first_profile_that_holds_it(
    batch: int, profile: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _, library = install("trt", monkeypatch)
    library.profiles = [1, 8]
    with engine_class("trt").open(source(tmp_path)) as engine:
        assert engine.run(feeds(batch))["scores"][-1, 2] == pytest.approx(1.8)
    assert library.contexts[0].profile == profile


def test_closing_frees_the_engine_though_somebody_holds_the_object(rig: Rig) -> None:
    rig.engine.run(feeds())
    rig.engine.close()
    gc.collect()
    assert not rig.library.alive
    assert rig.cuda.nothing_left()


def test_a_failure_that_somebody_remembers_does_not_hold_a_closed_engine(rig: Rig) -> None:
    remembered: list[Exception] = []
    try:
        rig.engine.run(feeds(17))
    except EngineError as error:
        remembered.append(error.with_traceback(None))
    assert len(remembered) == 1
    rig.engine.close()
    gc.collect()
    assert not rig.library.alive


@pytest.mark.parametrize("in_flight", [0, 1, 2])
def test_an_engine_that_is_dropped_frees_everything(
    device_on_doubles: str, in_flight: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for _ in range(3):
        rig = made(device_on_doubles, monkeypatch, tmp_path)
        rig.engine.run(feeds(2))
        pending = [rig.engine.submit(feeds()) for _ in range(in_flight)]
        cuda, library, engine = rig.cuda, rig.library, weakref.ref(rig.engine)
        del rig, pending
        gc.collect()
        assert engine() is None
        assert cuda.nothing_left()
        assert not library.alive
        assert library.faults == []


@pytest.fixture(params=DEVICES)
def device_on_doubles(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_sizes_that_rise_by_little_do_not_move_memory_each_time() -> None:
    cuda = CudaDouble()
    memory = Memory(Cuda(cuda), "device")
    for size in range(10_000, 20_000, 100):
        memory.reserve(size)
        assert memory.size >= size
    assert cuda.calls["cudaMalloc"] == 3


@pytest.mark.parametrize(("held", "wanted", "got"), [(4096, 4097, 6144), (4096, 9000, 9216), (65536, 65537, 69888)])
def test_how_much_more_a_block_gets(held: int, wanted: int, got: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medprompt.runtime.engines.cuda_buffers.SPARE", 4096)
    memory = Memory(Cuda(CudaDouble()), "device")
    memory.reserve(held)
    memory.reserve(wanted)
    assert memory.size == got


def test_a_block_gets_what_it_needs_where_no_more_fits() -> None:
    cuda = CudaDouble(memory=12_000)
    memory = Memory(Cuda(cuda), "device")
    memory.reserve(10_240)
    memory.reserve(11_000)
    assert memory.size == 11_008


def test_rows_are_joined_where_they_are_sent_from(rig: Rig) -> None:
    fed: dict[str, Any] = feeds(3)
    expected = rig.engine.run(fed)["scores"]
    fed["image"] = [np.asfortranarray(row) for row in fed["image"]]
    np.testing.assert_array_equal(rig.engine.run(fed)["scores"], expected)


@pytest.mark.parametrize("rows", [[], [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5, 3), np.uint8)]])
def test_rows_that_make_no_array_are_refused(rig: Rig, rows: list[np.ndarray]) -> None:
    with pytest.raises(EngineError, match="rows of an input"):
        rig.engine.run({**feeds(), "image": rows})
