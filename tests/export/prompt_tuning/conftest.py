"""The tiny families, and the trained tiny models of language and questions, once a session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from medprompt.export.families.base import Family
from tests.export.exported import loaded
from tests.export.prompt_tuning.models import COLORS, shape_image, trained_masked_lm, trained_vqa
from tests.tiny import TINY


@pytest.fixture(scope="module", params=list(TINY))
def family(request: pytest.FixtureRequest, tiny_checkpoint: Callable[[str], Path]) -> Family:
    """Each tiny family, loaded; not to be changed."""
    return loaded(tiny_checkpoint(request.param))


@pytest.fixture(scope="module")
def owl(tiny_checkpoint: Callable[[str], Path]) -> Family:
    """The tiny OWL-ViT, likewise."""
    return loaded(tiny_checkpoint("owlvit"))


@pytest.fixture(scope="session")
def mlm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mlm")
    trained_masked_lm(folder)
    return folder


@pytest.fixture(scope="session")
def vqa_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vqa")
    trained_vqa(folder)
    return folder


@pytest.fixture(scope="session")
def shapes_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images that no model was trained on, three of each colour: ``red-0.png``, …"""
    folder = tmp_path_factory.mktemp("shapes")
    for number, color in enumerate(list(COLORS) * 3):
        Image.fromarray(shape_image(color, 1000 + number)).save(folder / f"{color}-{number // 4}.png")
    return folder
