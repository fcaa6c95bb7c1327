"""The precision step of an export: typed model and report in the bundle, or no bundle."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from medprompt.bundles.load import load_bundle
from medprompt.core.errors import ImageError, InputError, MedpromptError, ParityError
from medprompt.core.manifest import ParityRecord, Tolerance
from medprompt.core.progress import Silent
from medprompt.export.bundle import ExportOptions, ExportReport, bundle_from_checkpoint
from medprompt.export.families.owlvit import OwlViT
from medprompt.export.graph import onnx_export
from medprompt.export.parity.check import ParityCheck
from medprompt.export.parity.images import drawn_image, parity_images
from medprompt.export.precision import choose
from medprompt.export.precision.apply import check_precision, tf32_record
from medprompt.export.precision.blocks import blocks_of_model
from medprompt.export.precision.cast import check_strongly_typed
from medprompt.export.precision.choose import PrecisionSelector
from medprompt.export.precision.fp8 import FP8_TOP, INT8_TOP
from medprompt.export.precision.measure import DecisionMeasure, ModelDetector
from medprompt.export.precision.quantise import calibration_feeds, quantised_model
from medprompt.runtime.verify import verify_bundle
from tests.export.test_bundle import PROMPTS

KINDS: tuple[Literal["int8", "fp8"], ...] = ("int8", "fp8")


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Callable[[str], Path]) -> Path:
    return tiny_checkpoint("owlvit")


@pytest.fixture(scope="module")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> ExportReport:
    return bundle_from_checkpoint(
        checkpoint, PROMPTS, tmp_path_factory.mktemp("typed") / "auto", ExportOptions(precision="auto", tf32=True)
    )


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for seed in range(3):
        Image.fromarray(drawn_image((70, 90), seed)).save(folder / f"{seed}.png")
    return folder


@pytest.fixture(scope="module")
def measure(exported: ExportReport) -> DecisionMeasure:
    """Against the fp32 model itself, on the drawn images."""
    bundle, images = load_bundle(exported.path), parity_images(None)
    with ModelDetector(bundle, bundle.model) as detector:
        references = [detector(image) for image in images]
    return DecisionMeasure(bundle, images, references, Tolerance(min_kept=1.0))


def test_auto_adds_a_typed_model_and_its_plan(exported: ExportReport) -> None:
    bundle = load_bundle(exported.path)
    assert {"model.onnx", "model-auto.onnx", "reports/precision.json", "reports/parity.json"} <= set(
        bundle.manifest.files
    )
    typed = onnx.load(str(exported.path / "model-auto.onnx"))
    check_strongly_typed(typed)
    assert onnx.TensorProto.FLOAT16 in {tensor.data_type for tensor in typed.graph.initializer}
    assert verify_bundle(exported.path, "ort-cpu").passed
    assert "model-auto.onnx" in (exported.path / "sbom.json").read_text()


def test_the_report_holds_the_plan(exported: ExportReport) -> None:
    report = json.loads((exported.path / "reports/precision.json").read_text())
    assert exported.precision is not None
    assert report == json.loads(json.dumps(exported.precision.summary()))
    assert report["blocks"][0]["block"] == "backbone.embed"
    assert sum(entry["flops_share"] for entry in report["blocks"]) == pytest.approx(1.0)
    assert all(0 <= entry["alone"]["kept"] <= 1 for entry in report["blocks"])
    assert report["parity"]["rounded"]["passed"] and report["parity"]["typed"]["passed"]
    assert report["parity"]["naive"]["decisions"] == report["parity"]["typed"]["decisions"] > 0
    assert report["tf32"] is True
    assert 0 < report["estimated_ms"]["chosen"] < report["estimated_ms"]["fp32"]
    assert [island["ms"] for island in report["islands"]] == sorted((i["ms"] for i in report["islands"]), reverse=True)
    tf32 = load_bundle(exported.path).manifest.tf32
    assert tf32["fp32"].passed and tf32["fp32"].max_score_delta > 0
    assert tf32["auto"] == exported.precision.rounded
    half = [entry for entry in report["blocks"] if entry["kind"] == "fp16"]
    assert report["half_flops_share"] == pytest.approx(sum(entry["flops_share"] for entry in half))


def test_a_model_that_tf32_breaks_is_refused(measure: DecisionMeasure) -> None:
    strict: Any = SimpleNamespace(tolerances={"fp32": Tolerance(min_kept=1.0, max_score_delta=1e-9)})
    with pytest.raises(ParityError, match="with TF32 products; no bundle was made") as caught:
        tf32_record(ParityCheck(strict, measure.bundle.path, measure.images, measure.references, 0.2, Silent()))
    assert (caught.value.exit_code, caught.value.where) == (3, "tf32")


def test_weights_beside_the_file_are_no_obstacle(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As at full size: each trial's file lies in a folder of its own, which is gone when the next model is made."""
    monkeypatch.setattr(onnx_export, "EXTERNAL_OVER_BYTES", 1000)
    bundle_from_checkpoint(checkpoint, PROMPTS, tmp_path / "b", ExportOptions(precision="auto"))
    assert (tmp_path / "b" / "model-auto.onnx.data").is_file()
    assert verify_bundle(tmp_path / "b", "ort-cpu").passed


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_precision_that_fails_makes_no_bundle_and_names_the_block(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: Any
) -> None:
    strict = Tolerance(min_kept=0.95, max_score_delta=2e-5)  # fp32 keeps all, half keeps few
    monkeypatch.setattr(OwlViT, "tolerances", {**OwlViT.tolerances, precision: strict})
    with pytest.raises(ParityError, match=f"in {precision} decides otherwise") as caught:
        bundle_from_checkpoint(checkpoint, PROMPTS, tmp_path / "b", ExportOptions(precision=precision))
    assert caught.value.exit_code == 3
    assert caught.value.where == "block 'backbone.embed'", "the first block is enough to break it"
    assert "kept " in caught.value.got
    assert list(tmp_path.iterdir()) == []


