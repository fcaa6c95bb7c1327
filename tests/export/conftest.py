"""The five tiny families as ONNX."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from medprompt.export.families.base import Family
from tests.export.exported import Exported, exported, loaded
from tests.export.traces import Export
from tests.tiny import EACH


@pytest.fixture(scope="session")
def tiny_export(
    tiny_checkpoint: Callable[[str], Path], kept_export: Export, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Exported]:
    """``tiny_export(model_type)``; do not change what it returns."""
    known: dict[str, Exported] = {}

    def make(model_type: str) -> Exported:
        if model_type not in known:
            path = tmp_path_factory.mktemp(model_type) / "model.onnx"
            known[model_type] = exported(tiny_checkpoint(model_type), path, export=kept_export)
        return known[model_type]

    return make


@pytest.fixture(scope="module", params=EACH)
def family(request: pytest.FixtureRequest, tiny_checkpoint: Callable[[str], Path]) -> Family:
    """Each tiny family, loaded; not to be changed."""
    return loaded(tiny_checkpoint(request.param))


@pytest.fixture(scope="module")
def owl(tiny_checkpoint: Callable[[str], Path]) -> Family:
    """The tiny OWL-ViT, likewise."""
    return loaded(tiny_checkpoint("owlvit"))
