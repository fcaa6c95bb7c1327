"""The engine that serves: GPU engines with a self-test here, the next in order after a failure, nothing in silence."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pytest
from numpy.typing import NDArray

from medprompt.bundles.load import GOLDEN_FILE, load_bundle, save_golden, write_manifest
from medprompt.core.errors import BundleError, EngineError, MedpromptError, ParityError
from medprompt.core.manifest import AxisRange, EngineRecord, Tolerance
from medprompt.runtime import Detector, engines
from medprompt.runtime.engines.base import ModelSource
from medprompt.runtime.engines.fake import Fake
from medprompt.runtime.engines.machine import Gpu, Machine
from medprompt.runtime.selection.records import display_name
from medprompt.runtime.selection.selftest import check_golden, tolerance_of_device
from medprompt.runtime.verify import verify_bundle, verify_on_device
from tests.runtime.bundles import make_bundle, make_folder, make_manifest, record
from tests.runtime.engines.doubles import compiled

pytestmark = pytest.mark.usefixtures("gpu")

HERE = Machine((Gpu("RTX A4000", "sm86"),), "580.65", "linux-x86_64", {"tensorrt_rtx": "1.0"})


class GpuEngine(Fake):
    """A compiled engine that answers as ``Fake`` does; by precision: scores less ``shift``, a ``refusal`` to load."""

    needs_compiled: ClassVar[bool] = True
    on_gpu: ClassVar[bool] = True
    shift: ClassVar[Mapping[str, float]] = {}
    refusal: ClassVar[Mapping[str, str]] = {}
    opened: ClassVar[list[Path]] = []
    closed: ClassVar[list[Path]] = []

    def __init__(self, source: ModelSource) -> None:
        super().__init__()
        self.source = source

    @classmethod
    def open(cls, model: ModelSource | Path, threads: int | None = None) -> Self:
        assert isinstance(model, ModelSource)
        assert model.compiled is not None
        if model.compiled.precision in cls.refusal:
            raise EngineError("the library refuses the engine.", got=cls.refusal[model.compiled.precision])
        cls.opened.append(model.path)
        return cls(model)

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        outputs = super().run(feeds)
        assert self.source.compiled is not None
        outputs["scores"] = outputs["scores"] - np.float32(self.shift.get(self.source.compiled.precision, 0))
        return outputs

    def close(self) -> None:
        super().close()
        self.closed.append(self.source.path)


class Fallen(Fake):
    """A GPU provider that fell back."""

    on_gpu: ClassVar[bool] = True
    raised: ClassVar[Exception] = EngineError("it fell back", got="CPUExecutionProvider")

    @classmethod
    def open(cls, model: Any, threads: int | None = None) -> Self:
        raise cls.raised


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a GPU, as far as the choice is concerned."""
    for device, name in (("trt", "GpuEngine"), ("trt-rtx", "GpuEngine"), ("ort-cuda", "Fallen")):
        monkeypatch.setitem(engines.ENGINES, device, f"{__name__}:{name}")
    monkeypatch.setattr("medprompt.runtime.selection.records.read_gpus", lambda: (HERE.gpus, ""))
    monkeypatch.setattr("medprompt.runtime.selection.records.read_machine", lambda packages: HERE)
    for name, value in (("shift", {}), ("refusal", {}), ("opened", []), ("closed", [])):
        monkeypatch.setattr(GpuEngine, name, value)


def engine(precision: str = "fp32", device: str = "trt-rtx", **changes: Any) -> EngineRecord:
    """The record of an engine that was compiled on a build server."""
    changes = {"path": f"engines/{precision}.engine", "precision": precision} | changes
    return EngineRecord(
        device=device, precision=precision, reason="compiled without a GPU", compiled=compiled(**changes)
    )


