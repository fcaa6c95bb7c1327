"""The same checks through every engine that can run here."""

from __future__ import annotations

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medprompt.core.errors import EngineError
from medprompt.core.manifest import AxisRange
from medprompt.export.compile.builder import engine_from_onnx
from medprompt.export.compile.options import CompileOptions
from medprompt.prompts.assemble import prompt_inputs
from medprompt.runtime.engines import ENGINES, base, engine_class
from medprompt.runtime.engines.base import ModelSource
from medprompt.runtime.engines.fake import QUARTERS_XYXY
from tests.runtime.bundles import BOXES_XYXY, QUERIES, SIZE_HW, make_bank, make_manifest, save_model
from tests.runtime.engines.doubles import compiled

REAL = [
    pytest.param(device, marks=[pytest.mark.gpu] if engine_class(device).on_gpu else [])
    for device in ENGINES
    if device != "fake"
]
ALL = [device for device in ENGINES if device != "fake"]
UPTO_8 = AxisRange(least=1, typical=1, most=8)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    save_model(path)
    return path


def feeds(batch: int, classes: list[dict[str, object]] | None = None) -> dict[str, np.ndarray]:
    levels = np.linspace(255, 51, batch).astype(np.uint8)
    image = np.broadcast_to(levels[:, None, None, None], (batch, *SIZE_HW, 3)).copy()
    return {"image": image, **prompt_inputs(make_bank(classes), make_manifest().inputs)}


def opened(device: str, model: Path, threads: int | None = 1, at_once: int = 1):
    engine = engine_class(device)
    reason = engine.available()
    if reason:
        pytest.skip(reason)
    read = source(device, model, ()) if engine.needs_compiled else ModelSource(model)
    return engine.open(replace(read, at_once=at_once), threads)


def source(device: str, model: Path, gpus: tuple[str, ...]) -> ModelSource:
    """The test's graph compiled for these GPUs, or the one that is here; an "ONNX" that is none stays what it is."""
    made = model.parent / f"{device}.engine"
    if model.stat().st_size < 100:
        made = model
    elif not made.exists():
        axes = {axis: UPTO_8 for axis in "BPC"}
        built = engine_from_onnx(model, make_manifest().inputs, axes, CompileOptions(device, gpu=gpus))
        made.write_bytes(built.data)
    record = compiled(builder=engine_class(device).package, axes={axis: UPTO_8 for axis in "BPC"})
    return ModelSource(made, record, make_manifest().inputs)


def test_the_graph_of_these_tests_compiles(model: Path, tmp_path: Path) -> None:
    """So that on a machine with a GPU a failure is the runtime's."""
    pytest.importorskip("tensorrt_rtx")
    shutil.copy(model, tmp_path / "model.onnx")
    assert source("trt-rtx", tmp_path / "model.onnx", ("sm86",)).path.stat().st_size > 1000


@pytest.mark.parametrize("device", REAL)
@pytest.mark.parametrize("batch", [1, 2])
def test_outputs_by_name(device: str, batch: int, model: Path) -> None:
    # ONNX Runtime cannot turn TF32 off in TensorRT; everything else computes fp32 in fp32.
    exact = 1e-2 if "bf16" in device else 5e-3 if device in ("ort-trt", "ort-nv-trt-rtx") else 1e-5
    with opened(device, model) as engine:
        outputs = engine.run(feeds(batch))
    assert set(outputs) == {spec.name for spec in make_manifest().outputs}
    np.testing.assert_allclose(outputs["boxes_xyxy"], np.broadcast_to(BOXES_XYXY, (batch, QUERIES, 4)), atol=exact)
    # The third of three phrases is (1, 2, 3) x 0.6; the first image is white, the second has a fifth of that.
    best = np.array([0.6, 1.2, 1.8, 0, 0, 0])
    np.testing.assert_allclose(outputs["scores"], np.outer([1, 0.2][:batch], best), atol=exact)
    assert outputs["phrase_ids"][:, :3].tolist() == [[2, 2, 2]] * batch
    assert outputs["class_ids"][:, :3].tolist() == [[1, 1, 1]] * batch
    assert outputs["class_ids"].dtype == np.int64


@pytest.mark.parametrize("device", REAL)
def test_one_engine_serves_banks_of_any_length(device: str, model: Path) -> None:
    with opened(device, model) as engine:
        for count in (1, 5, 2):
            one = [{"label": "x", "phrases": [f"phrase {i}" for i in range(count)]}]
            assert engine.run(feeds(1, one))["scores"][0, 0] == pytest.approx(0.2 * count, rel=1e-2)


