"""From a source image to decisions on an engine that resizes on its device, on doubles."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from medprompt.bundles.load import GOLDEN_FILE, save_golden, write_manifest
from medprompt.core.errors import EngineError, ImageError, OutOfMemoryError
from medprompt.core.manifest import EngineRecord, Preprocess
from medprompt.images.resize import resize_on_host
from medprompt.runtime import Detector
from medprompt.runtime.engines import engine_class
from medprompt.runtime.engines.base import ModelSource
from medprompt.runtime.engines.machine import Gpu, Machine
from tests.runtime.bundles import SIZE_HW, make_folder, make_manifest, record
from tests.runtime.engines.doubles import ENGINE_BYTES, compiled
from tests.runtime.engines.rigs import DEVICES, Rig, feeds, install
from tests.runtime.engines.tap_doubles import CUresult, DriverDouble

SPEC = Preprocess(size_hw=SIZE_HW, resample="bicubic")
SIZES_HW = [(31, 47), (97, 13), (1, 1), SIZE_HW, (120, 160)]
HERE = Machine((Gpu("RTX A4000", "sm86"),), "580.65", "linux-x86_64", {"tensorrt_rtx": "1.0"})


@pytest.fixture(params=DEVICES)
def rig(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Rig:
    """An engine that knows how a source becomes its image."""
    return opened(request.param, monkeypatch, tmp_path, SPEC)


def opened(device: str, monkeypatch: pytest.MonkeyPatch, folder: Path, spec: Preprocess | None) -> Rig:
    cuda, library = install(device, monkeypatch)
    path = folder / "test.engine"
    path.write_bytes(ENGINE_BYTES)
    source = ModelSource(path, compiled(), make_manifest().inputs, "polyp.bundle", preprocess=spec)
    return Rig(engine_class(device).open(source), cuda, library)  # type: ignore[arg-type]


def noise(size_hw: tuple[int, int], batch: int = 1) -> NDArray[np.uint8]:
    return np.random.default_rng(sum(size_hw)).integers(0, 256, (batch, *size_hw, 3), dtype=np.uint8)


def driver() -> DriverDouble:
    found = sys.modules["cuda.bindings.driver"]
    assert isinstance(found, DriverDouble)
    return found


def test_sources_of_any_size_decide_as_the_hosts_resize(rig: Rig) -> None:
    assert rig.engine.resizes
    for size_hw in [*SIZES_HW, *SIZES_HW]:
        for batch in (1, 3):
            images = noise(size_hw, batch)
            level = np.stack([resize_on_host(image, SPEC) for image in images]).mean(axis=(1, 2, 3)) / 255
            found = rig.engine.run({**feeds(), "image": images})
            np.testing.assert_allclose(found["scores"][:, 2], 1.8 * level, rtol=1e-5)
    rig.engine.close()
    assert rig.cuda.nothing_left()
    assert rig.library.faults == []


def test_one_context_serves_every_source_size(rig: Rig) -> None:
    for size_hw in SIZES_HW:
        for _ in range(3):
            rig.engine.run({**feeds(), "image": noise(size_hw)})
    assert len(rig.library.contexts) == 1


def test_the_resize_is_part_of_the_captured_graph(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rig = opened("trt", monkeypatch, tmp_path, SPEC)
    for _ in range(4):
        rig.engine.run({**feeds(), "image": noise((31, 47))})
    # Once before the capture, once into the graph; then the graph alone.
    assert driver().launches == ["fixed_u8_u8"] * 4
    assert rig.cuda.calls["cudaGraphLaunch"] == 3


def test_only_the_source_is_sent_again(rig: Rig) -> None:
    for _ in range(3):
        fed = {**feeds(), "image": noise((31, 47))}
        rig.engine.run(fed)
    before = rig.cuda.copied["h2d"]
    rig.engine.run(fed)
    assert rig.cuda.copied["h2d"] - before == len(fed)  # and no table of taps


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("spec", [None, SPEC.model_copy(update={"placement": "graph"})])
def test_a_graph_that_resizes_itself_is_fed_as_it_was(
    device: str, spec: Preprocess | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rig = opened(device, monkeypatch, tmp_path, spec)
    assert not rig.engine.resizes
    assert rig.engine.run(feeds())["scores"][0, 2] == pytest.approx(1.8)
    with pytest.raises(EngineError, match="refuses"):
        rig.engine.run({**feeds(), "image": noise((31, 47))})


def test_a_thread_without_a_context_of_its_own_can_launch(rig: Rig) -> None:
    fed = {**feeds(), "image": noise((31, 47))}
    wanted = rig.engine.run(fed)["scores"]
    found: list[NDArray[Any]] = []
    thread = threading.Thread(target=lambda: found.append(rig.engine.run(fed)["scores"]))
    thread.start()
    thread.join()
    np.testing.assert_array_equal(found[0], wanted)


def test_two_requests_in_flight_do_not_mix(rig: Rig) -> None:
    requests = [{**feeds(), "image": noise(size_hw)} for size_hw in SIZES_HW]
    wanted = [rig.engine.run(fed)["scores"] for fed in requests]
    first = rig.engine.submit(requests[0])
    for index, fed in enumerate(requests[1:]):
        second = rig.engine.submit(fed)
        np.testing.assert_array_equal(rig.engine.collect(first)["scores"], wanted[index])
        first = second
    np.testing.assert_array_equal(rig.engine.collect(first)["scores"], wanted[-1])


@pytest.mark.parametrize(
    ("status", "kind"),
    [(CUresult.CUDA_ERROR_UNSUPPORTED_PTX_VERSION, EngineError), (CUresult.CUDA_ERROR_OUT_OF_MEMORY, OutOfMemoryError)],
)
def test_a_driver_that_refuses_the_kernels_is_our_error(rig: Rig, status: CUresult, kind: type[EngineError]) -> None:
    driver().fail_next["cuModuleLoadData"] = status
    with pytest.raises(kind, match="resize failed"):
        rig.engine.run({**feeds(), "image": noise((31, 47))})
    assert rig.engine.run({**feeds(), "image": noise((31, 47))})["scores"].shape == (1, 6)


@pytest.fixture
def bundle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], Path]:
    """A bundle with a TensorRT-RTX engine, golden images of several sizes and a CPU that can step in."""
    monkeypatch.setattr("medprompt.runtime.selection.records.read_gpus", lambda: (HERE.gpus, ""))
    monkeypatch.setattr("medprompt.runtime.selection.records.read_machine", lambda packages: HERE)
    monkeypatch.setattr("medprompt.runtime.engines.tensorrt.TensorRt.available", lambda: "")
    engine = EngineRecord(device="trt-rtx", precision="fp32", reason="no GPU", compiled=compiled())
    path = make_folder(tmp_path / "bundle")
    (path / "engines").mkdir()
    (path / "engines/test.engine").write_bytes(ENGINE_BYTES)
    manifest = make_manifest(engines=(engine, record("ort-cpu")), preprocess=SPEC)
    write_manifest(path, manifest)
    images = [noise(size_hw)[0] for size_hw in ((31, 47), (97, 13), (60, 60), (24, 90))]
    with Detector.load(path, "ort-cpu", threshold=0.0, self_test=False) as detector:
        save_golden(path / GOLDEN_FILE, images, [detector(image) for image in images])
    write_manifest(path, manifest)
    return lambda: path


def test_a_detector_passes_sources_and_its_self_test_proves_the_resize(
    bundle: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, library = install("trt-rtx", monkeypatch)
    images = [noise(size_hw)[0] for size_hw in [*SIZES_HW, (31, 47)]]
    with Detector.load(bundle(), threshold=0.0) as on_gpu, Detector.load(bundle(), "ort-cpu", threshold=0.0) as on_cpu:
        assert on_gpu.choice.device == "trt-rtx"
        assert on_gpu.choice.self_test is not None
        assert on_gpu.choice.self_test.kept == 1.0
        assert np.shares_memory(on_gpu.image_feeds(images[:1])["image"], images[0])  # not resized, not copied
        for found, wanted in zip(on_gpu.batch(images), on_cpu.batch(images), strict=True):
            np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-6)
            np.testing.assert_allclose(found.boxes_xyxy, wanted.boxes_xyxy, atol=1e-3)
        streamed = [found.scores for found in on_gpu.stream(images)]
        np.testing.assert_array_equal(np.stack(streamed), np.stack([on_gpu(image).scores for image in images]))
        with pytest.raises(ImageError):
            on_gpu(np.zeros((4, 4), np.uint8))
    assert library.faults == []


def test_kernels_that_compute_otherwise_are_refused_by_the_self_test(
    bundle: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    install("trt-rtx", monkeypatch)
    driver().run = lambda *launch: None
    with Detector.load(bundle()) as detector:
        assert detector.choice.device == "ort-cpu"
        assert "after trt-rtx" in detector.choice.reason


def test_auto_steps_down_where_the_driver_is_too_old_for_the_kernels(
    bundle: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    install("trt-rtx", monkeypatch)
    driver().fail_next["cuModuleLoadData"] = CUresult.CUDA_ERROR_UNSUPPORTED_PTX_VERSION
    with Detector.load(bundle()) as detector:
        assert detector.choice.device == "ort-cpu"
        assert "CUDA_ERROR_UNSUPPORTED_PTX_VERSION" in str(detector.choice.rejected)
    install("trt-rtx", monkeypatch)
    driver().fail_next["cuModuleLoadData"] = CUresult.CUDA_ERROR_UNSUPPORTED_PTX_VERSION
    with pytest.raises(EngineError, match="resize failed"):
        Detector.load(bundle(), "trt-rtx")
