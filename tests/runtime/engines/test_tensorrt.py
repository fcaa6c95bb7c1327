"""The CUDA call sequence of the TensorRT engines, against recording doubles; nothing here needs a GPU."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medprompt.core.errors import EngineError
from medprompt.runtime.engines import engine_class
from medprompt.runtime.engines.base import ModelSource
from medprompt.runtime.engines.tensorrt_slot import MAX_PLANS
from tests.runtime.bundles import BOXES_XYXY, QUERIES, SIZE_HW
from tests.runtime.engines.cuda_double import CudaDouble, cudaError_t
from tests.runtime.engines.doubles import ENGINE_BYTES, ContextDouble, RuntimeConfigDouble, compiled
from tests.runtime.engines.rigs import DEVICES, Rig, feeds, install, made, source


def test_outputs_by_name(rig: Rig) -> None:
    for batch, phrases in ((1, 3), (2, 3), (2, 1), (1, 3), (16, 16)):
        outputs = rig.engine.run(feeds(batch, phrases, level=51))
        best = 0.2 * np.array([1, 2, 3, 0, 0, 0]) * phrases * 0.2
        np.testing.assert_allclose(outputs["scores"], np.tile(best, (batch, 1)), rtol=1e-5)
        np.testing.assert_array_equal(outputs["boxes_xyxy"], np.broadcast_to(BOXES_XYXY, (batch, QUERIES, 4)))
        assert outputs["phrase_ids"][:, 0].tolist() == [phrases - 1] * batch
        assert outputs["class_ids"].dtype == np.int64
    rig.engine.close()
    assert rig.cuda.nothing_left()


def test_outputs_belong_to_the_caller(rig: Rig) -> None:
    first = rig.engine.run(feeds())["scores"]
    before = first.copy()
    for _ in range(3):
        assert rig.engine.run(feeds(level=0))["scores"].max() == 0
    np.testing.assert_array_equal(first, before)
    rig.engine.close()
    np.testing.assert_array_equal(first, before)


def test_inputs_need_not_lie_in_one_piece(rig: Rig) -> None:
    fed = feeds(2)
    fed["image"] = np.asfortranarray(fed["image"])
    assert rig.engine.run(fed)["scores"][1, 2] == pytest.approx(1.8)


def test_steady_state_allocates_nothing_over_1_000_calls(rig: Rig) -> None:
    fed = feeds()
    for _ in range(3):
        rig.engine.run(fed)
    held = dict(rig.cuda.blocks)
    before = rig.cuda.calls.copy()
    contexts = len(rig.library.contexts)
    for _ in range(1_000):
        rig.engine.run(fed)
    spent = rig.cuda.calls - before
    inputs, outputs = len(fed), 4
    each = {"cudaStreamWaitEvent": 1, "cudaEventRecord": 2, "cudaEventSynchronize": 1}
    native = {"cudaGraphLaunch": 1, "cudaMemcpyAsync": inputs}
    copies = {"cudaMemcpyAsync": inputs + outputs}
    per_call = each | (copies if isinstance(rig.library.contexts[0].how, RuntimeConfigDouble) else native)
    assert spent == {name: 1_000 * count for name, count in per_call.items()}
    assert rig.cuda.blocks == held
    assert len(rig.library.contexts) == contexts == 1
    rig.engine.close()
    assert rig.cuda.nothing_left()


def test_buffers_are_as_large_as_the_tensors(trt: Rig) -> None:
    trt.engine.run(feeds(2, 5))
    sizes = sorted(len(block) for kind, block in trt.cuda.blocks.values() if kind == "pinned")
    tensors = {
        "image": 2 * SIZE_HW[0] * SIZE_HW[1] * 3,
        "vectors": 5 * 3 * 4,
        "phrase_to_class": 5 * 4,
        "boxes_xyxy": 2 * QUERIES * 4 * 4,
        "scores": 2 * QUERIES * 4,
        "class_ids": 2 * QUERIES * 8,
        "phrase_ids": 2 * QUERIES * 8,
    }
    assert sizes == sorted(-(-size // 256) * 256 for size in tensors.values())
    device = sorted(len(block) for kind, block in trt.cuda.blocks.values() if kind == "device")
    assert device == sorted([*sizes, 2048])  # the workspace: 2 × 1000 bytes


def test_a_graph_is_captured_after_the_first_run_and_replayed(trt: Rig) -> None:
    for _ in range(5):
        trt.engine.run(feeds())
    calls = trt.cuda.calls
    assert (calls["cudaStreamBeginCapture"], calls["cudaGraphInstantiate"], calls["cudaGraphLaunch"]) == (1, 1, 4)
    assert (len(trt.cuda.graphs), len(trt.cuda.execs)) == (0, 1)


def test_a_new_shape_gets_a_graph_of_its_own_and_the_old_one_stays(trt: Rig) -> None:
    for _ in range(3):
        trt.engine.run(feeds(2))
    for _ in range(3):
        trt.engine.run(feeds(1))  # smaller: nothing grows, so the first graph stays good
    trt.engine.run(feeds(2))
    assert trt.cuda.calls["cudaStreamBeginCapture"] == 2
    assert trt.cuda.calls["cudaGraphLaunch"] == 5
    assert len(trt.library.contexts) == 2


def test_growth_voids_the_graphs_and_they_are_captured_again(trt: Rig) -> None:
    for _ in range(3):
        trt.engine.run(feeds(1))
    for _ in range(3):
        trt.engine.run(feeds(2))
    for _ in range(3):
        assert trt.engine.run(feeds(1))["scores"][0, 2] == pytest.approx(1.8)
    assert trt.cuda.calls["cudaStreamBeginCapture"] == 3
    assert trt.cuda.calls["cudaGraphExecDestroy"] == 1
    assert len(trt.cuda.execs) == 2
    trt.engine.close()
    assert trt.cuda.nothing_left()


def test_the_number_of_plans_is_bounded(trt: Rig) -> None:
    for _ in range(2):
        for phrases in range(1, 17):
            trt.engine.run(feeds(1, phrases))
            trt.engine.run(feeds(1, phrases))
    assert len(trt.cuda.execs) == MAX_PLANS
    trt.engine.close()
    assert trt.cuda.nothing_left()


def test_an_engine_that_cannot_be_captured_runs_call_by_call_and_says_so(trt: Rig) -> None:
    trt.library.capturable = False
    for _ in range(4):
        assert trt.engine.run(feeds())["scores"][0, 2] == pytest.approx(1.8)
    assert trt.cuda.calls["cudaStreamBeginCapture"] == 1
    assert trt.cuda.calls["cudaGraphLaunch"] == 0
    assert "not permitted when stream is capturing" in trt.engine.notes[0]
    trt.engine.close()
    assert trt.cuda.nothing_left()


def test_rtx_captures_itself_with_kernels_for_each_shape(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rtx = made("trt-rtx", monkeypatch, tmp_path)
    for batch in (1, 1, 2, 2):
        rtx.engine.run(feeds(batch))
    for how in (context.how for context in rtx.library.contexts):
        assert (how.memory, how.cuda_graph_strategy) == ("mine", "whole")
        assert how.dynamic_shapes_kernel_specialization_strategy == "eager"
    assert len(rtx.library.contexts) == 2
    assert rtx.cuda.calls["cudaStreamBeginCapture"] == 0


def test_the_parts_of_a_run_by_cuda_events(rig: Rig) -> None:
    with rig.engine as engine:
        expected = engine.run(feeds())
        parts = engine.device_stages_ms(feeds())
        # The double takes a millisecond for each copy and for the execution.
        inputs, outputs = len(feeds()), len(expected)
        assert parts == {"host to device": inputs, "compute": 1, "device to host": outputs}
        assert len(rig.cuda.events) == 2  # those of the slot
        again = engine.run(feeds())
        assert all(np.array_equal(expected[name], again[name]) for name in expected)
    assert rig.cuda.nothing_left()


def test_events_are_given_back_after_an_error(rig: Rig) -> None:
    with rig.engine as engine:
        engine.run(feeds())
        rig.cuda.fail_next["cudaEventElapsedTime"] = cudaError_t.cudaErrorIllegalAddress
        with pytest.raises(EngineError, match="cudaErrorIllegalAddress"):
            engine.device_stages_ms(feeds())
        assert len(rig.cuda.events) == 2  # those of the slot


def test_out_of_memory_carries_cudas_name_and_leaves_a_working_engine(rig: Rig) -> None:
    rig.engine.run(feeds(1))
    rig.cuda.memory = 6000
    with pytest.raises(EngineError) as caught:
        rig.engine.run(feeds(16))
    assert caught.value.got == "cudaErrorMemoryAllocation"
    assert "smaller batches" in caught.value.fix
    assert caught.value.exit_code == 2
    for _ in range(3):
        assert rig.engine.run(feeds(1))["scores"][0, 2] == pytest.approx(1.8)
    rig.engine.close()
    assert rig.cuda.nothing_left()


@pytest.mark.parametrize(
    "function",
    ["cudaStreamCreateWithFlags", "cudaMalloc", "cudaMallocHost", "cudaMemcpyAsync", "cudaEventSynchronize"],
)
def test_every_cuda_error_is_named(rig: Rig, function: str) -> None:
    rig.cuda.fail_next[function] = cudaError_t.cudaErrorIllegalAddress
    with pytest.raises(EngineError, match="A CUDA call failed") as caught:
        rig.engine.run(feeds())
    assert (caught.value.where, caught.value.got) == (function, "cudaErrorIllegalAddress")


def test_a_failed_free_does_not_keep_the_rest(trt: Rig) -> None:
    trt.engine.run(feeds())
    trt.cuda.fail_next["cudaFreeHost"] = cudaError_t.cudaErrorInvalidValue
    with pytest.raises(EngineError, match="A CUDA call failed"):
        trt.engine.close()
    assert [kind for kind, _ in trt.cuda.blocks.values()] == ["pinned"]
    assert not trt.cuda.streams
    trt.engine.close()


def test_a_failed_execution_says_what_tensorrt_logged(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(self: ContextDouble, stream: int) -> bool:
        self.engine.library.logger.log("error", "Error Code 1: Cuda Runtime (out of memory)")
        return False

    monkeypatch.setattr(ContextDouble, "execute_async_v3", failing)
    with pytest.raises(EngineError, match="execution failed") as caught:
        rig.engine.run(feeds())
    assert caught.value.got == "Error Code 1: Cuda Runtime (out of memory)"


@pytest.mark.parametrize(("fed", "axis"), [(feeds(17), "axis B"), (feeds(1, 17), "axis P")])
def test_a_request_out_of_the_profile_is_refused_before_anything_is_queued(
    rig: Rig, fed: dict[str, np.ndarray], axis: str
) -> None:
    before = rig.cuda.calls["cudaMemcpyAsync"]
    with pytest.raises(EngineError, match="exceeds the sizes") as caught:
        rig.engine.run(fed)
    assert axis in caught.value.where
    assert (caught.value.expected, caught.value.got) == ("1 … 16 (the engine's profile)", "17")
    assert "medprompt compile polyp.bundle" in caught.value.fix
    assert rig.cuda.calls["cudaMemcpyAsync"] == before
    assert not rig.library.contexts


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": None}, "other names"),
        ({"image": np.zeros((1, *SIZE_HW, 3), np.float32)}, "another element type"),
        ({"image": np.zeros((1, 3, 3, 3), np.uint8)}, "refuses"),
        ({"image": np.zeros((1, 3), np.uint8)}, "refuses"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(rig: Rig, changes: dict[str, Any], message: str) -> None:
    fed = {name: array for name, array in {**feeds(), **changes}.items() if array is not None}
    with pytest.raises(EngineError, match=message):
        rig.engine.run(fed)


def test_closing_twice_frees_once_and_a_closed_engine_says_so(rig: Rig) -> None:
    rig.engine.run(feeds())
    rig.engine.run(feeds())
    with rig.engine:
        pass
    frees = rig.cuda.calls.copy()
    rig.engine.close()
    assert rig.cuda.calls == frees
    assert frees["cudaFree"] == frees["cudaMalloc"] + 1 == 9  # the one that starts CUDA
    assert frees["cudaFreeHost"] == frees["cudaMallocHost"] == 7
    with pytest.raises(EngineError, match="closed"):
        rig.engine.run(feeds())


def test_threads_that_compute_together_have_contexts_and_streams_of_their_own(rig: Rig) -> None:
    meeting = threading.Barrier(4, timeout=10)
    rig.library.during = meeting.wait  # type: ignore[assignment]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda level: rig.engine.run(feeds(level=level)), (0, 51, 102, 255)))
    assert [float(answer["scores"][0, 2]) for answer in answers] == pytest.approx([0, 0.36, 0.72, 1.8])
    assert len(rig.library.contexts) == 4
    assert all(len(context.threads) == len(context.streams) == 1 for context in rig.library.contexts)
    assert len({stream for context in rig.library.contexts for stream in context.streams}) == 4
    rig.engine.close()
    assert rig.cuda.nothing_left()


def test_threads_that_come_and_go_do_not_pile_up(rig: Rig) -> None:
    for _ in range(20):
        thread = threading.Thread(target=rig.engine.run, args=(feeds(),))
        thread.start()
        thread.join()
    assert len(rig.library.contexts) == 1
    assert len(rig.cuda.streams) == 2  # uploads and computes


def test_closing_while_a_thread_computes_frees_when_it_is_done(rig: Rig) -> None:
    inside, go = threading.Event(), threading.Event()

    def wait() -> None:
        inside.set()
        assert go.wait(10)

    rig.library.during = wait
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(rig.engine.run, feeds())
        assert inside.wait(10)
        rig.engine.close()
        go.set()
        assert answer.result(10)["scores"][0, 2] == pytest.approx(1.8)
    assert rig.cuda.nothing_left()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("content", [b"", ENGINE_BYTES[:-1]])
def test_a_broken_engine_file_is_refused_with_the_librarys_words(
    device: str, content: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(device, monkeypatch)
    with pytest.raises(EngineError, match="refuses the engine") as caught:
        engine_class(device).open(source(tmp_path, content))
    assert caught.value.got == "Error Code 2: Internal Error (readHeader)"
    assert caught.value.where.endswith("test.engine")


@pytest.mark.parametrize("device", DEVICES)
def test_an_engine_file_is_needed(device: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(device, monkeypatch)
    with pytest.raises(EngineError, match="loads an engine file") as caught:
        engine_class(device).open(tmp_path / "model.onnx")
    assert "medprompt compile" in caught.value.fix
    with pytest.raises(EngineError, match="cannot be read"):
        engine_class(device).open(ModelSource(tmp_path / "absent.engine", compiled()))


@pytest.mark.parametrize("device", DEVICES)
def test_a_library_that_cannot_be_imported_says_why(
    device: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = engine_class(device).package
    (tmp_path / f"{package}.py").write_text("raise OSError('libnvinfer.so.10: cannot open shared object file')")
    monkeypatch.delitem(sys.modules, package, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(EngineError, match="cannot be imported") as caught:
        engine_class(device).open(source(tmp_path))
    assert "libnvinfer" in caught.value.got
    monkeypatch.delitem(sys.modules, package, raising=False)


@pytest.mark.parametrize(
    ("absent", "gpus", "expected"),
    [
        ("own", False, "{package} is not installed"),
        ("cuda", False, "no bindings"),
        ("", False, "no GPU: no driver"),
        ("", True, ""),
    ],
)
@pytest.mark.parametrize("device", DEVICES)
def test_available(device: str, absent: str, gpus: bool, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, package = "medprompt.runtime.engines.tensorrt", engine_class(device).package
    monkeypatch.setattr(f"{module}.find_spec", lambda name: None if absent == "own" else "there")
    monkeypatch.setattr(f"{module}.cuda_python_problem", lambda: "no bindings" if absent == "cuda" else "")
    monkeypatch.setattr(f"{module}.read_gpus", lambda: (("gpu",), "") if gpus else ((), "no driver"))
    assert engine_class(device).available() == expected.format(package=package)


@pytest.mark.parametrize("name", [name for name in vars(CudaDouble) if name.startswith("cuda")])
def test_the_doubles_have_cudas_names(name: str) -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime")
    assert hasattr(runtime, name)
    assert runtime.cudaError_t.cudaErrorMemoryAllocation.name == "cudaErrorMemoryAllocation"
    assert int(runtime.cudaStream_t(17)) == 17