@pytest.mark.parametrize("device", REAL)
def test_outputs_belong_to_the_caller(device: str, model: Path) -> None:
    with opened(device, model) as engine:
        first = engine.run(feeds(1))["scores"]
        before = first.copy()
        dark = feeds(1)
        dark["image"][:] = 0
        assert engine.run(dark)["scores"].max() == 0
        np.testing.assert_array_equal(first, before)


@pytest.mark.parametrize("at_once", [1, 2])
@pytest.mark.parametrize("device", REAL)
def test_requests_in_flight_are_answered_in_turn(device: str, at_once: int, model: Path) -> None:
    """Each by what it was fed, whatever became of those arrays since, and of a request before it."""
    with opened(device, model, 2, at_once) as engine:
        given = feeds(1)
        kept = {name: array.copy() for name, array in given.items()}
        white = engine.run(given)["scores"][0, :3].tolist()
        assert engine.in_flight >= (at_once if engine_class(device).on_gpu else at_once + 1)
        pending, levels = [], range(engine.in_flight)
        for level in levels:
            given["image"][:] = 255 if level % 2 else 0
            pending.append(engine.submit(given))
        given["image"][:] = 7
        answers = [engine.collect(one)["scores"][0, :3].tolist() for one in pending]
        assert answers == [white if level % 2 else [0, 0, 0] for level in levels]
        assert all((given[name] == array).all() for name, array in kept.items() if name != "image")
        assert (given["image"] == 7).all()
        for wrong in ({}, {**kept, "image": np.zeros((1, 3, 3, 3), np.uint8)}):
            with pytest.raises(EngineError, match="refuses"):
                engine.collect(engine.submit(wrong))
        assert engine.run(kept)["scores"][0, :3].tolist() == white


@pytest.mark.parametrize(("siblings", "cores"), [("0-1\n0-1\n2-3\n2-3", 2), ("0\n1\n2\n3", 4), ("", 4)])
def test_two_threads_of_a_core_are_one_core(
    siblings: str, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, text in enumerate(siblings.split()):
        (tmp_path / f"{number}").write_text(text)
    monkeypatch.setattr(base, "_SIBLINGS", f"{tmp_path}/{{}}")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(4), raising=False)
    assert base.cpu_cores() == cores


@pytest.mark.parametrize("device", REAL)
def test_threads_share_an_engine(device: str, model: Path) -> None:
    with opened(device, model) as engine, ThreadPoolExecutor(4) as pool:
        alone = {batch: engine.run(feeds(batch))["scores"].tolist() for batch in (1, 2, 3)}
        turns = [1, 2, 3] * 20
        found = pool.map(lambda batch: engine.collect(engine.submit(feeds(batch)))["scores"].tolist(), turns)
        assert list(found) == [alone[batch] for batch in turns]


@pytest.mark.parametrize("device", REAL)
def test_wrong_inputs_are_an_engine_error(device: str, model: Path) -> None:
    with opened(device, model, None) as engine:
        for wrong in ({}, {**feeds(1), "image": np.zeros((1, 3, 3, 3), np.uint8)}):
            with pytest.raises(EngineError, match="refuses"):
                engine.run(wrong)