CPU = record("fake", 5.0)


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """``folder(*records)``: a bundle with golden images and engine files."""

    def made(*records: EngineRecord, golden: bool = True, **changes: Any) -> Path:
        path, manifest = make_folder(tmp_path / "bundle"), make_manifest(engines=records, **changes)
        (path / "engines").mkdir()
        for entry in records:
            if entry.compiled:
                (path / entry.compiled.path).write_bytes(entry.precision.encode())
        write_manifest(path, manifest)
        if golden:
            add_golden(path)
            write_manifest(path, manifest)
        return path

    return made


def add_golden(path: Path) -> None:
    """Images with many grey levels and what ``Fake`` says of them."""
    bundle = load_bundle(path)
    images = [np.random.default_rng(seed).integers(60, 256, (16, 24, 3)).astype(np.uint8) for seed in range(6)]
    with Detector.load(bundle, device="fake", threshold=0.0, self_test=False) as detector:
        save_golden(path / GOLDEN_FILE, images, [detector(image) for image in images])


def test_an_engine_of_a_build_server_serves_after_its_self_test(folder: Callable[..., Path]) -> None:
    with Detector.load(folder(engine(), CPU)) as detector:
        choice = detector.choice
    assert choice.device == "trt-rtx"
    assert choice.self_test is not None
    assert (choice.self_test.kept, choice.self_test.decisions, choice.self_test.images) == (1.0, 24, 6)
    assert choice.reason.startswith(
        "first device of the order that can run here, not measured at export; self-test passed: "
        "kept 100.00% of 24 decisions on 6 golden images"
    )
    assert GpuEngine.opened == [detector.bundle.path / "engines/fp32.engine"]


@pytest.mark.parametrize(("shift", "device"), [(0.009, "trt-rtx"), (0.02, "fake")])
def test_a_failing_engine_is_refused_with_its_numbers_and_the_next_serves(
    folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, shift: float, device: str
) -> None:
    monkeypatch.setattr(GpuEngine, "shift", {"fp32": shift})
    with Detector.load(folder(engine(), CPU)) as detector:
        choice = detector.choice
    assert choice.device == device
    if device == "fake":
        assert choice.rejected[0][0] == "trt-rtx (fp32, sm86)"
        assert "kept 0.00% of 24 decisions on 6 golden images" in choice.rejected[0][1]
        assert "after trt-rtx (fp32, sm86) failed here" in choice.reason
        assert GpuEngine.opened == GpuEngine.closed


