"""The change record: what differs is named, what fails says so first, and nothing foreign or blank gets in."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from medprompt.benchmarks.regression import regress
from medprompt.benchmarks.regression.limits import Limits
from medprompt.benchmarks.release.changes import modifications
from medprompt.benchmarks.release.plan import Plan, read_plan
from medprompt.benchmarks.release.results import result_of
from medprompt.bundles.load import load_bundle
from medprompt.bundles.signing import make_key_pair
from medprompt.core.errors import InputError
from medprompt.core.manifest import Preprocess
from tests.benchmarks.fakes import LEVELS, fake_bundle, write_set
from tests.papers import accuracy_report
from tests.runtime.bundles import SIZE_HW, make_bank, make_folder, record
from tests.shared import Cli

EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "limits.toml"
LOOSE = {"latency_ratio": 1000, "memory_ratio": 1000, "bundle_size_ratio": 1000}


@dataclass(frozen=True)
class Release:
    """Bundles, data and a plan that leaves nothing blank; ``run`` is the command with them."""

    folder: Path
    run: Callable[..., tuple[int, str, str]]

    @property
    def out(self) -> Path:
        return self.folder / "record"

    @property
    def record(self) -> dict[str, Any]:
        return dict(json.loads((self.out / "record.json").read_text()))


@pytest.fixture
def release(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Release:
    monkeypatch.setattr(regress, "peak_of_infer", lambda *_: 100.0)
    fake_bundle(tmp_path / "old")
    make_folder(tmp_path / "new", make_bank(), engines=(record("fake"),), intended_use="Research. Counting cells.")
    write_set(tmp_path / "set", LEVELS)
    text = EXAMPLE.read_text()
    for name, value in LOOSE.items():
        text = "\n".join(f"{name} = {value}" if line.startswith(name) else line for line in text.splitlines())
    (tmp_path / "limits.toml").write_text(text)
    make_key_pair(tmp_path / "k.pem", tmp_path / "k.pub.pem")

    def run(*more: object, new: str = "new") -> tuple[int, str, str]:
        words = ("--baseline", tmp_path / "old", "--limits", tmp_path / "limits.toml", "--out", tmp_path / "record")
        return cli("release", tmp_path / new, *words, "--no-pdf", *more)

    return Release(tmp_path, run)


def measured(release: Release) -> tuple[object, ...]:
    data = ("--data", release.folder / "set" / "labels.json", "--rounds", 5, "--resamples", 50, "--device", "fake")
    return (*data, "--private-key", release.folder / "k.pem")


def test_a_release_within_its_limits(release: Release, cli: Cli) -> None:
    code, said, error = release.run(*measured(release), "--strict")
    assert (code, "PASSED" in said) == (0, True), error
    found = release.record
    assert (next(iter(found)), found["outcome"], found["blanks"]) == ("outcome", "passed", [])
    assert [one["what"] for one in found["description_of_modifications"]["modifications"]] == ["intended use"]
    assert found["modification_protocol"]["limits"]["ap50_drop"] == 0.01
    assert found["impact_assessment"]["results"][0]["outcome"] == "passed"
    page = (release.out / "record.html").read_text()
    assert page.index("PASSED") < page.index("1. Description of Modifications") < page.index("2. Modification Protocol")
    assert "3. Impact Assessment" in page and "BLANK" not in page
    verified = cli("verify", release.out, "--key", release.folder / "k.pub.pem")
    assert (verified[0], "passed" in verified[1]) == (0, True)


def test_a_planted_fault_fails_and_the_record_says_so_first(release: Release) -> None:
    swapped = make_bank([{"label": "WBC", "phrases": ["a"]}, {"label": "RBC", "phrases": ["b"]}])
    make_folder(release.folder / "worse", swapped, engines=(record("fake"),))
    code, said, error = release.run(*measured(release), new="worse")
    assert (code, "FAILED" in said, "beyond a limit" in error) == (1, True, True)
    assert release.record["outcome"] == "failed"
    body = (release.out / "record.html").read_text().partition("<body>")[2]
    assert body.index("FAILED") < 80
    assert {"prompts"} <= {one["part"] for one in release.record["description_of_modifications"]["modifications"]}


def test_a_signed_record_that_was_changed_is_refused(release: Release, cli: Cli) -> None:
    code, _, _ = release.run("--private-key", release.folder / "k.pem")
    assert code == 4  # nothing was held against the limits
    verify = ("verify", release.out, "--key", release.folder / "k.pub.pem")
    for name in ("record.json", "record.html", "record.sha256", "more.pdf"):
        assert cli(*verify)[0] == 0
        path = release.out / name
        before = path.read_bytes() if path.exists() else None
        path.write_bytes((before or b"") + b" ")
        assert cli(*verify)[0] == 2
        path.unlink() if before is None else path.write_bytes(before)


def test_what_was_not_tested_has_no_verdict(release: Release) -> None:
    code, said, error = release.run()
    assert (code, "NO VERDICT" in said, "left blank: signature" in error) == (4, True, True)
    assert "NOT TESTED" in (release.out / "record.html").read_text()


def without(text: str, name: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.startswith(f"{name} = "))


@pytest.mark.parametrize("name", ["intended_use", "known_limits", "reason", "risks", "signers", "ap50_drop"])
def test_a_strict_release_refuses_blanks_before_anything_is_measured(release: Release, name: str) -> None:
    path = release.folder / "limits.toml"
    path.write_text(without(path.read_text(), name))
    code, _, error = release.run(*measured(release), "--strict")
    assert (code, name.replace("_", " ") in error.replace("_", " ")) == (2, True)
    assert not release.out.exists()


def test_a_strict_release_is_signed(release: Release) -> None:
    code, _, error = release.run("--strict")
    assert (code, "signature" in error) == (2, True)


def regression(release: Release, **changes: Any) -> dict[str, Any]:
    check = {"name": "AP50 loss, set", "change": 0.0, "low": 0.0, "high": 0.0, "limit": 0.01, "images": 4, "more": None}
    place = {"device": "fake", "threads": 1}
    old, new = (load_bundle(release.folder / name).sha256 for name in ("old", "new"))
    before = {"bundle_sha256": old, "created": "2026-01-01T00:00:00Z", "reason": "first", "place": place}
    content = {
        "outcome": "passed",
        "checks": [check],
        "notes": [],
        "bundle_sha256": new,
        "baseline": before,
        "place": place,
    }
    return content | changes


def given(release: Release, content: dict[str, Any]) -> tuple[int, str, str]:
    path = release.folder / "report.json"
    path.write_text(json.dumps(content))
    return release.run("--report", path)


def test_reports_are_taken_and_judged_anew(release: Release, cli: Cli) -> None:
    new = load_bundle(release.folder / "new")
    accuracy_report(new, release.folder / "accuracy.json")
    cli("bundle", "attach", release.folder / "new", release.folder / "accuracy.json")
    assert given(release, regression(release))[0] == 0
    assert {one["kind"]: one["outcome"] for one in release.record["impact_assessment"]["results"]} == {
        "regression": "passed",
        "accuracy": "measured",
    }
    (worse,) = regression(release)["checks"]
    lying = regression(release, checks=[{**worse, "change": 0.3, "low": 0.2, "high": 0.4}])
    assert release.run("--report", release.folder / "report.json")[0] == 2  # the record is there
    (release.folder / "report.json").write_text(json.dumps(lying))
    assert release.run("--report", release.folder / "report.json", "--force")[0] == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bundle_sha256": "0" * 64}, "about another bundle"),
        ({"baseline": {"bundle_sha256": "0" * 64}}, "against another bundle"),
        (
            {"checks": [{"name": "AP50 loss, set", "change": 0, "low": 0, "high": 0, "limit": 0.5, "images": 4}]},
            "another limit",
        ),
        ({"checks": [{"name": "AP50 loss, set"}]}, "lacks what its kind has"),
    ],
    ids=["new bundle", "old bundle", "limit", "cut off"],
)
def test_a_foreign_report_is_refused(release: Release, changes: dict[str, Any], words: str) -> None:
    code, _, error = given(release, regression(release, **changes))
    assert (code, words in error) == (2, True), error
    assert not release.out.exists()


def test_a_report_of_another_kind_speaks_for_itself(release: Release) -> None:
    old, sha = load_bundle(release.folder / "old"), load_bundle(release.folder / "new").sha256
    table = {"title": "Prompts", "columns": ["class", "verdict"], "rows": [["RBC", "reads"], ["WBC", "ignores"]]}
    content = {"kind": "prompts audit", "bundle_sha256": sha, "outcome": "failed", "tables": [table]}
    found = result_of("prompts audit", content, old, Limits())
    assert (found.outcome, found.tables[0].rows[1]) == ("failed", ("WBC", "ignores"))
    with pytest.raises(InputError, match="lacks"):
        result_of("prompts audit", content | {"outcome": "fine"}, old, Limits())
    assert given(release, content)[0] == 1


def test_unread_images_are_no_pass(release: Release) -> None:
    new = load_bundle(release.folder / "new")
    path = accuracy_report(new, release.folder / "accuracy.json")
    content = json.loads(path.read_text())
    content["sets"][0]["unread"] = ["broken.png"]
    found = result_of("accuracy", content, load_bundle(release.folder / "old"), Limits())
    assert (found.outcome, found.tables[-1].rows) == ("no verdict", [("cells:val", "broken.png")])


def test_each_part_that_changed_is_named(tmp_path: Path) -> None:
    old = make_folder(tmp_path / "old", make_bank(), engines=(record("ort-cpu"),), versions={"onnx": "1.0"})
    new = make_folder(
        tmp_path / "new",
        make_bank([{"label": "RBC", "phrases": ["red cell"]}]),
        engines=(record("openvino"),),
        versions={"onnx": "1.1", "torch": "2"},
        checkpoint_sha256="1" * 64,
        default_threshold=0.3,
        preprocess=Preprocess(size_hw=SIZE_HW, resample="bicubic"),
        precision="auto",
        warnings=("careful",),
    )
    found = modifications(load_bundle(old), load_bundle(new))
    parts = {one.part for one in found}
    assert parts == {"weights", "prompts", "thresholds", "preprocessing", "precision", "engines", "libraries", "papers"}
    assert ("libraries", "onnx", "1.0", "1.1") in {tuple(one.as_json().values()) for one in found}
    assert modifications(load_bundle(old), load_bundle(old)) == ()


def test_the_example_of_the_pages_leaves_nothing_blank() -> None:
    plan = read_plan(EXAMPLE)
    assert list(plan.blanks()) == []
    assert plan.plan.signers[0].role == "development"


@pytest.mark.parametrize("text", ["[plan]\ncolour = 1", "[plan]\nsigners = 3", "ap50_drop = 2", "plan = 3", "["])
def test_a_plan_with_a_fault_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "limits.toml"
    path.write_text(text)
    with pytest.raises(InputError):
        read_plan(path)


def test_an_empty_file_is_all_blank(tmp_path: Path) -> None:
    path = tmp_path / "limits.toml"
    path.write_text("")
    assert len(list(read_plan(path).blanks())) == len(Plan.model_fields) + 1
