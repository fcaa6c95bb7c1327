"""``medprompt bench site``: recorded at export, compared, attached, and thresholds from a few labels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import medprompt
from medprompt.benchmarks.regression.limits import Limits
from medprompt.benchmarks.release.results import result_of
from medprompt.bundles.load import load_bundle
from medprompt.images.read import find_images, load_image
from medprompt.prompts.file import prompts_from_yaml
from medprompt.runtime.site import row_of_image
from medprompt.site.record import SITE_FILE, read_record, record_of_bundle
from tests.benchmarks.conftest import TinyDemo
from tests.benchmarks.fakes import fake_bundle, write_set
from tests.shared import Cli


def levels(count: int, seed: int, brighter: float = 0.0) -> list[list[float]]:
    """Brightness of the quarters of each image."""
    random = np.random.default_rng(seed)
    return np.clip(random.normal(0.4 + brighter, 0.15, (count, 4)), 0, 1).tolist()


@pytest.fixture
def world(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle with an attached record of what it was proven on, and images of two sites."""
    monkeypatch.chdir(tmp_path)
    fake_bundle(tmp_path / "bundle")
    write_set(tmp_path / "proven", levels(40, 1))
    write_set(tmp_path / "alike", levels(24, 2))
    write_set(tmp_path / "brighter", levels(24, 3, 0.3), bright=0.75)
    assert cli("bench", "site", "bundle", "--images", "proven", "--record", "site.json")[0] == 0
    return tmp_path


def test_export_records_the_images_it_was_proven_on(tiny_demo: TinyDemo) -> None:
    bundle = load_bundle(tiny_demo.report.out / "bundle")
    found = record_of_bundle(bundle)
    assert SITE_FILE in bundle.manifest.files
    assert SITE_FILE in {one["name"] for one in json.loads((bundle.path / "sbom.json").read_text())["components"]}
    with medprompt.Detector.load(bundle) as detector:
        rows = [row_of_image(load_image(path), detector, found.threshold) for path in find_images([tiny_demo.samples])]
    assert found.matrix == pytest.approx(np.array(rows), rel=2e-3, abs=2e-3)  # PyTorch's answers beside the engine's


def test_a_bundle_without_a_record_names_the_command(world: Path, cli: Cli) -> None:
    code, _, error = cli("bench", "site", "bundle", "--images", "alike")
    assert (code, "--record site.json, then medprompt bundle attach" in error) == (2, True)


@pytest.mark.parametrize(
    ("images", "code", "said"),
    [("alike", 0, "fits"), ("brighter", 1, "brightness higher"), ("alike/0.png", 4, "too few images")],
)
def test_exit_codes(world: Path, cli: Cli, images: str, code: int, said: str) -> None:
    assert cli("bundle", "attach", "bundle", "site.json")[0] == 0
    found = cli("bench", "site", "bundle", "--images", images)
    assert (found[0], said in " ".join((found[1] + found[2]).split())) == (code, True), found


def test_an_unread_image_is_no_quiet_fit(world: Path, cli: Cli) -> None:
    (world / "alike" / "broken.png").write_bytes(b"no image")
    code, _, error = cli("bench", "site", "bundle", "--images", "alike", "--against", "site.json")
    assert (code, "1 images were not read" in error, "broken.png" in error) == (1, True, True)


def test_the_report_goes_into_the_change_record(world: Path, cli: Cli) -> None:
    bundle = load_bundle(world / "bundle")
    for path, outcome in (("brighter", "failed"), ("alike", "passed")):
        said = cli("bench", "site", "bundle", "--images", path, "--against", "site.json", "--json")[1]
        about = json.loads(said)
        found = result_of("site", about, bundle, Limits())
        assert (found.outcome, about["bundle_sha256"]) == (outcome, bundle.sha256)
        Path("report.json").write_text(said)
        assert cli("bundle", "attach", "bundle", "report.json")[0] == 0
    recorded = result_of("site record", json.loads(Path("site.json").read_text()), bundle, Limits())
    assert recorded.outcome == "measured"
    assert recorded.tables[0].rows[0][0] == "width"


def test_without_labels_it_says_how_many_are_needed(world: Path, cli: Cli) -> None:
    words = ("bench", "site", "bundle", "--images", "alike", "--against", "site.json")
    _, said, _ = cli(*words, "--within", "0.1")
    assert "Labelled images needed" in said
    few, many = (
        json.loads(cli(*words, "--json", "--within", within)[1])["labelled_images_needed"]["RBC"]
        for within in ("0.1", "0.05")
    )
    assert 3.5 * few < many <= 4 * few


def test_a_few_labels_choose_thresholds_that_the_bundle_takes(world: Path, cli: Cli) -> None:
    words = ("bench", "site", "bundle", "--images", "brighter", "--against", "site.json")
    code, said, _ = cli(*words, "--data", "brighter/labels.json", "--thresholds", "site.yaml", "--json")
    assert code == 1
    labelled = json.loads(said)["labelled"]
    own, new = (labelled[name]["RBC"] for name in ("at_the_bundles_thresholds", "recalibrated"))
    assert own["threshold"] == 0.2
    assert 0.65 < new["threshold"] < 0.8
    assert new["sensitivity"]["value"] > 0.8
    assert new["false_positives_an_image"]["value"] < own["false_positives_an_image"]["value"]
    prompts = prompts_from_yaml(Path("site.yaml"))
    assert prompts.classes[0].threshold == pytest.approx(new["threshold"], abs=1e-4)
    assert prompts.calibration is not None
    assert prompts.calibration[-1].thresholds
    plain = cli(*words, "--data", "brighter/labels.json")[1]
    assert "The bundle on" in plain and "chosen here" in plain


def test_what_is_written_can_be_replaced_only_with_leave(world: Path, cli: Cli) -> None:
    words = ("bench", "site", "bundle", "--images", "proven", "--record", "site.json")
    assert cli(*words)[0] == 2
    assert cli(*words, "--force")[0] == 0
    assert len(read_record(Path("site.json")).rows) == 40
    Path("mine.json").write_text("{}")
    assert cli(*words[:-1], "mine.json", "--force")[0] == 2
    assert Path("mine.json").read_text() == "{}"


@pytest.mark.parametrize("words", [("--against", "site.json", "--record", "b.json"), ("--thresholds", "t.yaml")])
def test_options_that_do_not_go_together(world: Path, cli: Cli, words: tuple[str, ...]) -> None:
    assert cli("bench", "site", "bundle", "--images", "alike", *words)[0] == 2
