"""The five tiny families as ONNX, traced once a session: tracing is most of what these tests take."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medprompt.export import bundle as bundle_module
from medprompt.export.bundle import ExportReport
from tests.export.exported import Exported, exported


@pytest.fixture(scope="session")
def tiny_export(
    tiny_checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Exported]:
    """``tiny_export(model_type)``; do not change what it returns."""
    known: dict[str, Exported] = {}

    def make(model_type: str) -> Exported:
        if model_type not in known:
            path = tmp_path_factory.mktemp(model_type) / "model.onnx"
            known[model_type] = exported(tiny_checkpoint(model_type), path)
        return known[model_type]

    return make


@pytest.fixture
def traced(exported: ExportReport, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracing gives equal bytes each time, so further exports of a module copy the file of its ``exported`` bundle."""

    def copy(graph: Any, inputs: Any, outputs: Any, path: Path, opset: int) -> Any:
        shutil.copy(exported.path / "model.onnx", path)
        return exported.onnx

    monkeypatch.setattr(bundle_module, "onnx_from_graph", copy)
