"""An export that compiles: one bundle, whole, or none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medprompt.bundles.load import load_bundle
from medprompt.core.errors import EngineError
from medprompt.core.files import sha256_of_file
from medprompt.export.bundle import ExportOptions, bundle_from_checkpoint
from medprompt.export.compile import engine as engine_module
from medprompt.prompts.schema import Prompts
from tests.export.compile.conftest import options

PROMPTS = Prompts.model_validate({"classes": [{"label": "RBC", "phrases": ["red blood cell", "round disc"]}]})


def test_an_export_compiles_too(rtx: None, tiny_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    out = tmp_path / "owl.bundle"
    report = bundle_from_checkpoint(
        tiny_checkpoint("owlvit"), PROMPTS, out, ExportOptions(engine=options("sm86", "sm120"))
    )
    manifest = load_bundle(out).manifest
    compiled = manifest.engines[-1].compiled
    assert compiled is not None
    assert compiled.path == "engines/trt-rtx-sm86-sm120-fp32.engine"
    assert report.manifest.engines == manifest.engines
    assert {record.device for record in manifest.engines} > {"ort-cpu", "trt-rtx"}
    assert manifest.axes == compiled.axes
    parts = {part["name"]: part for part in json.loads((out / "sbom.json").read_text())["components"]}
    assert parts[compiled.path]["hashes"][0]["content"] == sha256_of_file(out / compiled.path)


@pytest.mark.parametrize("gpus", [("sm42",), ("sm86", "sm75")], ids=["unknown", "Turing in fp32"])
def test_what_cannot_be_compiled_is_refused_before_the_export(gpus: tuple[str, ...], rtx: None, tmp_path: Path) -> None:
    with pytest.raises(EngineError):
        bundle_from_checkpoint(tmp_path / "never read", PROMPTS, tmp_path / "b", ExportOptions(engine=options(*gpus)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [EngineError("cannot compile"), KeyboardInterrupt()], ids=["refused", "Ctrl-C"])
def test_a_compile_that_ends_badly_makes_no_bundle(
    error: BaseException,
    rtx: None,
    tiny_checkpoint: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*asked: Any) -> Any:
        raise error

    monkeypatch.setattr(engine_module, "engine_from_onnx", fails)
    with pytest.raises(type(error)):
        bundle_from_checkpoint(
            tiny_checkpoint("owlvit"), PROMPTS, tmp_path / "b", ExportOptions(engine=options("sm86"))
        )
    assert not list(tmp_path.iterdir())
