"""The demo from checkpoint to pictures, on tiny data; and what ships with it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from medprompt.benchmarks.demo import IMAGES, measured_figures, run_demo, sample_sets
from medprompt.benchmarks.report.contact_sheet import contact_sheet
from medprompt.core.errors import DataError, InputError
from medprompt.images.read import load_image
from medprompt.runtime.verify import verify_bundle
from tests.benchmarks.conftest import TinyDemo


def test_the_folder_holds_what_the_report_says(tiny_demo: TinyDemo) -> None:
    report = tiny_demo.report
    assert sorted(path.name for path in report.out.iterdir()) == [
        ".medprompt",
        "bundle",
        "contact-sheet.png",
        "pictures",
        "results.json",
    ]
    assert json.loads((report.out / "results.json").read_text()) == json.loads(json.dumps(report.as_json()))
    for entry in report.shown:
        with Image.open(report.out / entry.picture) as picture:
            assert max(picture.size) >= 640
    assert verify_bundle(report.out / "bundle").passed


def test_tables_say_what_ten_images_are_worth(tiny_demo: TinyDemo) -> None:
    accuracy, latency = tiny_demo.report.tables()
    assert "do not measure the model" in accuracy.caption
    assert [len(row) for row in accuracy.rows] == [len(accuracy.columns)] * 2
    assert {len(row) for row in latency.rows} == {len(latency.columns)}
    assert latency.rows[0][0] == "PyTorch fp32"
    assert len(latency.rows) >= 2


def test_every_set_is_asked_for_its_own_classes(tiny_demo: TinyDemo) -> None:
    accuracy = tiny_demo.report.as_json()["accuracy_on_samples"]
    assert [(entry["labels"], entry["images"], entry["boxes"]) for entry in accuracy["sets"]] == [
        (["RBC", "WBC"], 2, 4),
        (["nucleus"], 1, 1),
    ]
    assert accuracy["passed"] is True
    for entry in accuracy["sets"]:
        assert entry["parity"]["decisions"] > 0
        assert entry["parity"]["kept"] == 1.0
        assert abs(entry["delta_ap"]) <= 0.001
        for side in ("reference", "bundle"):
            assert set(entry[side]) == {"ap", "ap50", "ap_by_label", "ap50_by_label"}
            assert set(entry[side]["ap_by_label"]) == set(entry["labels"])


def test_one_failed_set_fails_the_report(tiny_demo: TinyDemo) -> None:
    accuracy = tiny_demo.report.accuracy
    first, second = accuracy.sets
    assert first.parity is not None
    failed = replace(first, parity=first.parity.model_copy(update={"passed": False}))
    changed = replace(tiny_demo.report, accuracy=replace(accuracy, sets=(failed, second)))
    assert changed.as_json()["accuracy_on_samples"]["passed"] is False
    assert [row[-1] for row in changed.tables()[0].rows] == ["FAILED", "passed"]


def test_an_output_that_exists_is_kept(tiny_demo: TinyDemo) -> None:
    before = (tiny_demo.report.out / "results.json").read_bytes()
    with pytest.raises(InputError, match="exists already"):
        run_demo(
            tiny_demo.report.out,
            checkpoint=tiny_demo.checkpoint,
            prompts=tiny_demo.prompts,
            samples=tiny_demo.samples,
        )
    assert (tiny_demo.report.out / "results.json").read_bytes() == before


def test_a_failed_demo_leaves_nothing(tiny_demo: TinyDemo, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        run_demo(tmp_path / "out", checkpoint=tmp_path, prompts=tiny_demo.prompts, samples=tiny_demo.samples)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content, figures",
    [('{"ap50/bccd": 0.66, "ap/bccd": 1}', {"ap50/bccd": 0.66, "ap/bccd": 1.0}), ("{}", {}), (None, {})],
)
def test_measured_figures(tmp_path: Path, content: str | None, figures: dict[str, float]) -> None:
    if content is not None:
        (tmp_path / "measured.json").write_text(content)
    assert measured_figures(tmp_path) == figures


@pytest.mark.parametrize("content", ["[1]", "{", '{"ap": "high"}', '{"ap": null}'])
def test_damaged_figures_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "measured.json").write_text(content)
    with pytest.raises(InputError, match="figures cannot be read"):
        measured_figures(tmp_path)


def test_shipped_samples_are_whole_and_small() -> None:
    found = {Path(entry.name).parent.name: entry for entry in sample_sets(IMAGES)}
    assert {name: len(entry.images) for name, entry in found.items()} == {"bccd": 6, "nuclei": 4}
    assert {label for entry in found.values() for label in entry.labels} == {
        "RBC",
        "WBC",
        "Platelets",
        "nucleus",
    }
    for labelled in found.values():
        assert labelled.dropped == ()
        for image in labelled.images:
            assert load_image(image.path).shape[:2] == image.size_hw
            assert len(image.boxes_xyxy) > 0
    assert sum(path.stat().st_size for path in IMAGES.rglob("*") if path.is_file()) <= 2_000_000


def test_no_samples_and_damaged_samples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no labelled sample images"):
        sample_sets(tmp_path)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "labels.json").write_text("{}")
    with pytest.raises(DataError):
        sample_sets(tmp_path)


@pytest.mark.parametrize("count, rows", [(0, 1), (1, 1), (3, 1), (4, 2)])
def test_contact_sheet_grows_by_rows(tmp_path: Path, count: int, rows: int) -> None:
    Image.new("RGB", (900, 30), "red").save(tmp_path / "wide.png")
    sheet = contact_sheet([tmp_path / "wide.png"] * count, ["text"] * count)
    assert sheet.size == (max(1, min(3, count)) * 528 + 8, rows * 436 + 8)
    assert (sheet.getpixel((268, 208)) == (255, 0, 0)) == (count > 0)
