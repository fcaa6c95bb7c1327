"""An engine into a bundle: recorded, vouched for, replaced, and never half."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from medprompt.bundles.load import MODEL_FILE, load_bundle, write_manifest
from medprompt.commands.compile import describe_engine
from medprompt.core.errors import BundleError, EngineError, InputError
from medprompt.core.files import sha256_of_file
from medprompt.core.manifest import EngineRecord
from medprompt.core.progress import Silent
from medprompt.export.compile import engine as engine_module
from medprompt.export.compile.builder import BuiltEngine
from medprompt.export.compile.engine import check_compile, compile_engine, engine_name
from medprompt.export.compile.options import CompileOptions
from medprompt.export.documents.sbom import sbom_of_folder
from medprompt.runtime.engines.engine_files import check_engine_file, rebuild_command
from medprompt.runtime.engines.machine import system_name
from tests.export.compile.conftest import options
from tests.runtime.bundles import make_folder, make_manifest, parity_record, record
from tests.runtime.selection.test_parts import parted

Snapshot = dict[str, str]


def snapshot(folder: Path) -> Snapshot:
    """Hash of every file below a folder, hidden ones too."""
    return {str(p.relative_to(folder)): sha256_of_file(p) for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The build itself replaced by one that answers at once; what it was asked is returned."""
    asked: list[tuple[Any, ...]] = []

    def build(model: Path, inputs: Any, axes: Any, options: CompileOptions, progress: Any) -> BuiltEngine:
        asked.append((options.engine, model.name, axes, options))
        return BuiltEngine(memoryview(f"engine {len(asked)}".encode()), tuple(options.gpu), "1.7.1.116", 1.25, (4096,))

    monkeypatch.setattr(engine_module, "engine_from_onnx", build)
    return asked


def compiled_records(bundle: Path) -> list[EngineRecord]:
    return [entry for entry in load_bundle(bundle).manifest.engines if entry.compiled]


def test_a_real_engine_goes_into_the_bundle(rtx: None, bundle: Path) -> None:
    before = snapshot(bundle)
    compiled = compile_engine(bundle, options("sm86", "sm89"))
    manifest = load_bundle(bundle).manifest
    assert compiled.path == "engines/trt-rtx-sm86-sm89-fp32.engine"
    assert manifest.files[compiled.path].sha256 == sha256_of_file(bundle / compiled.path)
    assert [entry.compiled for entry in manifest.engines] == [compiled]
    assert manifest.engines[0].parity is None
    assert manifest.engines[0].reason.startswith("compiled here without being run")
    assert (compiled.builder, compiled.gpus, compiled.model) == ("tensorrt_rtx", ("sm86", "sm89"), MODEL_FILE)
    assert compiled.system == system_name()
    assert {axis: bounds.most for axis, bounds in compiled.axes.items()} == {"B": 1, "P": 64, "C": 64}
    assert manifest.axes == compiled.axes
    assert not check_engine_file(bundle, manifest, compiled)
    after = snapshot(bundle)
    assert {name: after[name] for name in before if not name.startswith("manifest")} == {
        name: digest for name, digest in before.items() if not name.startswith("manifest")
    }
    assert list(bundle.parent.iterdir()) == [bundle]


def test_engines_add_up_and_equal_ones_are_replaced(quick: list[Any], tmp_path: Path, rtx: None) -> None:
    bundle = make_folder(tmp_path / "bundle", engines=(record("ort-cpu"),))
    for gpus in (("sm86",), ("sm89",), ("sm86",)):
        compile_engine(bundle, options(*gpus))
    manifest = load_bundle(bundle).manifest
    assert [entry.device for entry in manifest.engines] == ["ort-cpu", "trt-rtx", "trt-rtx"]
    assert (bundle / engine_name("trt-rtx", ["sm86"], "fp32")).read_bytes() == b"engine 3"
    assert (bundle / engine_name("trt-rtx", ["sm89"], "fp32")).read_bytes() == b"engine 2"


def test_a_copy_that_shares_the_files_keeps_its_engine(
    quick: list[Any], bundle: Path, tmp_path: Path, rtx: None
) -> None:
    """Files are linked into the new bundle; replacing an engine must not write through a link."""
    compile_engine(bundle, options("sm86"))
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy, copy_function=engine_module._link)
    before = snapshot(copy)
    compile_engine(bundle, options("sm86"))
    assert snapshot(copy) == before
    load_bundle(copy)


