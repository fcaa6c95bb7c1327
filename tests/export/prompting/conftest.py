"""The trained tiny models, once a session."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.export.prompting.models import COLORS, shape_image, trained_masked_lm, trained_vqa


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