def test_bf16_is_kept_where_it_passes(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lenient = Tolerance(min_kept=0.5, min_iou=0.5, max_score_delta=0.2)
    monkeypatch.setattr(OwlViT, "tolerances", {**OwlViT.tolerances, "bf16": lenient})
    report = bundle_from_checkpoint(checkpoint, PROMPTS, tmp_path / "b", ExportOptions(precision="bf16")).precision
    assert report is not None
    assert report.typed is None, "ONNX Runtime's CPU cannot run bf16"
    assert report.rounded is not None
    assert report.rounded.max_score_delta > 1e-3
    check_strongly_typed(onnx.load(str(tmp_path / "b" / "model-bf16.onnx")))


@pytest.mark.parametrize("kind", KINDS)
def test_quantisation_is_explicit_and_keeps_what_breaks_in_fp32(
    checkpoint: Path, pictures: Path, tmp_path: Path, kind: Literal["int8", "fp8"]
) -> None:
    report = bundle_from_checkpoint(
        checkpoint, PROMPTS, tmp_path / "b", ExportOptions(precision=kind, calibration=pictures)
    ).precision
    assert report is not None
    assert report.typed is not None and report.typed.passed
    assert report.rounded is None
    typed = onnx.load(str(tmp_path / "b" / f"model-{kind}.onnx"))
    readers = {name: node for node in typed.graph.node for name in node.input}
    quantised = [node for node in typed.graph.node if node.op_type == "DequantizeLinear"]
    assert quantised
    assert {readers[node.output[0]].op_type for node in quantised} <= {"MatMul", "Conv"}
    assert 0 < report.plan.half_flops_share < 1


def test_int8_scales_are_symmetric_and_weights_are_by_channel(exported: ExportReport, pictures: Path) -> None:
    bundle = load_bundle(exported.path)
    model = onnx.load(str(bundle.model))
    blocks = blocks_of_model(model, {"core.model": "all"})
    quantised = quantised_model(model, blocks, bundle.model, calibration_feeds(bundle, parity_images(pictures)))
    assert quantised.with_blocks(frozenset()).graph.node == model.graph.node
    made = quantised.with_blocks(frozenset({"all"}))
    onnx.checker.check_model(made, full_check=True)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in made.graph.initializer}
    dequantised = [node for node in made.graph.node if node.op_type == "DequantizeLinear"]
    assert all((constants[node.input[2]] == 0).all() for node in dequantised)
    weights = [node for node in dequantised if node.input[0] in constants]
    assert weights
    assert all(constants[node.input[1]].size > 1 for node in weights if constants[node.input[0]].shape[-1] > 1)
    pairs = [node for node in made.graph.node if node.op_type == "QuantizeLinear"]
    assert len({node.input[0] for node in pairs}) == len(pairs), "a tensor is quantised twice"


