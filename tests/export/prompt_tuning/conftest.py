"""The tiny families, and the trained tiny models of language and questions, once a session."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.export.prompt_tuning.models import COLORS, shape_image, trained_masked_lm, trained_vqa
from tests.shared import made_once


@pytest.fixture(scope="session")
def mlm_folder(run_folder: Path) -> Path:
    return made_once(run_folder / "mlm", trained_masked_lm)


@pytest.fixture(scope="session")
def vqa_folder(run_folder: Path) -> Path:
    return made_once(run_folder / "vqa", trained_vqa)


@pytest.fixture(scope="session")
def shapes_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images that no model was trained on, three of each colour: ``red-0.png``, …"""
    folder = tmp_path_factory.mktemp("shapes")
    for number, color in enumerate(list(COLORS) * 3):
        Image.fromarray(shape_image(color, 1000 + number)).save(folder / f"{color}-{number // 4}.png")
    return folder
