"""A bundle with other thresholds: what it keeps, what it says, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medprompt.bundles.bill import file_entry
from medprompt.bundles.load import BANK_FILE, GOLDEN_FILE, MODEL_FILE, load_bundle, save_golden, write_manifest
from medprompt.core.errors import BundleError, InputError, MedpromptError, ParityError, PromptError
from medprompt.core.files import sha256_of_file
from medprompt.prompts.schema import Calibration, Prompts
from medprompt.prompts.summary import class_table, threshold_warnings
from medprompt.runtime import Detector
from medprompt.runtime.thresholds import REPORT_FILE, set_thresholds, threshold_report
from medprompt.runtime.verify import verify_bundle
from tests.runtime.bundles import make_folder, make_manifest, record

SHA = "0" * 64
CLASSES: list[dict[str, Any]] = [
    {"label": "RBC", "phrases": ["red cell", "pale disc"]},
    {"label": "WBC", "phrases": ["white cell"], "threshold": 0.5},
]


def calibration(**changes: Any) -> Calibration:
    fields = {"labels": ("RBC",), "data": "site/train.json", "images": 40, "sketch": "0" * 8, "checkpoint": SHA}
    return Calibration(**(fields | {"weights": False, "thresholds": True, "date": "2026-01-02"} | changes))


CHOSEN = calibration(labels=("RBC", "WBC"), chosen={"RBC": 0.3, "WBC": 0.5})


def prompts(*thresholds: float | None, **changes: Any) -> Prompts:
    rows = [{**entry, "threshold": value} for entry, value in zip(CLASSES, thresholds, strict=True)]
    return Prompts.model_validate({"classes": rows, **changes})


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A bundle with golden images, card, SBOM and signature."""
    manifest = make_manifest(engines=(record("ort-cpu"),))
    folder = make_folder(tmp_path / "source", engines=(record("ort-cpu"),))
    bank = load_bundle(folder).bank
    images = [np.random.default_rng(seed).integers(60, 256, (16, 24, 3)).astype(np.uint8) for seed in range(4)]
    with Detector.load(folder, "ort-cpu", threshold=0.0, self_test=False) as detector:
        save_golden(folder / GOLDEN_FILE, images, [detector(image) for image in images])
    warnings = "\n".join(f"- {line}" for line in threshold_warnings(bank.prompts, manifest))
    (folder / "MODEL_CARD.md").write_text(f"# Card\n\n{class_table(bank.prompts, 0.2)}\n\n## Warnings\n\n{warnings}\n")
    (folder / "sbom.json").write_text(json.dumps({"components": [file_entry(folder, folder / BANK_FILE)]}))
    write_manifest(folder, manifest)
    (folder / "manifest.sig").write_text("{}")
    return folder


def test_a_new_bundle_serves_and_says_where_its_thresholds_come_from(source: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in source.rglob("*") if path.is_file()}
    given = prompts(0.05, None, calibration=[calibration().model_dump()])
    report = set_thresholds(source, given, tmp_path / "new", by="A. Smith", device="ort-cpu")
    old, new = load_bundle(source), load_bundle(tmp_path / "new")
    assert before == {path: path.read_bytes() for path in source.rglob("*") if path.is_file()}
    assert threshold_report(new) == report
    assert threshold_report(old) is None
    assert (report.source_bundle_sha256, report.by, report.calibration) == (old.sha256, "A. Smith", (calibration(),))
    assert report.thresholds == {"RBC": 0.05, "WBC": None}
    assert (report.parity.threshold, report.parity.passed) == (0.05, True)
    assert new.sha256 != old.sha256
    assert new.manifest.engines == old.manifest.engines
    assert not (tmp_path / "new/manifest.sig").exists()
    assert sha256_of_file(tmp_path / "new" / MODEL_FILE) == sha256_of_file(source / MODEL_FILE)
    assert new.manifest.prompt_summary is not None
    assert new.manifest.prompt_summary.bank_sha256 == new.bank.content_hash()
    with Detector.load(new, "ort-cpu", self_test=False) as detector:
        assert detector.thresholds == pytest.approx((0.05, 0.2))
    assert verify_bundle(tmp_path / "new", "ort-cpu") == report.parity