def test_many_phrases_make_two_files_and_few_one_again(quick: list[Any], tmp_path: Path, rtx: None) -> None:
    """One image for all phrases costs a way over the host, which few phrases need not take."""
    bundle = parted(tmp_path / "bundle")
    manifest = load_bundle(bundle).manifest
    (bundle / "sbom.json").write_text(json.dumps(sbom_of_folder(bundle, manifest)))
    write_manifest(bundle, manifest)
    one = compile_engine(bundle, options("sm86"))
    assert (one.files, one.axes["P"].most) == ((engine_name("trt-rtx", ["sm86"], "fp32"),), 16)
    two = compile_engine(bundle, options("sm86", max_phrases=40))
    assert [model for _, model, *_ in quick] == ["model.onnx", "image.onnx", "phrases.onnx"]
    assert quick[-1][2]["P"].most == 16, "memory for what is computed together"
    assert two.files == (one.path, one.path.replace(".engine", "-phrases.engine"))
    assert "--max-phrases 40" in rebuild_command(two)
    assert (two.seconds, two.activation_bytes) == (2.5, 8192)
    manifest = load_bundle(bundle).manifest
    assert len(compiled_records(bundle)) == 1 and not check_engine_file(bundle, manifest, two)
    (bundle / two.phrases_path).write_bytes(b"another")
    assert "-phrases.engine is not whole" in check_engine_file(bundle, manifest, two)
    (bundle / two.phrases_path).write_bytes(b"engine 3")
    compile_engine(bundle, options("sm86", max_phrases=16))
    assert [path.name for path in (bundle / "engines").iterdir()] == [Path(one.path).name]
    bill = (bundle / "sbom.json").read_text()
    assert one.path in bill and two.phrases_path not in bill


def test_a_manifest_that_names_a_file_elsewhere_costs_nobody_that_file(
    quick: list[Any], tmp_path: Path, rtx: None
) -> None:
    bundle, victim = parted(tmp_path / "bundle"), tmp_path / "victim"
    victim.write_text("mine")
    compile_engine(bundle, options("sm86"))
    manifest = load_bundle(bundle).manifest
    (entry,) = (one for one in manifest.engines if one.compiled)
    assert entry.compiled is not None
    crafted = entry.model_copy(update={"compiled": entry.compiled.model_copy(update={"phrases_path": "../victim"})})
    write_manifest(bundle, manifest.model_copy(update={"engines": (crafted,)}))
    compile_engine(bundle, options("sm86"))
    assert victim.read_text() == "mine"


def test_the_bill_of_materials_follows(quick: list[Any], bundle: Path, rtx: None) -> None:
    manifest = load_bundle(bundle).manifest
    (bundle / "sbom.json").write_text(json.dumps(sbom_of_folder(bundle, manifest)))
    write_manifest(bundle, manifest)
    for _ in range(2):
        compiled = compile_engine(bundle, options("sm86"))
    parts = json.loads((bundle / "sbom.json").read_text())["components"]
    hashes = [part["hashes"][0]["content"] for part in parts if part["name"] == compiled.path]
    assert hashes == [sha256_of_file(bundle / compiled.path)]


def test_the_typed_model_of_a_precision_is_taken(quick: list[Any], bundle: Path, rtx: None) -> None:
    with pytest.raises(EngineError, match="no model of this precision") as caught:
        compile_engine(bundle, options("sm75", precision="fp16"))
    assert (caught.value.expected, caught.value.got) == ("fp32", "fp16")
    shutil.copy(bundle / MODEL_FILE, bundle / "model-fp16.onnx")
    write_manifest(bundle, make_manifest())
    compiled = compile_engine(bundle, options("sm75", precision="fp16"))
    assert (compiled.model, compiled.precision) == ("model-fp16.onnx", "fp16")
    assert quick[-1][1] == "model-fp16.onnx"


def test_what_parity_chose_is_compiled_where_the_bundle_has_it(quick: list[Any], bundle: Path, rtx: None) -> None:
    assert compile_engine(bundle, CompileOptions("trt-rtx", gpu=("sm86",))).precision == "fp32"
    shutil.copy(bundle / MODEL_FILE, bundle / "model-auto.onnx")
    write_manifest(bundle, make_manifest())
    compiled = compile_engine(bundle, CompileOptions("trt-rtx", gpu=("sm86",)))
    assert (compiled.precision, compiled.model) == ("auto", "model-auto.onnx")
    assert compile_engine(bundle, options("sm86", precision="fp32")).model == MODEL_FILE


def test_the_record_says_what_it_computes_in_and_what_it_needs(quick: list[Any], bundle: Path, rtx: None) -> None:
    compiled = compile_engine(bundle, options("sm86"))
    assert (compiled.tf32, compiled.gpu_names, compiled.activation_bytes) == (False, (), 4096)
    assert [(one.batch.most, one.activation_bytes) for one in compiled.profiles] == [(1, 4096)]
    assert describe_engine(compiled).endswith("needs GPU memory of 0 MiB for 1 image besides its weights")
    more = compile_engine(bundle, CompileOptions("trt-rtx", gpu=("sm86",), max_batch=4))
    assert [(one.batch.least, one.batch.most, one.activation_bytes) for one in more.profiles] == [
        (1, 1, None),  # this builder stated one size for two profiles
        (2, 4, None),
    ]


