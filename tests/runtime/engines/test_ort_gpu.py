"""ONNX Runtime's GPU providers without a GPU: what falls back, what is placed where, and the binding on the CPU."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from medprompt.core.errors import EngineError
from medprompt.runtime.engines import engine_class
from medprompt.runtime.engines.machine import Gpu
from medprompt.runtime.engines.ort_gpu import (
    PLUGIN_PACKAGE,
    OrtCuda,
    OrtNvTensorRtRtx,
    cuda_provider_problem,
    plugin_devices,
    preload_cuda,
)
from medprompt.runtime.engines.placement import CPU, Placement, read_placement
from tests.runtime.bundles import save_model
from tests.runtime.engines.test_tensorrt import feeds

onnxruntime = pytest.importorskip("onnxruntime")

NODES = 15  # of ``save_model``
WITHOUT_CUDA = pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="this ONNX Runtime has CUDA"
)


class OnCpu(OrtCuda):
    """The same code with the CPU's provider and memory."""

    provider: ClassVar[str] = CPU
    options: ClassVar[dict[str, str]] = {}
    memory: ClassVar[str] = "cpu"

    @classmethod
    def _session_with_provider(cls, model: Path, options: Any) -> Any:
        return onnxruntime.InferenceSession(str(model), options, providers=[CPU])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    save_model(path)
    return path


def test_bound_tensors_answer_as_the_session_does(model: Path) -> None:
    with OnCpu.open(model, 1) as bound, engine_class("ort-cpu").open(model, 1) as plain:
        for batch, phrases, level in ((1, 3, 255), (1, 3, 51), (2, 5, 255), (1, 3, 0), (1, 3, 102)):
            fed = feeds(batch, phrases, level)
            before = {name: array.copy() for name, array in fed.items()}
            answers, expected = bound.run(fed), plain.run(fed)
            for name, value in expected.items():
                np.testing.assert_array_equal(answers[name], value)
            for name, array in before.items():
                np.testing.assert_array_equal(fed[name], array)


def test_outputs_belong_to_the_caller(model: Path) -> None:
    with OnCpu.open(model, 1) as engine:
        first = engine.run(feeds())["scores"]
        before = first.copy()
        engine.run(feeds(level=0))
        np.testing.assert_array_equal(first, before)


def test_threads_have_bindings_of_their_own(model: Path) -> None:
    levels = list(range(0, 256, 5))
    with OnCpu.open(model, 1) as engine, ThreadPoolExecutor(4) as pool:
        scores = list(pool.map(lambda level: float(engine.run(feeds(level=level))["scores"][0, 2]), levels))
    assert scores == pytest.approx([1.8 * level / 255 for level in levels])


def test_the_placement_of_every_node_is_told(model: Path) -> None:
    with OnCpu.open(model, 1) as engine:
        assert engine.placement is not None
        assert sum(engine.placement.nodes[CPU].values()) == NODES
        assert engine.placement.heavy_on_cpu() == {"ReduceMean": 1, "MatMul": 1, "ReduceMax": 1, "ArgMax": 2}
        assert engine.notes[0].startswith(f"nodes by provider: {CPU} {NODES}; on the CPU: ArgMax ×2")


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ({}, "nodes by provider: none"),
        ({"CUDAExecutionProvider": {"MatMul": 3}}, "nodes by provider: CUDAExecutionProvider 3"),
        (
            {"CUDAExecutionProvider": {"MatMul": 3}, CPU: {"Shape": 9}},
            f"nodes by provider: CUDAExecutionProvider 3, {CPU} 9",
        ),
        (
            {CPU: {"Shape": 1, "TopK": 1, "GridSample": 48}},
            f"nodes by provider: {CPU} 50; on the CPU: GridSample ×48, TopK ×1",
        ),
    ],
)
def test_placement_sentence(nodes: dict[str, dict[str, int]], expected: str) -> None:
    assert Placement(nodes).describe() == expected


def test_an_onnx_runtime_that_does_not_tell() -> None:
    assert read_placement(SimpleNamespace()) is None


@WITHOUT_CUDA
def test_what_fell_back_is_refused(model: Path) -> None:
    with pytest.raises(EngineError, match="fell back") as caught:
        OrtCuda.open(model, 1)
    assert (caught.value.expected, CPU in caught.value.got) == (OrtCuda.provider, True)