def test_fp8_has_the_calibrated_ranges_on_another_grid(exported: ExportReport, pictures: Path) -> None:
    bundle = load_bundle(exported.path)
    model = onnx.load(str(bundle.model))
    blocks = blocks_of_model(model, {"core.model": "all"})
    int8, fp8 = (
        quantised_model(
            model, blocks, bundle.model, calibration_feeds(bundle, parity_images(pictures)), kind
        ).with_blocks(frozenset({"all"}))
        for kind in KINDS
    )
    onnx.checker.check_model(fp8, full_check=True)
    assert [node.op_type for node in fp8.graph.node] == [node.op_type for node in int8.graph.node]
    kept = {tensor.name: numpy_helper.to_array(tensor) for tensor in int8.graph.initializer}
    made = {tensor.name: numpy_helper.to_array(tensor) for tensor in fp8.graph.initializer}
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    rounded = 0
    for node in (node for node in fp8.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")):
        source, scale, zero = node.input
        np.testing.assert_allclose(made[scale] * FP8_TOP, kept[scale] * INT8_TOP, rtol=1e-6)
        assert made[zero].dtype == ml_dtypes.float8_e4m3fn
        assert not made[zero].astype(np.float32).any()
        if source in made:
            wanted = weights[source.removesuffix("_quantized")]
            scales = made[scale].reshape(1, -1) if wanted.ndim == 2 else made[scale].reshape(-1, 1, 1, 1)
            # Three bits of mantissa: half a step is 1/16 of a value, and of the least normal number below it.
            error = np.abs(made[source].astype(np.float32) * scales - wanted)
            assert (error <= np.maximum(np.abs(wanted) / 16, scales * 2**-10) * 1.001).all()
            rounded += 1
    assert rounded


def test_fp8_needs_an_operator_set_that_knows_it(pictures: Path) -> None:
    check_precision("fp8", pictures, 19)
    with pytest.raises(InputError, match="newer operator set"):
        check_precision("fp8", pictures, 18)


@pytest.mark.parametrize(
    ("precision", "calibration", "error", "text"),
    [
        ("fp4", None, InputError, "no such precision"),
        ("int8", None, InputError, "calibration=DIR"),
        ("fp8", None, InputError, "calibration=DIR"),
        ("fp16", Path("pictures"), InputError, "nothing else does"),
        ("fp32", Path("pictures"), InputError, "nothing else does"),
        ("int8", Path("none"), ImageError, "none"),
    ],
)
def test_bad_input_is_refused(precision: Any, calibration: Path | None, error: type[MedpromptError], text: str) -> None:
    with pytest.raises(error, match=text) as caught:
        check_precision(precision, calibration)
    assert caught.value.exit_code == 2


def test_a_model_that_overflows_finds_nothing(measure: DecisionMeasure, exported: ExportReport, tmp_path: Path) -> None:
    model = onnx.load(str(exported.path / "model.onnx"))
    weight = next(t for t in model.graph.initializer if len(t.dims) == 2 and t.data_type == onnx.TensorProto.FLOAT)
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(np.nan), weight.name))
    onnx.save(model, str(tmp_path / "nan.onnx"))
    record = measure(tmp_path / "nan.onnx")
    assert (record.kept, record.passed) == (0.0, False)
    assert measure(exported.path / "model.onnx").passed


@pytest.mark.parametrize(
    ("most", "places"), [(1, [2]), (2, [1, 3]), (3, [0, 2, 3]), (4, [0, 1, 2, 3]), (9, [0, 1, 2, 3])]
)
def test_some_images_are_spread(measure: DecisionMeasure, most: int, places: list[int]) -> None:
    some = measure.on_some(most)
    assert len(some.images) == len(places)
    assert [any(item is other for other in some.images.items) for item in measure.images.items] == [
        place in places for place in range(4)
    ]
    assert (some is measure) == (most >= 4)
    assert all(some.references[n] is measure.references[place] for n, place in enumerate(places))


class Picky(DecisionMeasure):
    """Fails on more than one image where the box head is half."""

    def __call__(self, model: Path) -> ParityRecord:
        fails = len(self.images) > 1 and _box_head_is_half(model)
        return super().__call__(model).model_copy(update={"passed": not fails})

    def on_some(self, most: int) -> DecisionMeasure:
        some = super().on_some(most)
        return Picky(some.bundle, some.images, some.references, some.tolerance)


def _box_head_is_half(path: Path) -> bool:
    graph = onnx.load(str(path)).graph
    product = next(node for node in graph.node if node.name.startswith("core.model.box_head") and "MatMul" in node.name)
    return product.output[0].endswith("/exact") or product.input[1].endswith("/fp16")


def test_what_passes_on_some_images_only_is_chosen_anew_on_all(
    measure: DecisionMeasure, exported: ExportReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose, "SEARCH_IMAGES", 1)
    picky = Picky(measure.bundle, measure.images, measure.references, Tolerance(min_kept=0.5))
    report, model = PrecisionSelector.of_bundle(exported.path, OwlViT.blocks, "auto", picky).chosen()
    assert [block for block, kind in report.plan.types.items() if kind == "fp32"] == ["box head"]
    assert report.failed is None
    assert report.plan.half_flops_share == pytest.approx(0.94, abs=0.01)
    check_strongly_typed(model)