def test_a_failed_engine_is_gone_before_the_next_is_loaded(
    folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two models at once may not fit into the memory."""
    made: list[weakref.ref[GpuEngine]] = []
    alive: list[int] = []

    def opened(cls: type[GpuEngine], model: ModelSource, threads: int | None = None) -> GpuEngine:
        gc.collect()
        alive.append(sum(one() is not None for one in made))
        engine = cls(model)
        made.append(weakref.ref(engine))
        return engine

    def refusing(self: GpuEngine, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        try:
            int("the library's own error")
        except ValueError as error:
            raise EngineError("It does not compute.") from error

    monkeypatch.setattr(GpuEngine, "open", classmethod(opened))
    monkeypatch.setattr(GpuEngine, "run", refusing)
    with Detector.load(folder(engine(), engine("fp16"), engine("bf16"), CPU)) as detector:
        assert detector.choice.device == "fake"
        assert alive == [0, 0, 0]
        gc.collect()
        assert [one() for one in made] == [None] * 3


def test_strict_refuses_the_step_down_after_a_failed_self_test(
    folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GpuEngine, "shift", {"fp32": 0.5})
    with pytest.raises(ParityError, match="failed its self-test") as caught:
        Detector.load(folder(engine(), CPU), strict=True)
    assert caught.value.exit_code == 3
    assert GpuEngine.opened == GpuEngine.closed


def test_the_engines_of_one_device_are_tried_in_turn(
    folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GpuEngine, "shift", {"fp16": 0.5})
    monkeypatch.setattr(GpuEngine, "refusal", {"auto": "Error Code 6"})
    path = folder(engine("fp32"), engine("fp16"), engine("auto"), CPU)
    for device in ("auto", "trt-rtx"):
        with Detector.load(path, device=device) as detector:
            choice = detector.choice
        assert choice.record is not None
        assert (choice.device, choice.record.precision) == ("trt-rtx", "fp32")
        assert [name for name, _ in choice.rejected][:2] == ["trt-rtx (auto, sm86)", "trt-rtx (fp16, sm86)"]
        assert choice.rejected[0][1] == "the library refuses the engine: Error Code 6"


@pytest.mark.parametrize("most", [1, 2, 8])
def test_batches_are_as_large_as_the_engine_was_compiled_for(
    folder: Callable[..., Path], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []
    run = GpuEngine.run
    monkeypatch.setattr(GpuEngine, "run", lambda self, feeds: batches.append(len(feeds["image"])) or run(self, feeds))
    axes = {axis: AxisRange(least=1, typical=1, most=size) for axis, size in {"B": most, "P": 64, "C": 64}.items()}
    with Detector.load(folder(engine(axes=axes), CPU)) as detector:
        batches.clear()
        found = detector.batch([np.full((8, 12, 3), level, np.uint8) for level in (250, 200, 150)])
    assert batches == {1: [1, 1, 1], 2: [2, 1], 8: [3]}[most]
    assert [len(one) > 0 for one in found] == [True] * 3


@pytest.mark.parametrize(("tf32", "said"), [(False, "fp32"), (True, "fp32 with TF32"), (None, "fp32 with TF32")])
def test_an_engine_that_may_round_to_tf32_says_so(tf32: bool | None, said: str) -> None:
    """One that does not say was compiled with its builder's default, which allows it."""
    assert display_name(engine(tf32=tf32)) == f"trt-rtx ({said}, sm86)"


def test_tensorrt_goes_before_tensorrt_rtx(folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    both = Machine(HERE.gpus, HERE.driver, HERE.system, {"tensorrt": "10.9", "tensorrt_rtx": "1.0"})
    monkeypatch.setattr("medprompt.runtime.selection.records.read_machine", lambda packages: both)
    first = engine("fp16", "trt", builder="tensorrt", builder_version="10.9", gpu_names=(HERE.gpus[0].name,))
    with Detector.load(folder(CPU, engine(), first)) as detector:
        assert detector.choice.device == "trt"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"gpus": ("sm89",)}, "built for sm89, found RTX A4000 (sm86); rebuild: medprompt compile"),
        ({"builder_version": "0.9"}, "built with tensorrt_rtx 0.9, found 1.0"),
        ({"system": "linux-aarch64"}, "built for linux-aarch64, found linux-x86_64"),
    ],
)
def test_an_engine_for_another_machine_is_passed_over_with_the_reason(
    folder: Callable[..., Path], changes: dict[str, Any], why: str
) -> None:
    path = folder(engine(**changes), CPU)
    with Detector.load(path) as detector:
        choice = detector.choice
    assert choice.device == "fake"
    assert choice.rejected[0][0].startswith("trt-rtx (fp32, ")
    assert why in choice.rejected[0][1]
    assert choice.reason.endswith(f"after 1 faster that cannot run here: {choice.rejected[0][0]}")
    assert not GpuEngine.opened
    with pytest.raises(EngineError, match="strict=True"):
        Detector.load(path, strict=True)
    with pytest.raises(EngineError, match="trt-rtx cannot run here") as caught:
        Detector.load(path, device="trt-rtx")
    assert why in caught.value.got


def test_another_engine_file_of_the_device_is_no_step_down(folder: Callable[..., Path]) -> None:
    other = engine("fp16", gpus=("sm120",))
    with Detector.load(folder(other, engine(), CPU), strict=True) as detector:
        assert detector.choice.record is not None
        assert detector.choice.record.precision == "fp32"


