"""What version 0.1 made keeps working: a bundle, its bank, results to resume, a baseline."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medprompt.core.packages import package_versions
from medprompt.runtime.batch import PACKAGES
from tests.shared import Cli

OLD = Path(__file__).parent / "v0.1"
BUNDLE = str(OLD / "bundle")


@pytest.fixture
def run(cli: Cli) -> Cli:
    """``run("verify", …)``: any command."""
    return cli


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to work in; the paths in the old files start there."""
    shutil.copytree(OLD, tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")
    return tmp_path / "old"


def rows(results: dict[str, Any]) -> list[tuple[str, str, list[float], float]]:
    return [
        (item["file"], found["label"], found["box_xyxy"], found["score"])
        for item in results["items"]
        for found in item["detections"]
    ]


def same(found: dict[str, Any], old: dict[str, Any]) -> bool:
    """The same decisions; another processor may round the last digit otherwise."""
    ours, theirs = rows(found), rows(old)
    assert len(theirs) == 24
    return [row[:2] for row in ours] == [row[:2] for row in theirs] and all(
        np.allclose([*one[2], one[3]], [*two[2], two[3]], atol=2e-3) for one, two in zip(ours, theirs, strict=True)
    )


def test_a_bundle_verifies(run: Any) -> None:
    code, said, _ = run("verify", BUNDLE, "--device", "ort-cpu")
    assert (code, "hashes ok" in said) == (0, True)


@pytest.mark.parametrize("bank", [(), ("--prompts", "bank.safetensors")])
def test_a_bundle_and_a_bank_detect_the_same(run: Any, folder: Path, bank: tuple[str, ...]) -> None:
    code, said, _ = run("infer", "bundle", "images", "--device", "ort-cpu", "--json", *bank)
    assert code == 0
    assert same(json.loads(said), json.loads((OLD / "results.json").read_text()))


def as_if_here(path: Path) -> dict[str, Any]:
    """Old results as this machine would have made them: the libraries of today, the medprompt of then."""
    old: dict[str, Any] = json.loads(path.read_text())
    there = package_versions(PACKAGES)
    path.write_text(json.dumps(old | {"versions": {**there, "medprompt": old["versions"]["medprompt"]}}))
    return old


def test_unfinished_results_are_resumed(run: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Version 0.1 showed some files otherwise: all images are run again, which is said, and the results are whole."""
    from medprompt.runtime.detector import Detector

    calls: list[int] = []
    whole = Detector.submit

    def counting(self: Detector, feeds: Any, *rest: Any) -> Any:
        calls.append(len(feeds["image"]))
        return whole(self, feeds, *rest)

    monkeypatch.setattr(Detector, "submit", counting)
    assert as_if_here(folder / "unfinished.json")["versions"]["medprompt"] == "0.1.0"
    code, _, said = run("infer", "bundle", "images", "--device", "ort-cpu", "--out", "unfinished.json", "--resume")
    assert (code, sum(calls)) == (0, 3), said
    assert "all images were run: the earlier results differ in versions" in said
    found = json.loads((folder / "unfinished.json").read_text())
    assert found["complete"] is True
    assert same(found, json.loads((OLD / "results.json").read_text()))


def test_a_baseline_is_compared_with(run: Any, folder: Path) -> None:
    code, _, said = run(
        *("bench", "regress", "bundle", "--baseline", "baseline.json", "--data", "val.json", "--rounds", "5"),
        *("--device", "ort-cpu", "--force"),
    )
    assert code in (0, 1, 4), said  # times are another machine's; that the old file is read is what shows
