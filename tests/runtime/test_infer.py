"""``medprompt.infer``: the command's whole work as a call, whose errors name parameters."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import medprompt
from medprompt.core.errors import BankError, EngineError, ImageError, InputError
from medprompt.results.run import Run
from medprompt.runtime.infer import InferOptions, run_inference
from tests.medprompt.dicom.made import write_dicom
from tests.runtime.bundles import make_bank, make_folder, record

RED, PALE, WHITE = "red cell", "pale disc", "white cell"
Call = Callable[..., Run]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle, a folder with a bright, a dark and a broken image, and a video that never is opened."""
    make_folder(tmp_path / "bundle", engines=(record("fake"),))
    (tmp_path / "images").mkdir()
    for name, colour in {"a": "white", "b": "black"}.items():
        Image.new("RGB", (30, 20), colour).save(tmp_path / "images" / f"{name}.png")
    (tmp_path / "images" / "c.png").write_bytes(b"no image")
    (tmp_path / "film.mp4").write_bytes(b"")
    (tmp_path / "map.json").write_text(json.dumps({"a.png": [RED, WHITE]}))
    make_bank().save(tmp_path / "bank.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_detects_and_writes_what_is_asked_for(world: Path) -> None:
    outputs = {"out": "r.json", "overlays": "pictures", "coco": "c.json", "csv": "t.csv"}
    run = medprompt.infer("bundle", "images", **outputs)  # type: ignore[arg-type]
    assert [item.status for item in run.items] == ["OK_WITH_WARNINGS", "OK_WITH_WARNINGS", "REJECTED"]
    assert [item.path.name for item in run.failed] == ["c.png"]
    assert json.loads(Path("r.json").read_text()) == run.as_json()
    assert len(json.loads(Path("c.json").read_text())) == 4
    assert len(Path("t.csv").read_text().splitlines()) == 1 + 4 + 1 + 1
    assert sorted(path.name for path in Path("pictures").iterdir()) == ["a.png", "b.png"]


def test_it_answers_as_the_detector_does_and_keeps_no_image(world: Path) -> None:
    with medprompt.Detector.load("bundle") as detector:
        expected = detector("images/a.png")
    (item,) = medprompt.infer(medprompt.load_bundle("bundle"), world / "images" / "a.png").items
    assert item.detections == expected
    assert item.detections is not None and item.detections.image_rgb is None
    assert expected.image_rgb is not None


@pytest.mark.parametrize("images", [["images/a.png", "images/b.png"], (Path("images/a.png"), "images/b.png")])
def test_several_files(world: Path, images: Any) -> None:
    assert len(medprompt.infer("bundle", images).items) == 2


@pytest.mark.parametrize(
    ("options", "field", "expected"),
    [
        ({"labels": ["WBC"]}, "labels", ("WBC",)),
        ({"prompts": "bank.safetensors"}, "labels", ("RBC", "WBC")),
        ({"prompts": []}, "labels", ("RBC", "WBC")),
        ({"threshold": 1}, "thresholds", (1.0, 1.0)),
        ({"prompt_map": "map.json"}, "prompting", "map"),
        ({"select": "top:1"}, "prompting", "top:1"),
        ({"device": "fake", "threads": 1, "strict": True}, "engine", "fake"),
    ],
)
def test_options(world: Path, options: dict[str, Any], field: str, expected: Any) -> None:
    assert getattr(medprompt.infer("bundle", "images/a.png", **options), field) == expected


def test_tiles(world: Path) -> None:
    run = medprompt.infer("bundle", "images/a.png", tile=16, tile_overlap=0)
    assert run.tiling is not None
    assert (run.tiling.side, run.tiling.overlap) == (16, 0)


def test_resume_takes_over_what_was_answered(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = medprompt.infer("bundle", "images", out="r.json")
    monkeypatch.setattr("medprompt.runtime.engines.fake.Fake.run", lambda *_: pytest.fail("an image was run again"))
    second = medprompt.infer("bundle", "images", out="r.json", resume=True)
    assert second.as_json() == first.as_json()


@pytest.mark.parametrize(
    ("images", "options", "kind", "where"),
    [
        (np.zeros((4, 4, 3), np.uint8), {}, InputError, "images"),
        (3, {}, InputError, "images"),
        ([], {}, InputError, "images"),
        (["images/a.png", None], {}, InputError, "images"),
        ("gone.png", {}, ImageError, "gone.png"),
        ("images/a.png", {"threshold": 2}, InputError, "threshold"),
        ("images/a.png", {"threads": 0}, InputError, "threads"),
        ("images/a.png", {"device": "warp"}, EngineError, "device"),
        ("images/a.png", {"prompt_map": "map.json", "select": "top:1"}, InputError, "prompt_map, select"),
        ("images/a.png", {"select": "top:1", "tile": 8}, InputError, "tile, select"),
        ("images/a.png", {"select": "best"}, InputError, "select"),
        ("images/a.png", {"resume": True}, InputError, "resume"),
        ("images/a.png", {"sr": "reports"}, InputError, "sr"),
        ("images/a.png", {"seconds": 1}, InputError, "seconds, annotated"),
        ("images/a.png", {"annotated": "x.mp4"}, InputError, "seconds, annotated"),
        ("images/a.png", {"prompts": "gone.safetensors"}, BankError, "gone.safetensors"),
        ("images/a.png", {"labels": ["ghost"]}, BankError, "labels"),
        (["film.mp4", "images"], {}, InputError, ""),
        ("film.mp4", {"overlays": "x", "resume": True}, InputError, "overlays, resume"),
        ("film.mp4", {"prompt_map": "map.json"}, InputError, "prompt_map"),
    ],
)
def test_a_wrong_argument_is_named_before_anything_is_written(
    world: Path, images: Any, options: dict[str, Any], kind: type[InputError], where: str
) -> None:
    pytest.importorskip("highdicom")
    before = sorted(world.rglob("*"))
    with pytest.raises(kind) as caught:
        medprompt.infer("bundle", images, **options)
    assert caught.value.where == where
    assert "--" not in str(caught.value)
    assert sorted(world.rglob("*")) == before


def test_what_its_user_should_know_is_a_warning(world: Path) -> None:
    Path("map.json").write_text(json.dumps({"a.png": [RED, WHITE], "absent.png": [RED, WHITE]}))
    with pytest.warns(UserWarning, match="1 of 2 entries of the prompt map fit no image given: absent.png") as caught:
        medprompt.infer("bundle", "images/a.png", prompt_map="map.json")
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        medprompt.infer("bundle", "images/a.png")


def test_earlier_results_with_other_means_are_told(world: Path) -> None:
    medprompt.infer("bundle", "images/a.png", out="r.json")
    with pytest.warns(UserWarning, match="all images were run: the earlier results differ in classes"):
        medprompt.infer("bundle", "images/a.png", out="r.json", resume=True, threshold=0.9)


def test_reports_and_those_that_are_missing(world: Path) -> None:
    pytest.importorskip("highdicom")
    uids = {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.4"}
    write_dicom(world / "good.dcm", np.full((20, 30), 250, np.uint8), **uids)
    write_dicom(world / "nameless.dcm", np.full((20, 30), 250, np.uint8))
    told: list[str] = []
    files = ["good.dcm", "nameless.dcm", "images/a.png"]
    done = run_inference("bundle", files, InferOptions(sr=Path("reports")), warn=told.append)
    assert done.reports is not None
    assert [path.name for path in done.reports.written] == ["good.dcm"]
    assert [item.path.name for item, _ in done.reports.missing] == ["nameless.dcm"]
    assert told[0] == "1 analysed images have no report, for they are no DICOM files"
    assert told[1].startswith("nameless.dcm was analysed and has no report: ")


def test_steps_are_told(world: Path) -> None:
    steps: list[Any] = []

    class Listener:
        def step(self, name: str, total: int | None = None) -> None:
            steps.append([name, total, 0])

        def advance(self, count: int = 1) -> None:
            steps[-1][2] += count

    medprompt.infer("bundle", "images", progress=Listener())
    assert steps == [["detect", 3, 3]]
