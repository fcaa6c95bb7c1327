"""``--precision auto-bf16``: bfloat16 where decisions bear it, for CPUs that have it, and what the others are told.

No CPU of the tests has bfloat16. Where one is wanted, OpenVINO is said to have found it; it then computes the typed
file in float32, as its CPU plug-in does where bfloat16 is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import openvino
import pytest

from medprompt.core.errors import EngineError
from medprompt.core.manifest import EngineRecord
from medprompt.export.bundle import ExportOptions, ExportReport, bundle_from_checkpoint
from medprompt.export.parity import check
from medprompt.export.precision.apply import check_precision
from medprompt.runtime.detector import Detector
from medprompt.runtime.engines import engine_class
from medprompt.runtime.engines.openvino import OpenVino, OpenVinoBf16, OpenVinoMixed
from tests.export.test_bundle import PROMPTS

MODEL = "model-auto-bf16.onnx"


@pytest.fixture(scope="module")
def has_bf16() -> Iterator[None]:
    """With decisions as few as those of four drawn images taken for enough."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(check, "least_share", lambda kept, decisions: kept)
        patch.setattr(OpenVinoMixed, "available", OpenVino.available)
        yield


@pytest.fixture(scope="module")
def exported(
    tiny_checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory, has_bf16: None
) -> ExportReport:
    folder = tmp_path_factory.mktemp("mixed") / "b"
    return bundle_from_checkpoint(tiny_checkpoint("owlvit"), PROMPTS, folder, ExportOptions(precision="auto-bf16"))


def record_of(report: ExportReport) -> EngineRecord:
    (found,) = (one for one in report.manifest.engines if one.device == "openvino-mixed")
    return found


def test_the_typed_file_is_bf16_and_its_engine_is_compared(exported: ExportReport) -> None:
    types = {tensor.data_type for tensor in onnx.load(str(exported.path / MODEL)).graph.initializer}
    assert onnx.TensorProto.BFLOAT16 in types
    record = record_of(exported)
    assert record.precision == "bf16" and record.parity is not None and record.latency_ms and record.load_ms
    assert record.parity.passed and record.parity.tolerance == exported.manifest.tolerances["bf16"]


def test_it_is_served_from_the_typed_file_with_the_files_own_types(
    exported: ExportReport, has_bf16: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, Any]] = []
    compiled = openvino.Core.compile_model

    def compile_model(core: Any, path: str, device: str, settings: dict[str, Any]) -> Any:
        asked.append((Path(path).name, settings["INFERENCE_PRECISION_HINT"]))
        return compiled(core, path, device, settings)

    monkeypatch.setattr(openvino.Core, "compile_model", compile_model)
    with Detector.load(exported.path, "openvino-mixed", self_test=True) as detector:
        assert detector.choice.self_test is not None and detector.choice.self_test.passed
    assert asked == [(MODEL, "f32")]


def test_a_cpu_without_it_refuses_by_name(exported: ExportReport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OpenVinoMixed, "available", classmethod(lambda cls: "this CPU does not compute bfloat16"))
    with pytest.raises(EngineError) as caught:
        Detector.load(exported.path, "openvino-mixed")
    assert "does not compute bfloat16" in str(caught.value)
    with Detector.load(exported.path) as detector:
        assert detector.choice.device in ("ort-cpu", "openvino")


def test_openvino_says_whether_the_cpu_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the hint bf16 without a word where the CPU has none, and computes in float32."""
    for found, refusal in ((["FP32", "BF16"], ""), (["FP32", "INT8"], "this CPU does not compute bfloat16")):
        monkeypatch.setattr(openvino.Core, "get_property", lambda core, device, name, found=found: found)
        assert {OpenVinoBf16.available(), super(OpenVinoMixed, OpenVinoMixed).available()} == {refusal}


def test_a_bundle_without_the_typed_file(has_bf16: None) -> None:
    with pytest.raises(EngineError) as caught:
        Detector.load(Path("tests/compatible/v0.1/bundle"), "openvino-mixed")
    assert "precision=auto-bf16" in caught.value.fix and caught.value.expected == MODEL


def test_the_choice_is_known() -> None:
    check_precision("auto-bf16", None)
    assert engine_class("openvino-mixed").arithmetic == "bf16"
