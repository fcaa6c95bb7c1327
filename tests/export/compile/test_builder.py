"""The one code path of both builders: what is asked of the package, and what is refused before and after."""

from __future__ import annotations

import re
import signal
import sys
import threading
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from medprompt.core.errors import EngineError
from medprompt.core.manifest import AxisRange, TensorSpec
from medprompt.core.progress import Silent
from medprompt.export.compile import builder
from medprompt.export.compile.builder import (
    engine_from_onnx,
    known_gpus,
    load_builder,
    target_gpus,
)
from medprompt.export.compile.monitor import Build, run_cancellable
from medprompt.export.compile.options import CompileOptions
from medprompt.export.compile.profiles import profile_shapes, profiles_of_axes
from medprompt.runtime.engines.machine import Gpu
from tests.export.compile.double import TensorRtDouble
from tests.runtime.bundles import make_manifest, save_model

AXES = {axis: AxisRange(least=1, typical=2, most=8) for axis in "BPC"}
ONE = AXES | {"B": AxisRange(least=1, typical=1, most=1)}
INPUTS = make_manifest().inputs


class Recorder(Silent):
    """Keeps the steps, and how far each came."""

    def __init__(self) -> None:
        self.steps: list[list[object]] = []

    def step(self, name: str, total: int | None = None) -> None:
        self.steps.append([name, total, 0])

    def advance(self, count: int = 1) -> None:
        self.steps[-1][2] += count  # type: ignore[operator]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    save_model(tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


@pytest.fixture
def gpu_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "read_gpus", lambda: ((Gpu("RTX A4000", "sm86"),), ""))


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "read_gpus", lambda: ((), "no NVIDIA driver (libcuda) was found"))


def test_rtx_compiles_for_several_gpus_without_one(rtx: None, model: Path) -> None:
    progress = Recorder()
    built = engine_from_onnx(model, INPUTS, AXES, CompileOptions("trt-rtx", gpu=("sm86", "sm89")), progress)
    assert built.gpus == ("sm86", "sm89")
    assert len(built.data) > 10_000
    assert built.version == sys.modules["tensorrt_rtx"].__version__
    assert built.seconds > 0
    assert len(built.activation_bytes) == 2  # one image, and more
    assert built.gpu_names == ()
    names = [step[0] for step in progress.steps]
    assert names[0] == "trt-rtx: read model"
    assert "trt-rtx: building engine from subgraph" in names
    assert any(step[1] and step[1] == step[2] for step in progress.steps)


def test_rtx_says_which_gpus_it_knows(rtx: None) -> None:
    trt = load_builder("trt-rtx")
    assert set(known_gpus(trt)) >= {"sm75", "sm80", "sm86", "sm89", "sm120"}
    assert target_gpus(trt, "trt-rtx", [" SM_86", "sm89 ", "sm86", ""]) == ("sm86", "sm89")
    with pytest.raises(EngineError, match="does not build for this GPU") as caught:
        target_gpus(trt, "trt-rtx", ["sm86", "sm90", "a4000"])
    assert caught.value.got == "sm90, a4000"
    assert "sm120" in caught.value.expected


def test_rtx_without_a_gpu_wants_one_named(rtx: None, no_gpu: None) -> None:
    with pytest.raises(EngineError, match="no NVIDIA driver") as caught:
        target_gpus(load_builder("trt-rtx"), "trt-rtx", [])
    assert caught.value.fix.startswith("name the GPUs to build for: gpu=sm")


def test_trt_builds_for_the_gpu_that_is_here(trt: TensorRtDouble, gpu_here: None, model: Path, tmp_path: Path) -> None:
    progress, cache = Recorder(), tmp_path / "timing.cache"
    options = CompileOptions("trt", workspace=512, timing_cache=cache)
    built = engine_from_onnx(model, INPUTS, AXES, options, progress)
    assert bytes(built.data) == b"engine of tensorrt"
    prompts = [
        ("shape", "vectors", (1, 1, 3), (1, 2, 3), (1, 8, 3)),
        ("shape", "phrase_to_class", (1, 1), (2, 2), (8, 8)),
    ]
    assert (built.gpus, built.version, built.activation_bytes) == (("sm86",), "10.9.0", (4096, 8192))
    assert built.gpu_names == ("RTX A4000",)
    assert trt.calls == [
        ("network", 1 << 1),  # strongly typed
        ("parse", str(model)),
        ("clear", "tf32"),
        ("limit", "workspace", 512 << 20),
        ("shape", "image", (1, 8, 12, 3), (1, 8, 12, 3), (1, 8, 12, 3)),
        *prompts,
        ("shape", "image", (2, 8, 12, 3), (8, 8, 12, 3), (8, 8, 12, 3)),
        *prompts,
        ("cache", b""),
    ]
    assert cache.read_bytes() == b"medprompt timing cache\nkernels timed"
    assert progress.steps == [["trt: read model", None, 0], ["trt: timing kernels", 2, 2]]