def test_without_a_gpu_the_cpu_serves_and_the_engine_is_named(
    folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "medprompt.runtime.selection.records.read_gpus", lambda: ((), "no NVIDIA driver (libcuda) was found")
    )
    with Detector.load(folder(engine(), CPU)) as detector:
        assert detector.choice.device == "fake"
        assert detector.choice.rejected == (("trt-rtx (fp32, sm86)", "no GPU: no NVIDIA driver (libcuda) was found"),)


def test_a_gpu_provider_that_nobody_measured_is_no_step_down(
    folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Fallen, "available", classmethod(lambda cls: "no GPU: no driver"))
    unmeasured = record("ort-cuda", None, passed=None, reason="no GPU there")
    with Detector.load(folder(unmeasured, CPU), strict=True) as detector:
        choice = detector.choice
    assert (choice.device, choice.rejected) == ("fake", (("ort-cuda", "no GPU: no driver"),))
    assert choice.reason == "fastest device with parity proven at export (5.0 ms an image there)"


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (EngineError("it fell back", got="CPUExecutionProvider"), "it fell back: CPUExecutionProvider"),
        (
            TypeError("pybind11::init(): factory function returned nullptr"),
            "ort-cuda refuses the model or its inputs: pybind11::init(): factory function returned nullptr",
        ),
        (OSError("libnvinfer.so.10"), "ort-cuda refuses the model or its inputs: libnvinfer.so.10"),
    ],
    ids=["our error", "a constructor that answers NULL", "a library that is missing"],
)
def test_what_fails_to_load_is_never_served_and_never_a_traceback(
    raised: Exception, said: str, folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Fallen, "raised", raised)
    path = folder(record("ort-cuda", None, passed=None, reason="no GPU there"), CPU)
    with Detector.load(path) as detector:
        assert detector.choice.device == "fake"
        assert detector.choice.rejected[0] == ("ort-cuda", said)
    with pytest.raises(EngineError):
        Detector.load(path, device="ort-cuda")


def test_what_was_measured_on_a_gpu_here_goes_before_what_was_not(folder: Callable[..., Path]) -> None:
    proven = engine("fp16").model_copy(update={"parity": CPU.parity, "latency_ms": 2.0})
    with Detector.load(folder(engine("auto"), proven, CPU)) as detector:
        choice = detector.choice
    assert choice.record is not None
    assert (choice.record.precision, choice.self_test) == ("fp16", None)
    assert choice.reason == "fastest device with parity proven at export (2.0 ms an image there)"


def test_a_failed_parity_is_never_served(folder: Callable[..., Path]) -> None:
    failed = engine().model_copy(update={"parity": record("x", passed=False).parity})
    path = folder(failed, CPU)
    with Detector.load(path) as detector:
        assert detector.choice.device == "fake"
        assert detector.choice.rejected[0][1].startswith("its parity failed at export")
    with pytest.raises(EngineError, match="cannot run here"):
        Detector.load(path, device="trt-rtx")


def test_without_golden_images_an_engine_that_never_ran_is_not_chosen(folder: Callable[..., Path]) -> None:
    path = folder(engine(), CPU, golden=False)
    with Detector.load(path) as detector:
        assert detector.choice.device == "fake"
        assert "compiled without a GPU" in detector.choice.rejected[0][1]
    with pytest.raises(EngineError, match="Nothing proves"):
        Detector.load(path, device="trt-rtx")
    with pytest.raises(EngineError, match="not proven"):
        Detector.load(path, device="trt-rtx", strict=True)
    with Detector.load(path, device="trt-rtx", self_test=False) as detector:
        assert detector.choice.self_test is None


def test_a_device_without_an_engine_file_offers_the_command(folder: Callable[..., Path]) -> None:
    path = folder(CPU)
    with pytest.raises(EngineError, match="no engine file for trt") as caught:
        Detector.load(path, device="trt")
    assert caught.value.fix == f"medprompt compile {path} --engine trt"