@pytest.mark.parametrize("device", REAL)
@pytest.mark.parametrize("content", [b"", b"not onnx"])
def test_a_broken_model_is_an_engine_error(device: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(EngineError, match="refuses") as caught:
        opened(device, tmp_path / "model.onnx")
    assert caught.value.where == str(tmp_path / "model.onnx")


@pytest.mark.parametrize("device", ["fake", *REAL])
def test_a_closed_engine_says_so(device: str, model: Path) -> None:
    engine = opened(device, model)
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.run(feeds(1))


@pytest.mark.parametrize("device", REAL)
def test_nothing_is_written_beside_the_model(device: str, model: Path) -> None:
    with opened(device, model) as engine:
        engine.run(feeds(1))
    assert {path.name for path in model.parent.iterdir()} <= {"model.onnx", "trt.engine", "trt-rtx.engine"}


@pytest.mark.parametrize("device", ALL)
def test_an_absent_package_is_a_reason(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = "medprompt.runtime.engines.ort" if device.startswith("ort") else engine_class(device).__module__
    monkeypatch.setattr(f"{module}.find_spec", lambda name: None)
    assert engine_class(device).available() == f"{engine_class(device).package} is not installed"
    extras = {
        "ort-cpu": "cpu",
        "openvino": "cpu",
        "openvino-bf16": "cpu",
        "openvino-mixed": "cpu",
        "trt": "trt",
        "trt-rtx": "trt-rtx",
    }
    assert engine_class(device).extra == extras.get(device, "cuda")


def test_openvino_is_told_its_precision(model: Path) -> None:
    engine = opened("openvino", model)
    hint = engine._compiled.get_property("INFERENCE_PRECISION_HINT")
    assert "float32" in str(hint) or "f32" in str(hint)


def test_the_fake_engine_follows_its_rule() -> None:
    image = np.zeros((1, 4, 6, 3), np.uint8)
    image[0, :2, 3:] = 255
    image[0, 2:, :3] = 51
    with engine_class("fake").open(Path("none")) as engine:
        outputs = engine.run({**feeds(1), "image": image})
    np.testing.assert_allclose(outputs["scores"], [[0, 1, 0.2, 0]], atol=1e-6)
    assert outputs["class_ids"].tolist() == [[0, 1, 0, 1]]
    assert outputs["phrase_ids"].tolist() == [[0, 2, 0, 2]]
    np.testing.assert_array_equal(outputs["boxes_xyxy"][0], QUARTERS_XYXY)
    with engine_class("fake").open(Path("none")) as engine:
        one_pixel = engine.run({**feeds(1), "image": np.full((1, 1, 1, 3), 255, np.uint8)})
    assert one_pixel["scores"].tolist() == [[1, 0, 0, 0]]


@pytest.mark.gpu
@pytest.mark.parametrize("device", [device for device in ALL if engine_class(device).on_gpu])
def test_a_gpu_engine_answers_alike_over_many_calls_and_threads(device: str, model: Path) -> None:
    """Plain, captured and replayed runs, shapes in turn, four threads: memory does not grow after the first round."""
    with opened(device, model) as engine, ThreadPoolExecutor(4) as pool:
        expected = {batch: engine.run(feeds(batch))["scores"] for batch in (1, 2, 3)}
        free: list[int] = []
        for _ in range(5):
            answers = pool.map(lambda batch: (batch, engine.run(feeds(batch))["scores"]), [1, 2, 3] * 700)
            for batch, scores in answers:
                np.testing.assert_allclose(scores, expected[batch], atol=5e-3)
            free.append(free_gpu_memory())
        assert engine.fell_back == ""
    assert max(free[1:]) - min(free[1:]) < 64 << 20


def free_gpu_memory() -> int:
    """Bytes."""
    from cuda.bindings import runtime

    status, free, _ = runtime.cudaMemGetInfo()
    assert status == runtime.cudaError_t.cudaSuccess
    return int(free)


def test_the_real_libraries_without_a_driver_say_so(model: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    pytest.importorskip("cuda.bindings.runtime")
    if not engine_class("trt-rtx").available():
        pytest.skip("there is a GPU")
    with pytest.raises(EngineError, match="CUDA does not start") as caught:
        engine_class("trt-rtx").open(source("trt-rtx", model, ("sm86",)))
    assert caught.value.got == "cudaErrorInsufficientDriver"
    assert "newer NVIDIA driver" in caught.value.fix


INTERRUPTED = """
import faulthandler, gc, signal, sys, threading
from pathlib import Path
from medprompt.runtime.engines import engine_class
from medprompt.runtime.engines.base import ModelSource

faulthandler.enable()
kind, source = engine_class(sys.argv[1]), ModelSource(Path(sys.argv[2]))
first, second, third = (kind.open(source, 1) for _ in range(3))


def drop_in_a_thread():
    thread = threading.Thread(target=third.close)
    thread.start()
    thread.join()


for drop in (first.close, second.close, drop_in_a_thread):
    drop()
    gc.collect()
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        print("heard")
"""


@pytest.mark.parametrize("device", ["ort-cpu", "openvino"])
def test_ctrl_c_is_heard_after_engines_were_dropped(device: str, model: Path) -> None:
    """OpenVINO's cores take away the stack on which the signal is handled; see ``shared_core``."""
    if reason := engine_class(device).available():
        pytest.skip(reason)
    words = [sys.executable, "-c", INTERRUPTED, device, str(model)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.split()) == (0, ["heard"] * 3), done.stderr
