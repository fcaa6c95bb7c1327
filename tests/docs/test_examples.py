"""The examples of docs/examples run as they stand, on a tiny bundle, and say what is so."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.uid import RTPlanStorage

from medprompt.prompts.bank import save_bank
from tests.medprompt.dicom.made import write_dicom
from tests.runtime.bundles import make_bank, make_folder, record

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
Run = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("example") / "bundle", engines=(record("fake"),))


@pytest.fixture
def run(bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """``run(name, argument, …) -> (exit code, stdout)``; the bundle is always the first argument."""

    def call(name: str, *words: object) -> tuple[int, str]:
        script = EXAMPLES / f"{name}.py"
        monkeypatch.setattr(sys, "argv", [str(script), str(bundle), *map(str, words)])
        code = 0
        try:
            runpy.run_path(str(script), run_name="__main__")
        except SystemExit as leaving:
            code = int(leaving.code or 0)
        return code, capsys.readouterr().out

    return call


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A bright image, a dark one and a broken one."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name, colour in {"bright": "white", "dark": "black"}.items():
        Image.new("RGB", (30, 20), colour).save(folder / f"{name}.png")
    (folder / "broken.png").write_bytes((folder / "bright.png").read_bytes()[:40])
    return folder


def test_the_examples_are_short_and_each_is_run() -> None:
    names = {path.stem for path in EXAMPLES.iterdir() if path.suffix == ".py"}
    assert names == {"first_bundle", "one_image", "folder", "swap_prompts", "dicom_report", "arrays"}
    assert all(len((EXAMPLES / f"{name}.py").read_text().splitlines()) < 40 for name in names)
    page = (EXAMPLES.parent / "reference" / "results.md").read_text()
    assert all(f"examples/{name}.py" in page for name in names)


def test_one_image(run: Run, images: Path) -> None:
    code, said = run("one_image", images / "bright.png")
    assert (code, said.count("because of 'red cell'")) == (0, 2)
    assert run("one_image", images / "dark.png")[1].endswith("nothing found\n")


def test_folder(run: Run, images: Path, tmp_path: Path) -> None:
    code, said = run("folder", images, tmp_path / "r.json")
    assert code == 1
    assert "bright.png: OK_WITH_WARNINGS: " in said
    assert "broken.png: REJECTED damaged: nothing is known about it" in said
    assert "dark.png: OK_WITH_WARNINGS: none" in said
    statuses = [item["status"] for item in json.loads((tmp_path / "r.json").read_text())["items"]]
    assert statuses == ["OK_WITH_WARNINGS", "REJECTED", "OK_WITH_WARNINGS"]
    (images / "broken.png").unlink()
    assert run("folder", images, tmp_path / "r.json")[0] == 0


def test_swap_prompts(run: Run, images: Path, tmp_path: Path) -> None:
    save_bank(make_bank([{"label": "polyp", "phrases": ["bump", "round bump"]}]), tmp_path / "bank.safetensors")
    code, said = run("swap_prompts", tmp_path / "bank.safetensors", images / "bright.png")
    first, second = said.splitlines()
    assert code == 0
    assert "WBC" in first and "polyp" not in first
    assert "polyp" in second and "WBC" not in second


def test_dicom_report(run: Run, tmp_path: Path) -> None:
    study = tmp_path / "study"
    study.mkdir()
    grey = np.full((20, 30), 250, np.uint8)
    uids = {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.4"}
    write_dicom(study / "good.dcm", grey, **uids)
    code, said = run("dicom_report", study, tmp_path / "reports")
    assert (code, said.count("good.dcm: ")) == (0, 4)
    assert [path.name for path in (tmp_path / "reports").iterdir()] == ["good.dcm"]
    write_dicom(study / "nameless.dcm", grey)
    write_dicom(study / "plan.dcm", SOPClassUID=RTPlanStorage, **uids)
    code, said = run("dicom_report", study, tmp_path / "reports")
    assert code == 1
    assert "nameless.dcm was analysed and has no report: " in said
    assert "plan.dcm was not analysed and has no report: REJECTED no_pixels" in said


def test_arrays(run: Run) -> None:
    code, said = run("arrays")
    assert code == 0
    assert "frame 1: " in said and "frame 2: " in said
    assert "float32 (4, 4)" in said


@pytest.mark.slow
def test_first_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["first_bundle.py", str(tmp_path)])
    runpy.run_path(str(EXAMPLES / "first_bundle.py"), run_name="__main__")
    assert "RBC" in capsys.readouterr().out
    with Image.open(tmp_path / "boxes.png") as picture:
        assert picture.size == (640, 480)
    items = json.loads((tmp_path / "results.json").read_text())["items"]
    assert [item["status"] for item in items] == ["OK"] * 6