@pytest.mark.parametrize("kept", [None, 0.5, 1.0])
def test_tf32_wants_its_proof(kept: float | None, quick: list[Any], bundle: Path, rtx: None) -> None:
    if kept is not None:
        write_manifest(bundle, make_manifest(tf32={"fp32": parity_record(kept == 1.0)}))
    asked = CompileOptions("trt-rtx", "fp32", ("sm86",), tf32=True)
    if kept == 1.0:
        compiled = compile_engine(bundle, asked)
        assert (compiled.tf32, compiled.path) == (True, "engines/trt-rtx-sm86-fp32-tf32.engine")
        compile_engine(bundle, options("sm86"))
        assert [entry.compiled.tf32 for entry in compiled_records(bundle) if entry.compiled] == [True, False]
        return
    with pytest.raises(EngineError, match="decisions with TF32 products are not proven") as caught:
        compile_engine(bundle, asked)
    assert caught.value.got == ("not simulated at export" if kept is None else "50.00% of the decisions kept")
    assert not compiled_records(bundle)


def test_a_plan_of_tensorrt_names_its_model_of_gpu() -> None:
    path = engine_name("trt", ["sm86"], "fp32", gpu_names=["NVIDIA RTX A4000"])
    assert path == "engines/trt-sm86-nvidia-rtx-a4000-fp32.engine"


def test_stored_axes_are_used_and_kept(quick: list[Any], bundle: Path, rtx: None) -> None:
    compile_engine(bundle, CompileOptions("trt-rtx", max_batch=2, gpu=("sm86",)))
    compile_engine(bundle, CompileOptions("trt-rtx", max_phrases=5, gpu=("sm86",)))
    assert quick[-1][2]["B"].most == 2
    assert quick[-1][2]["P"].most == 5
    assert load_bundle(bundle).manifest.axes["P"].most == 64


@pytest.mark.parametrize("precision", ["fp32", "auto", "bf16"])
def test_turing_takes_fp16_alone(precision: str, rtx: None) -> None:
    with pytest.raises(EngineError, match="Turing") as caught:
        check_compile(options("sm75", "sm86", precision=precision))
    assert caught.value.expected == "precision=fp16"
    assert check_compile(options("sm75", "sm86", precision="fp16")).gpu == ("sm75", "sm86")


@pytest.mark.parametrize(
    ("damage", "message"),
    [("cut", "has changed"), ("byte", "has changed"), ("gone", "is missing")],
)
def test_a_damaged_engine_is_refused_before_it_is_read(
    damage: str, message: str, quick: list[Any], bundle: Path, rtx: None
) -> None:
    compiled = compile_engine(bundle, options("sm86"))
    manifest, path = load_bundle(bundle).manifest, bundle / compiled.path
    content = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes(content[:-1] if damage == "cut" else b"X" + content[1:])
    with pytest.raises(BundleError, match=message):
        load_bundle(bundle)
    said = check_engine_file(bundle, manifest, compiled)
    assert f"medprompt compile {bundle} --engine trt-rtx --gpu sm86 --precision fp32" in said
    expected = {"cut": "expected 8 bytes, found 7", "byte": "expected sha256", "gone": "is missing"}
    assert expected[damage] in said


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"engine": "trt-rtx", "gpu": ("sm42",)}, EngineError),
        ({"engine": "trt-rtx", "gpu": ("sm75",)}, EngineError),
        ({"engine": "trt-rtx", "precision": "fp8", "gpu": ("sm86",)}, EngineError),
        ({"engine": "trt-rtx", "max_phrases": 1, "gpu": ("sm86",)}, InputError),
    ],
    ids=["unknown GPU", "Turing in fp32", "no such model", "too few phrases"],
)
def test_what_is_refused_changes_nothing(
    change: dict[str, Any], error: type[Exception], bundle: Path, rtx: None
) -> None:
    before = snapshot(bundle.parent)
    with pytest.raises(error):
        compile_engine(bundle, CompileOptions(**change))
    assert snapshot(bundle.parent) == before


class Interrupts(Silent):
    """Ctrl-C when a certain step begins."""

    def __init__(self, at: str) -> None:
        self.at = at

    def step(self, name: str, total: int | None = None) -> None:
        if name == self.at:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("at", ["verify bundle", "trt-rtx: read model", "trt-rtx: optimizing graph", "write bundle"])
def test_ctrl_c_leaves_the_bundle_as_it_was(at: str, bundle: Path, rtx: None) -> None:
    before = snapshot(bundle.parent)
    with pytest.raises(KeyboardInterrupt):
        compile_engine(bundle, options("sm86", "sm89"), Interrupts(at))
    assert snapshot(bundle.parent) == before


def test_a_full_disk_leaves_the_bundle_as_it_was(
    quick: list[Any], bundle: Path, rtx: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, data: Any) -> int:
        raise OSError(28, "No space left on device")

    before = snapshot(bundle.parent)
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match="The engine cannot be written"):
        compile_engine(bundle, options("sm86"))
    monkeypatch.undo()
    assert snapshot(bundle.parent) == before
