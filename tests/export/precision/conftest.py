"""The five tiny models, exported once a session."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import pytest

from medprompt.export.families import FAMILIES
from medprompt.export.precision.blocks import Blocks, blocks_of_model
from tests.export.test_onnx_export import Exported, exported, feeds_of


@dataclass(frozen=True)
class TinyModel:
    """An exported tiny checkpoint, its blocks, and inputs for it."""

    made: Exported
    model: Any
    blocks: Blocks
    feeds: dict[str, Any]


@pytest.fixture(scope="session")
def tiny_model(
    tiny_checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], TinyModel]:
    """``tiny_model(model_type)``; do not change what it returns."""
    known: dict[str, TinyModel] = {}

    def make(model_type: str) -> TinyModel:
        if model_type not in known:
            made = exported(tiny_checkpoint(model_type), tmp_path_factory.mktemp("typed") / "model.onnx")
            model = onnx.load(str(made.path))
            blocks = blocks_of_model(model, made.family.blocks)
            known[model_type] = TinyModel(made, model, blocks, feeds_of(made.family, 3, 2, 2))
        return known[model_type]

    return make


@pytest.fixture(params=sorted(FAMILIES))
def every(request: pytest.FixtureRequest, tiny_model: Callable[[str], TinyModel]) -> TinyModel:
    """Each family's tiny model."""
    return tiny_model(request.param)


@pytest.fixture
def owl(tiny_model: Callable[[str], TinyModel]) -> TinyModel:
    """The tiny OWL-ViT."""
    return tiny_model("owlvit")