def test_trt_reads_its_timing_cache_and_drops_one_that_does_not_fit(
    trt: TensorRtDouble, gpu_here: None, model: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "timing.cache"
    cache.write_bytes(b"of another GPU")
    trt.cache_fits = False
    engine_from_onnx(model, INPUTS, AXES, CompileOptions("trt", timing_cache=cache))
    assert [call for call in trt.calls if call[0] == "cache"] == [("cache", b"of another GPU"), ("cache", b"")]


def test_trt_11_has_no_flag_for_typing(trt: TensorRtDouble, gpu_here: None, model: Path) -> None:
    trt.NetworkDefinitionCreationFlag = object()
    engine_from_onnx(model, INPUTS, AXES, CompileOptions("trt"))
    assert trt.calls[0] == ("network", 0)


@pytest.mark.parametrize("tf32", [False, True])
def test_an_engine_has_tf32_where_it_is_chosen_only(tf32: bool, rtx: None, model: Path) -> None:
    built = engine_from_onnx(model, INPUTS, ONE, CompileOptions("trt-rtx", gpu=("sm86",), tf32=tf32))
    assert set(re.findall(rb"tf32=(\d)", built.data)) == {str(int(tf32)).encode()}


def test_what_the_version_has_is_asked_for(trt: TensorRtDouble, gpu_here: None, model: Path) -> None:
    trt.PreviewFeature.RUNTIME_ACTIVATION_RESIZE_10_10 = "resize"
    trt.BuilderFlag.REQUIRE_USER_ALLOCATION = "user"
    engine_from_onnx(model, INPUTS, ONE, CompileOptions("trt", tf32=True))
    assert trt.calls[2:5] == [("set", "tf32"), ("preview", "resize", True), ("set", "user")]


def test_a_builder_that_cannot_start_cuda_is_our_error(trt: TensorRtDouble, gpu_here: None, model: Path) -> None:
    trt.null = True
    with pytest.raises(EngineError, match="tensorrt cannot start its builder") as caught:
        engine_from_onnx(model, INPUTS, ONE, CompileOptions("trt"))
    assert caught.value.got == "CUDA initialization failure with error: 35"
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("most", "batches"), [(1, [(1, 1, 1)]), (2, [(1, 1, 1), (2, 2, 2)]), (8, [(1, 1, 1), (2, 8, 8)])]
)
def test_one_image_has_a_profile_of_its_own(most: int, batches: list[tuple[int, int, int]]) -> None:
    axes = ONE | {"B": AxisRange(least=1, typical=1, most=most)}
    profiles = profiles_of_axes(axes)
    assert [(one["B"].least, one["B"].typical, one["B"].most) for one in profiles] == batches
    assert all({**one, "B": axes["B"]} == axes for one in profiles)


def test_trt_refuses_a_gpu_that_is_not_here(trt: TensorRtDouble, gpu_here: None) -> None:
    assert target_gpus(trt, "trt", ["sm86"]) == ("sm86",)
    with pytest.raises(EngineError, match="builds for the GPU of this machine only") as caught:
        target_gpus(trt, "trt", ["sm89"])
    assert (caught.value.expected, caught.value.got) == ("sm86", "sm89")


def test_trt_refuses_to_build_without_a_gpu(trt: TensorRtDouble, no_gpu: None) -> None:
    with pytest.raises(EngineError, match="finds no GPU") as caught:
        target_gpus(trt, "trt", [])
    assert caught.value.fix == "run this on the GPU that serves"


def test_a_parser_error_names_the_node(trt: TensorRtDouble, gpu_here: None, model: Path) -> None:
    trt.refuses = ("backbone/Conv_3", "DeformConv", "no such plug-in")
    with pytest.raises(EngineError, match="tensorrt cannot read the model") as caught:
        engine_from_onnx(model, INPUTS, AXES, CompileOptions("trt"))
    assert caught.value.where == f"{model}, node backbone/Conv_3 (DeformConv)"
    assert caught.value.got == "no such plug-in"


