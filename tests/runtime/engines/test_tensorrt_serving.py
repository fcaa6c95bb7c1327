"""A bundle whose engine is TensorRT's, on doubles: what a detector makes of its faults."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest

from medprompt.bundles.load import write_manifest
from medprompt.core.errors import EngineError, OutOfMemoryError
from medprompt.runtime import Detector
from medprompt.runtime.engines.machine import Gpu, Machine
from tests.runtime.bundles import make_folder, make_manifest, record
from tests.runtime.engines.cuda_double import CudaDouble
from tests.runtime.engines.doubles import ENGINE_BYTES, TrtDouble, compiled
from tests.runtime.engines.rigs import install

HERE = Machine((Gpu("RTX A4000", "sm86"),), "580.65", "linux-x86_64", {"tensorrt_rtx": "1.0"})


@pytest.fixture
def doubles(monkeypatch: pytest.MonkeyPatch) -> tuple[CudaDouble, TrtDouble]:
    monkeypatch.setattr("medprompt.runtime.selection.records.read_gpus", lambda: (HERE.gpus, ""))
    monkeypatch.setattr("medprompt.runtime.selection.records.read_machine", lambda packages: HERE)
    monkeypatch.setattr("medprompt.runtime.engines.tensorrt.TensorRt.available", lambda: "")
    return install("trt-rtx", monkeypatch)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """With an engine of TensorRT-RTX, and the CPU's for when that one fails."""
    engine = record("trt-rtx", latency_ms=1.0).model_copy(update={"compiled": compiled()})
    path, manifest = make_folder(tmp_path / "bundle"), make_manifest(engines=(engine, record("fake")))
    (path / "engines").mkdir()
    (path / compiled().path).write_bytes(ENGINE_BYTES)
    write_manifest(path, manifest)
    return path


@pytest.mark.parametrize("factory", ["Runtime", "deserialize_cuda_engine", "create_runtime_config"])
def test_auto_steps_down_with_the_librarys_reason(
    factory: str, bundle: Path, doubles: tuple[CudaDouble, TrtDouble]
) -> None:
    doubles[1].refuses.add(factory)
    with Detector.load(bundle) as detector:
        assert detector.choice.device == "fake"
        assert len(detector(np.full((30, 40, 3), 255, np.uint8))) > 0
    why = dict(detector.choice.rejected)["trt-rtx (fp32, sm86)"]
    assert "error: 35" in why or "makes no runtime configuration" in why
    with pytest.raises(EngineError) as caught:
        Detector.load(bundle, device="trt-rtx")
    assert caught.value.exit_code == 2


def test_a_batch_that_does_not_fit_is_halved(bundle: Path, doubles: tuple[CudaDouble, TrtDouble]) -> None:
    cuda, library = doubles
    images = [np.full((30, 40, 3), level, np.uint8) for level in (0, 51, 102, 153, 204, 255)]
    with Detector.load(bundle, threshold=0.01) as detector:
        assert detector.choice.device == "trt-rtx"
        alone = [detector(image).scores.tolist() for image in images]
        cuda.memory, library.workspace = 450_000, 100_000  # bytes, and bytes an image
        assert [found.scores.tolist() for found in detector.batch(images)] == alone
        with pytest.raises(OutOfMemoryError):
            detector.batch(images * 2)
    gc.collect()
    assert cuda.nothing_left()
    assert library.faults == []


def test_prompts_are_sent_once(bundle: Path, doubles: tuple[CudaDouble, TrtDouble]) -> None:
    with Detector.load(bundle) as detector:
        first = len(detector.manifest.inputs) + 4  # the taps of the resize: starts and weights of rows and columns
        for turn, level in enumerate((0, 51, 255)):
            before = doubles[0].copied["h2d"]
            detector(np.full((30, 40, 3), level, np.uint8))
            assert doubles[0].copied["h2d"] - before == (first if turn == 0 else 1)


def test_a_stream_has_two_requests_in_flight(bundle: Path, doubles: tuple[CudaDouble, TrtDouble]) -> None:
    frames = [np.full((30, 40, 3), level, np.uint8) for level in (0, 51, 255, 102, 204, 51)]
    with Detector.load(bundle, threshold=0.0) as detector:
        alone = [detector(frame).scores.tolist() for frame in frames]
        assert [found.scores.tolist() for found in detector.stream(iter(frames))] == alone
    assert len(doubles[1].contexts) == 2
    gc.collect()
    assert doubles[0].nothing_left()
