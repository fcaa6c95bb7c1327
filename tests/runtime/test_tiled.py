"""Tiles in the runtime: one tile is no tiling, and results say what was done."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medprompt.cli import main
from medprompt.core.errors import InputError
from medprompt.core.tiling import Tiling
from medprompt.runtime import Detector
from medprompt.runtime.strategies import BestPhrases, Prompting, Tiled
from tests.runtime.bundles import make_folder, record


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("tiled") / "bundle", engines=(record("fake"),))


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_an_image_of_one_tile_is_as_it_was(folder: Path) -> None:
    with Detector.load(folder) as detector:
        image = picture(40, 60)
        whole, tiled = detector(image), Tiled(Prompting(), Tiling(60)).detect(detector, Path("x"), image)
    assert (whole.boxes_xyxy == tiled.boxes_xyxy).all() and (whole.scores == tiled.scores).all()


def test_each_tile_is_asked_and_boxes_are_of_the_image(folder: Path) -> None:
    with Detector.load(folder, threshold=0.0) as detector:
        image = picture(50, 100)
        image[:, :50] = 0
        image[:, 50:] = 255
        tiled = Tiled(Prompting(), Tiling(50, 0.0)).detect(detector, Path("x"), image)
        single = detector(image[:, 50:])
    assert tiled.size_hw == (50, 100)
    bright = tiled.boxes_xyxy[tiled.scores > 0.9]
    assert len(bright) == (single.scores > 0.9).sum() > 0
    assert (bright[:, 0] >= 50).all() and (bright[:, 2] <= 100).all()


def test_tiles_and_a_choice_by_response_exclude_each_other() -> None:
    with pytest.raises(InputError, match="asked alike"):
        Tiled(BestPhrases(1), Tiling(10))


def test_results_say_it_and_resume_knows(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(picture(50, 100)).save(tmp_path / "x.png")
    out = tmp_path / "results.json"

    def run(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(
            "sys.argv", ["medprompt", "infer", str(folder), str(tmp_path / "x.png"), "--out", str(out), *words]
        )
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), capsys.readouterr().err

    assert run("--tile", "40")[0] == 0
    assert json.loads(out.read_text())["tiling"] == {"side": 40, "overlap": 0.25}
    code, said = run("--resume")
    assert code == 0 and "tiling" in said
    assert json.loads(out.read_text())["tiling"] is None
    assert run("--tile", "40", "--select", "top:1")[0] == 2