def test_nothing_but_answers_on_stdout(
    model: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As onnxruntime-gpu does where a provider cannot be set up: a banner, then a second try on the CPU."""
    real = onnxruntime.InferenceSession

    def session(path: str, options: Any, providers: Any, enable_fallback: int = 1) -> Any:
        os.write(1, b"from C\n")
        print("from Python")
        if enable_fallback:
            print("*************** EP Error ***************")
        return real(path, options, providers=[CPU])

    def preload() -> None:
        print("Failed to load libcublasLt.so.13")

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(onnxruntime, "preload_dlls", preload, raising=False)
    preload_cuda.cache_clear()
    with pytest.raises(EngineError, match="fell back"):
        OrtCuda.open(model, 1)
    said = capfd.readouterr()
    assert said.out == ""
    assert all(words in said.err for words in ("from C", "from Python", "libcublasLt"))
    assert "EP Error" not in said.err
    print("afterwards")
    assert capfd.readouterr().out == "afterwards\n"


@pytest.mark.parametrize("device", ["ort-cuda", "ort-nv-trt-rtx"])
def test_without_a_gpu_none_is_available(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medprompt.runtime.engines.ort_gpu.read_gpus", lambda: ((), "no driver"))
    assert engine_class(device).available() == "no GPU: no driver"


@WITHOUT_CUDA
def test_a_gpu_needs_an_onnx_runtime_with_the_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [Gpu("RTX A4000", "sm86")]
    monkeypatch.setattr("medprompt.runtime.engines.ort_gpu.read_gpus", lambda: (tuple(found), ""))
    assert "has no CUDAExecutionProvider: pip uninstall onnxruntime" in engine_class("ort-cuda").available()
    monkeypatch.setattr("medprompt.runtime.engines.ort_gpu.find_spec", lambda name: None)
    assert engine_class("ort-nv-trt-rtx").available().startswith(f"{PLUGIN_PACKAGE} is missing: pip install")
    monkeypatch.setattr("medprompt.runtime.engines.ort_gpu.find_spec", lambda name: "there")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", CPU])
    assert [engine_class(device).available() for device in ("ort-cuda", "ort-nv-trt-rtx")] == ["", ""]
    found[0] = Gpu("H100", "sm90")
    assert engine_class("ort-nv-trt-rtx").available() == (
        "the plug-in compiles for sm86, sm89, sm120, sm121; this GPU is sm90"
    )


@pytest.mark.parametrize(
    ("contents", "problem"),
    [
        ({}, ""),
        ({"shared": b"", "cuda": b"no library"}, "the CUDA provider cannot be loaded: "),
        ({"cuda": b"no library"}, "the CUDA provider cannot be loaded: "),
    ],
    ids=["no such file", "cut short", "half a package"],
)
def test_a_provider_that_cannot_be_loaded_is_found_before_a_session(
    contents: dict[str, bytes], problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "capi").mkdir()
    for name, content in contents.items():
        (tmp_path / "capi" / f"libonnxruntime_providers_{name}.so").write_bytes(content)
    monkeypatch.setattr(onnxruntime, "__file__", str(tmp_path / "__init__.py"))
    cuda_provider_problem.cache_clear()
    try:
        assert cuda_provider_problem().startswith(problem)
        assert bool(cuda_provider_problem()) == bool(problem)
    finally:
        cuda_provider_problem.cache_clear()


def test_a_retired_device_says_what_to_take() -> None:
    with pytest.raises(EngineError, match="ort-trt is not served any more") as caught:
        engine_class("ort-trt")
    assert "ort-cuda" in caught.value.fix


class RuntimeDouble:
    """The part of ``onnxruntime`` that registers plug-ins."""

    def __init__(self, problem: str = "", found: int = 1) -> None:
        self.problem, self.found = problem, found
        self.registered: list[tuple[str, str]] = []

    def get_ep_devices(self) -> list[SimpleNamespace]:
        names = [CPU, *[OrtNvTensorRtRtx.provider] * (self.found if self.registered else 0)]
        return [SimpleNamespace(ep_name=name) for name in names]

    def register_execution_provider_library(self, name: str, library: str) -> None:
        if self.problem:
            raise RuntimeError(self.problem)
        self.registered.append((name, library))


def test_the_plug_in_is_registered_once() -> None:
    runtime = RuntimeDouble()
    for _ in range(2):
        devices = plugin_devices(runtime, "/ep.so", OrtNvTensorRtRtx.provider)
        assert [device.ep_name for device in devices] == [OrtNvTensorRtRtx.provider]
    assert runtime.registered == [(OrtNvTensorRtRtx.provider, "/ep.so")]


def test_a_plug_in_that_cannot_be_registered_is_an_error() -> None:
    with pytest.raises(EngineError, match="cannot register") as caught:
        plugin_devices(RuntimeDouble("libcuda.so.1: cannot open shared object file"), "/ep.so", "NvRtx")
    assert "libcuda.so.1" in caught.value.got
    assert caught.value.where == "/ep.so"


def test_a_plug_in_library_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="cannot register"):
        plugin_devices(onnxruntime, str(tmp_path / "absent.so"), OrtNvTensorRtRtx.provider)


def test_a_plug_in_without_a_device_is_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in = SimpleNamespace(get_library_path=lambda: "/ep.so")
    monkeypatch.setattr("medprompt.runtime.engines.ort_gpu.import_module", lambda name: plug_in)
    monkeypatch.setattr("medprompt.runtime.engines.ort_gpu.plugin_devices", lambda *arguments: [])
    with pytest.raises(EngineError, match="fell back") as caught:
        OrtNvTensorRtRtx.open(model, 1)
    assert caught.value.expected == OrtNvTensorRtRtx.provider
