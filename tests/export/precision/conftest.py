"""The five tiny models, exported once a session."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import onnx
import pytest

from medprompt.export.precision.blocks import Blocks, blocks_of_model
from tests.export.exported import EACH, Exported, feeds_of


@dataclass(frozen=True)
class TinyModel:
    """An exported tiny checkpoint, its blocks, and inputs for it."""

    made: Exported
    model: Any
    blocks: Blocks
    feeds: dict[str, Any]


@pytest.fixture(scope="session")
def tiny_model(tiny_export: Callable[[str], Exported]) -> Callable[[str], TinyModel]:
    """``tiny_model(model_type)``; do not change what it returns."""
    known: dict[str, TinyModel] = {}

    def make(model_type: str) -> TinyModel:
        if model_type not in known:
            made = tiny_export(model_type)
            model = onnx.load(str(made.path))
            blocks = blocks_of_model(model, made.family.blocks)
            known[model_type] = TinyModel(made, model, blocks, feeds_of(made.family, 3, 2, 2))
        return known[model_type]

    return make


@pytest.fixture(params=EACH[::-1])  # tests/export/graph begins at the other end: no worker waits
def every(request: pytest.FixtureRequest, tiny_model: Callable[[str], TinyModel]) -> TinyModel:
    """Each family's tiny model."""
    return tiny_model(request.param)


@pytest.fixture
def owl(tiny_model: Callable[[str], TinyModel]) -> TinyModel:
    """The tiny OWL-ViT."""
    return tiny_model("owlvit")
