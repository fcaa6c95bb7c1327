"""The repository on disk: Triton's schema, and whose files are replaced."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

from medprompt.bundles.load import load_bundle
from medprompt.core.errors import BundleError, InputError
from medprompt.prompts.bank import save_bank
from medprompt.runtime.serving.contract import INPUTS, OUTPUTS
from medprompt.runtime.serving.triton.repository import write_repository
from tests.runtime.bundles import make_bank, make_folder, record
from tests.shared import Cli


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("triton") / "cells é.bundle", engines=(record("ort-cpu"),))


def parsed(path: Path) -> Any:
    """A configuration, read as Triton reads it: by the schema that its client ships."""
    spec = find_spec("tritonclient")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("tritonclient ships the schema")
    schema_file = Path(spec.submodule_search_locations[0]) / "grpc/model_config_pb2.py"
    schema_spec = spec_from_file_location("model_config_pb2", schema_file)  # its package imports grpc
    assert schema_spec is not None
    assert schema_spec.loader is not None
    schema = sys.modules.get("model_config_pb2") or module_from_spec(schema_spec)
    if "model_config_pb2" not in sys.modules:
        schema_spec.loader.exec_module(schema)
        sys.modules["model_config_pb2"] = schema
    from google.protobuf import text_format

    return text_format.Parse(path.read_text(encoding="utf-8"), schema.ModelConfig())


def test_the_model_that_clients_ask_has_the_contract(bundle: Path, tmp_path: Path) -> None:
    bank = tmp_path / 'the "b" bank.safetensors'
    save_bank(make_bank(), bank)
    made = write_repository(bundle, tmp_path / "models", device="ort-cpu", threads=2, prompts=[bank], max_batch=4)
    config = parsed(tmp_path / "models" / made.name / "config.pbtxt")
    assert (config.name, config.backend, config.max_batch_size) == ("cells", "python", 4)
    for tensors, contract in ((config.input, INPUTS), (config.output, OUTPUTS)):
        dims = {one.name: (-1, *one.dims) for one in tensors}
        assert dims == {name: shape for name, (_, shape) in contract.items()}
    assert all(one.optional and one.allow_ragged_batch for one in config.input)
    said = {name: value.string_value for name, value in config.parameters.items()}
    assert said == {
        "bundle": "bundle",
        "bundle_sha256": load_bundle(bundle).sha256,
        "engine": "ort-cpu",
        "medprompt": said["medprompt"],
        "banks": '["the \\"b\\" bank.safetensors", "bundle"]',
        "threads": "2",
        "precision": "fp32",
    }
    assert config.dynamic_batching.default_queue_policy.max_queue_size > 0


def test_the_graph_of_another_backend_has_the_manifests_tensors(bundle: Path, tmp_path: Path) -> None:
    write_repository(bundle, tmp_path / "models", name="m", backend="onnx")
    config = parsed(tmp_path / "models/m_graph/config.pbtxt")
    manifest = load_bundle(bundle).manifest
    assert (config.backend, config.max_batch_size) == ("onnxruntime", 0)
    for tensors, specs in ((config.input, manifest.inputs), (config.output, manifest.outputs)):
        assert [(one.name, list(one.dims)) for one in tensors] == [
            (spec.name, [size if isinstance(size, int) else -1 for size in spec.shape]) for spec in specs
        ]
    assert (tmp_path / "models/m_graph/1/model.onnx").read_bytes() == (bundle / "model.onnx").read_bytes()


def test_a_linked_bundle_is_not_copied(bundle: Path, tmp_path: Path) -> None:
    write_repository(bundle, tmp_path / "models", name="m", link=True)
    assert str(bundle.resolve()) in (tmp_path / "models/m/config.pbtxt").read_text(encoding="utf-8")
    assert not (tmp_path / "models/m/1/bundle").exists()


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"name": "a/b"}, InputError, "name"),
        ({"name": "-x"}, InputError, "name"),
        ({"backend": "onnx", "device": "ort-cpu"}, InputError, "chooses its device"),
        ({"backend": "onnx", "threads": 2}, InputError, "chooses its device"),
        ({"backend": "tensorrt"}, BundleError, "no engine of TensorRT"),
        ({"device": "ort-gpu"}, InputError, "no such device"),
        ({"max_batch": 0}, InputError, "out of range"),
    ],
)
def test_what_triton_cannot_serve_is_refused(
    settings: dict[str, Any], error: type[Exception], says: str, bundle: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=says):
        write_repository(bundle, tmp_path / "models", **settings)
    assert list(tmp_path.iterdir()) == []


def test_a_repository_of_ours_is_replaced_when_told_and_nothing_else_ever(
    bundle: Path, tmp_path: Path, cli: Cli
) -> None:
    out = tmp_path / "models"
    words = ("triton", bundle, "--out", out, "--name", "m")
    assert cli(*words)[0] == 0
    code, _, err = cli(*words)
    assert (code, "--force" in err) == (2, True)
    cache = out / "m/1/__pycache__/model.cpython-311.pyc"  # Triton has served it meanwhile
    cache.parent.mkdir()
    cache.write_bytes(b"code")
    assert cli(*words, "--force")[0] == 0
    (out / "notes.txt").write_text("the user's")
    code, _, err = cli(*words, "--force")
    assert (code, "notes.txt" in err) == (2, True)
    assert (out / "notes.txt").read_text() == "the user's"


def test_the_repository_is_never_the_bundle(bundle: Path, cli: Cli) -> None:
    before = sorted(path.name for path in bundle.rglob("*"))
    assert cli("triton", bundle, "--out", bundle, "--force")[0] == 2
    assert cli("triton", bundle, "--out", bundle / "models")[0] == 2
    assert sorted(path.name for path in bundle.rglob("*")) == before


def test_the_model_needs_no_torch(bundle: Path, tmp_path: Path) -> None:
    write_repository(bundle, tmp_path / "models", name="m")
    code = "import sys, model; print(sorted({'torch', 'transformers', 'onnx'} & set(sys.modules)))"
    told = subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "models/m/1", capture_output=True, text=True)
    assert (told.returncode, told.stdout) == (0, "[]\n"), told.stderr
