"""An output never replaces an input, another output, or a file that is did not write it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import medprompt
from medprompt.core.errors import InputError
from tests.runtime.bundles import make_folder, record


@pytest.fixture
def study(tmp_path: Path) -> Path:
    make_folder(tmp_path / "bundle", engines=(record("fake"),))
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.png", "c.jpg"):
        Image.fromarray(np.full((20, 30, 3), 200, np.uint8)).save(tmp_path / "in" / name)
    (tmp_path / "thesis.txt").write_text("years of work")
    return tmp_path


def files_of(folder: Path) -> dict[str, str]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


@pytest.mark.parametrize(
    ("images", "options", "said"),
    [
        (["in"], {"overlays": "in"}, "would replace inputs"),
        (["in/a.png"], {"overlays": "in"}, "would replace inputs"),
        (["in"], {"sr": "in"}, "would replace inputs|none of these is one"),
        (["in"], {"out": "in/a.png"}, "would replace inputs"),
        (["in"], {"csv": "in/../in/b.png"}, "would replace inputs"),
        (["in/b.png", "in/c.jpg"], {"out": "in/a.png"}, "did not write it"),  # what a shell makes of --out in/*.png
        (["in"], {"out": "thesis.txt"}, "did not write it"),
        (["in"], {"csv": "thesis.txt"}, "did not write it"),
        (["in"], {"coco": "thesis.txt"}, "did not write it"),
        (["in"], {"out": "r.json", "csv": "r.json"}, "Two outputs are one"),
        (["in"], {"out": "r.json", "coco": "./r.json"}, "Two outputs are one"),
    ],
)
def test_nothing_of_the_users_is_replaced(
    study: Path, monkeypatch: pytest.MonkeyPatch, images: list[str], options: dict[str, str], said: str
) -> None:
    monkeypatch.chdir(study)
    before = files_of(study)
    with pytest.raises(InputError, match=said):
        medprompt.infer("bundle", images, device="fake", **options)  # type: ignore[arg-type]
    assert files_of(study) == before


def test_what_we_wrote_is_replaced(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(study)
    outputs = {"out": "in/r.json", "coco": "coco.json", "csv": "t.csv", "overlays": "pictures"}
    for _ in range(2):
        run = medprompt.infer("bundle", ["in"], device="fake", **outputs)  # type: ignore[arg-type]
        assert [item.status for item in run.items] == ["OK", "OK", "OK"]
