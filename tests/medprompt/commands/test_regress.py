"""``medprompt bench regress``: exit codes and files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.benchmarks.fakes import LEVELS, fake_bundle, write_set
from tests.shared import Cli

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle and a labelled set."""
    folder = tmp_path_factory.mktemp("regress")
    fake_bundle(folder / "bundle")
    write_set(folder / "set", LEVELS)
    return folder


@pytest.fixture
def run(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli) -> Run:
    """Limits are wide for time: no test here is about it."""
    monkeypatch.chdir(tmp_path)
    Path("wide.toml").write_text("latency_ratio = 1e9\n")
    common = ("--baseline", "b.json", "--data", world / "set/labels.json", "--device", "fake")

    def call(*words: str) -> tuple[int, str, str]:
        words_of_all = ("bench", "regress", world / "bundle", *common, "--rounds", 5, "--resamples", 20, *words)
        return cli(*words_of_all)

    return call


def change(path: Path, **fields: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_write_compare_and_fail(run: Run) -> None:
    code, out, _ = run("--update-baseline", "--reason", "first release")
    assert (code, out) == (0, "baseline written: b.json\n")
    code, out, _ = run("--limits", "wide.toml", "--markdown", "m.md", "--junit", "j.xml", "--json")
    assert code == 0
    content = json.loads(out)
    assert content["outcome"] == "passed"
    assert content["baseline"]["reason"] == "first release"
    assert "first release" in Path("m.md").read_text()
    assert ElementTree.parse("j.xml").getroot().get("failures") == "0"
    change(Path("b.json"), bundle_bytes=10)
    code, out, err = run("--limits", "wide.toml", "--junit", "j.xml", "--force")
    assert code == 1
    assert "bundle size at most 1.1" in err
    assert "Against the baseline: failed" in out
    assert ElementTree.parse("j.xml").getroot().get("failures") == "1"


def test_no_verdict_has_an_exit_code_of_its_own(run: Run) -> None:
    run("--update-baseline", "--reason", "first")
    ratios = [10.0 ** (n % 7 - 3) for n in range(14)]
    change(Path("b.json"), latency={**json.loads(Path("b.json").read_text())["latency"], "ratios": ratios})
    code, _, err = run()
    assert code == 4
    assert "rounds would tell" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "There is no baseline"),
        (("--update-baseline",), "not changed without a reason"),
        (("--update-baseline", "--reason", "  "), "not changed without a reason"),
        (("--reason", "x"), "for a new baseline"),
        (("--against", "x", "--reference", "y"), "only be timed beside"),
        (("--limits", "none.toml"), "limits file cannot be read"),
    ],
)
def test_bad_usage_writes_nothing(words: tuple[str, ...], message: str, run: Run) -> None:
    code, _, err = run(*words)
    assert code == 2
    assert message in err
    assert not Path("b.json").exists()