def test_when_nothing_is_left_every_reason_is_told(
    folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GpuEngine, "shift", {"fp32": 0.5, "fp16": 0.5})
    path = folder(engine("fp32"), engine("fp16"))
    with pytest.raises(ParityError, match="No engine of the bundle can serve") as caught:
        Detector.load(path)
    assert caught.value.got.count("kept 0.00% of 24") == 2
    monkeypatch.setattr(GpuEngine, "refusal", {"fp16": "Error Code 6"})
    with pytest.raises(EngineError, match="No engine of the bundle can serve"):
        Detector.load(path)


@pytest.mark.parametrize(("asked", "run"), [(None, False), (True, True), (False, False)])
def test_a_proven_engine_is_tested_when_asked_for(folder: Callable[..., Path], asked: bool | None, run: bool) -> None:
    with Detector.load(folder(CPU), self_test=asked) as detector:
        assert (detector.choice.self_test is not None) is run


def test_a_self_test_that_was_asked_for_needs_golden_images(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no golden images"):
        Detector.load(make_folder(tmp_path / "bundle", engines=(CPU,)), self_test=True)


def test_another_bank_does_not_disturb_the_self_test(folder: Callable[..., Path]) -> None:
    with Detector.load(folder(engine(), CPU), labels=["WBC"]) as detector:
        assert detector.choice.self_test is not None
        assert detector.choice.self_test.kept == 1.0
        assert detector.bank.labels == ("WBC",)


@pytest.mark.parametrize(
    ("precision", "tolerances", "expected"),
    [
        ("fp16", {"fp16": Tolerance(min_kept=0.9)}, 0.9),
        ("auto", {"fp16": Tolerance(min_kept=0.9)}, 0.9),
        ("int8", {"fp16": Tolerance(min_kept=0.9), "int8": Tolerance(min_kept=0.8)}, 0.8),
        ("int8", {}, 0.995),
    ],
)
def test_the_tolerance_is_that_of_the_precision(
    tmp_path: Path, precision: str, tolerances: dict[str, Tolerance], expected: float
) -> None:
    bundle = make_bundle(tmp_path / "bundle", engines=(CPU,), tolerances=tolerances)
    assert tolerance_of_device(bundle, "trt-rtx", precision).min_kept == expected
    assert tolerance_of_device(bundle, "fake").min_kept == 0.995


def test_verify_names_the_engine_and_its_numbers(folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder(engine(), CPU)
    found = verify_on_device(path)
    assert (found.choice.device, found.parity.passed) == ("trt-rtx", True)
    monkeypatch.setattr(GpuEngine, "shift", {"fp32": 0.5})
    assert verify_on_device(path).choice.device == "fake"
    named = verify_bundle(path, "trt-rtx")
    assert (named.passed, named.kept) == (False, 0.0)


def test_a_self_test_sees_one_wrong_image(folder: Callable[..., Path]) -> None:
    bundle = load_bundle(folder(CPU))
    seen: list[int] = []
    with Detector.load(bundle, threshold=0.0) as detector:

        def wrong_once(image: NDArray[np.uint8]) -> Any:
            seen.append(len(seen))
            return detector(image)[:0] if len(seen) == 2 else detector(image)

        parity = check_golden(bundle, wrong_once, Tolerance())
    assert (parity.passed, parity.kept) == (False, pytest.approx(20 / 24))


def test_a_changed_engine_file_is_refused_at_the_moment_of_loading(folder: Callable[..., Path]) -> None:
    path = folder(engine(), CPU)
    bundle = load_bundle(path)
    (path / "engines/fp32.engine").write_bytes(b"fp33")
    with Detector.load(bundle) as detector:
        assert detector.choice.device == "fake"
        assert "has changed" in detector.choice.rejected[0][1]
    with pytest.raises(MedpromptError):
        Detector.load(path)