def test_card_and_bill_follow(source: Path, tmp_path: Path) -> None:
    first, second, folder = prompts(0.05, 0.5), prompts(0.3, None), tmp_path / "second"
    set_thresholds(source, first, tmp_path / "first", device="ort-cpu")
    set_thresholds(tmp_path / "first", second, folder, device="ort-cpu")
    card, bank = (folder / "MODEL_CARD.md").read_text(), load_bundle(folder).bank
    assert class_table(bank.prompts, 0.2) in card
    assert [entry.threshold for entry in bank.prompts.classes] == [0.3, 0.5]
    assert "RBC 0.3 (set by hand), WBC 0.5 (set by hand)" in card
    assert "0.05" not in card
    assert card.count("## Thresholds") == 1
    parts = {part["name"]: part for part in json.loads((folder / "sbom.json").read_text())["components"]}
    assert parts == {name: file_entry(folder, folder / name) for name in (BANK_FILE, REPORT_FILE, "MODEL_CARD.md")}


@pytest.mark.parametrize(
    ("given", "match"),
    [
        (prompts(None, None), "has no threshold"),
        (prompts(0.3, 0.3, calibration=[calibration(checkpoint="a" * 64).model_dump()]), "another checkpoint"),
        (prompts(0.3, 0.3, pooling="mean"), "pooling changed"),
        (Prompts.model_validate({"classes": [{**CLASSES[0], "threshold": 0.3}]}), "class removed: WBC"),
        (
            Prompts.model_validate(
                {"classes": [{**CLASSES[0], "phrases": ["red cell"], "threshold": 0.3}, CLASSES[1]]}
            ),
            "phrase removed: RBC",
        ),
        (
            Prompts.model_validate(
                {"classes": [CLASSES[0], {**CLASSES[1], "phrases": [{"text": "white cell", "weight": 0.5}]}]}
            ),
            "weight changed: WBC",
        ),
    ],
)
def test_prompts_that_thresholds_do_not_fit(source: Path, tmp_path: Path, given: Prompts, match: str) -> None:
    with pytest.raises(PromptError, match=match):
        set_thresholds(source, given, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("name", "error"), [("source", InputError), ("old", InputError)])
def test_nothing_is_replaced(source: Path, tmp_path: Path, name: str, error: type[MedpromptError]) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old/thesis.txt").write_text("mine")
    for force in (False, True) if name == "source" else (False,):
        with pytest.raises(error):
            set_thresholds(source, prompts(0.3, 0.3), tmp_path / name, force=force)
    assert (tmp_path / "old/thesis.txt").read_text() == "mine"
    load_bundle(source)


def test_a_bundle_that_decides_otherwise_there_is_not_written(source: Path, tmp_path: Path) -> None:
    """What PyTorch found between the new threshold and the old one is not what this engine finds."""
    bundle = load_bundle(source)
    images = [np.full((16, 24, 3), 200 + seed, np.uint8) for seed in range(12)]
    with Detector.load(bundle, "ort-cpu", threshold=0.0, self_test=False) as detector:
        found = [detector(image) for image in images]
    shifted = [one[one.scores >= 0.2] for one in found]
    assert sum(map(len, found)) > sum(map(len, shifted)) > 20
    save_golden(source / GOLDEN_FILE, images, shifted)
    write_manifest(source, bundle.manifest)
    with pytest.raises(ParityError, match="at these thresholds"):
        set_thresholds(source, prompts(0.0, 0.3), tmp_path / "new", device="ort-cpu")
    assert not (tmp_path / "new").exists()


def test_without_golden_images_nothing_is_proven(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "source", engines=(record("ort-cpu"),))
    with pytest.raises(BundleError, match="no golden images"):
        set_thresholds(folder, prompts(0.3, 0.3), tmp_path / "new", device="ort-cpu")


@pytest.mark.parametrize(
    ("given", "warned"),
    [
        (prompts(0.3, 0.5), "RBC 0.3 (set by hand), WBC 0.5 (set by hand)"),
        (prompts(None, 0.5, calibration=[calibration(labels=("RBC", "WBC")).model_dump()]), "RBC 0.2 (the default)."),
        (prompts(0.3, 0.5, calibration=[calibration(checkpoint="b").model_dump()]), "RBC 0.3 (set by hand), WBC"),
        (prompts(0.3, 0.5, calibration=[calibration(thresholds=False, weights=True).model_dump()]), "RBC 0.3"),
        (prompts(0.3, 0.5, calibration=[calibration(labels=("RBC", "WBC")).model_dump()]), ""),
        (prompts(0.3, 0.5, calibration=[CHOSEN.model_dump()]), ""),
        (prompts(0.02, 0.5, calibration=[CHOSEN.model_dump()]), "RBC 0.02 (set by hand). How"),
    ],
)
def test_thresholds_that_were_not_calibrated_are_named(given: Prompts, warned: str) -> None:
    warnings = threshold_warnings(given, make_manifest())
    assert len(warnings) == bool(warned)
    assert warned in "".join(warnings)