def test_a_real_parser_error_says_why(rtx: None, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\x08\x0anot a model")
    with pytest.raises(EngineError, match="tensorrt_rtx cannot read the model"):
        engine_from_onnx(tmp_path / "model.onnx", INPUTS, AXES, CompileOptions("trt-rtx", gpu=("sm86",)))


def test_a_build_that_fails_says_what_the_builder_said(trt: TensorRtDouble, gpu_here: None, model: Path) -> None:
    trt.answers = None
    with pytest.raises(EngineError, match="cannot compile the model") as caught:
        engine_from_onnx(model, INPUTS, AXES, CompileOptions("trt"))
    assert caught.value.got == "no kernel for that"


def test_turing_is_told_what_helps() -> None:
    build = Build(Silent(), "trt-rtx")
    build.errors.append("Cannot compile operation 'x/MatMul' for Turing (SM75): FP32 GEMM is not supported.")
    assert "precision=fp16 resize=host" in builder._refusal("trt-rtx", Path("m.onnx"), build).fix


@pytest.mark.parametrize(
    ("device", "content", "message", "fix"),
    [
        ("trt", None, "needs tensorrt, which is not installed", "pip install 'tensorrt"),
        ("trt", "raise OSError('libnvinfer.so.10: no such file')", "its libraries do not load", "LD_LIBRARY_PATH"),
        ("ort-cpu", None, "Nothing is compiled for this device", ""),
    ],
    ids=["absent", "libnvinfer missing", "no such device"],
)
def test_a_builder_that_cannot_be_used(
    device: str, content: str | None, message: str, fix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    if content is not None:
        (tmp_path / "tensorrt.py").write_text(content)
    with pytest.raises(EngineError, match=message) as caught:
        load_builder(device)
    assert fix in caught.value.fix
    assert caught.value.exit_code == 2


def test_an_axis_without_a_range_is_refused() -> None:
    spec = TensorSpec(name="text", dtype="float32", shape=(1, "T", 4))
    with pytest.raises(EngineError, match="An axis has no range") as caught:
        profile_shapes(spec, AXES)
    assert caught.value.got == "T"


def test_only_phases_near_the_top_are_shown() -> None:
    progress = Recorder()
    build = Build(progress, "trt")
    for name, parent in (("Build", None), ("A", "Build"), ("B", "A"), ("C", "B")):
        build.phase_start(name, parent, 3)
        assert build.step_complete(name)
    assert progress.steps == [["trt: a", 3, 1], ["trt: b", 3, 1]]


def interrupted_soon(after_s: float = 0.2) -> None:
    """Ctrl-C for this thread, as a terminal sends it."""
    threading.Timer(after_s, signal.raise_signal, (signal.SIGINT,)).start()


def test_ctrl_c_tells_the_build_and_waits_for_its_end() -> None:
    build, ended = Build(Silent(), "trt"), threading.Event()

    def work() -> None:
        build.cancelled.wait(30)
        time.sleep(0.05)
        ended.set()

    interrupted_soon()
    with pytest.raises(KeyboardInterrupt):
        run_cancellable(work, build)
    assert ended.is_set()
    assert not build.step_complete("any")


def test_an_error_of_the_build_reaches_the_caller() -> None:
    with pytest.raises(ZeroDivisionError):
        run_cancellable(lambda: 1 // 0, Build(Silent(), "trt"))
    assert run_cancellable(lambda: 5, Build(Silent(), "trt")) == 5


def test_a_real_build_stops_when_it_is_told(rtx: None, model: Path) -> None:
    class Stops(Recorder):
        def step(self, name: str, total: int | None = None) -> None:
            super().step(name, total)
            if name.endswith("building engine from subgraph"):
                signal.raise_signal(signal.SIGINT)  # the main thread hears it while the build's thread goes on

    progress = Stops()
    with pytest.raises(KeyboardInterrupt):
        engine_from_onnx(model, INPUTS, AXES, CompileOptions("trt-rtx", gpu=("sm86", "sm89", "sm120")), progress)


@pytest.mark.parametrize(("says", "builds"), [(builder.AFTER_A_STOP, 2), ("no kernel for this node", 1)])
def test_a_build_that_remembers_a_stopped_one_is_made_again(
    says: str, builds: int, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []

    def built(path: Path, *_: object) -> str:
        made.append(path)
        if len(made) == 1:
            raise EngineError("tensorrt_rtx cannot compile the model.", got=f"Target SM 120 {says}")
        return "an engine"

    monkeypatch.setattr(builder, "_built", built)
    with nullcontext() if builds == 2 else pytest.raises(EngineError):
        assert engine_from_onnx(model, INPUTS, AXES, CompileOptions("trt-rtx")) == "an engine"
    assert len(made) == builds
