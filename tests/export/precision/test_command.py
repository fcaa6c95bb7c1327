"""``medprompt export --precision``: exit codes and what is printed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from medprompt.cli import main

PROMPTS = "classes: [{label: RBC, phrases: [red blood cell]}, {label: WBC, phrases: [white blood cell]}]"


@pytest.fixture
def run(
    tiny_checkpoint: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., tuple[int, str, str]]:
    """``run("--precision", "auto") -> (exit code, stdout, stderr)``."""
    (tmp_path / "p.yaml").write_text(PROMPTS)
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> tuple[int, str, str]:
        start = ["medprompt", "export", str(tiny_checkpoint("owlvit")), "--prompts", "p.yaml", "--out", "b"]
        monkeypatch.setattr(sys, "argv", [*start, *words])
        with pytest.raises(SystemExit) as caught:
            main()
        out, err = capsys.readouterr()
        return int(caught.value.code or 0), out, err

    return call


def test_auto_prints_its_plan(run: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = run("--precision", "auto")
    assert code == 0
    for text in ("Precision: model-auto.onnx", "backbone.layer0", "class head", "all half precision"):
        assert text in out


def test_json_holds_the_plan(run: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = run("--precision", "fp16", "--json")
    assert code == 0
    assert json.loads(out)["precision_plan"]["asked"] == "fp16"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--precision", "int8"], "--calibration DIR"),
        (["--precision", "auto", "--calibration", "x"], "nothing else does"),
        (["--precision", "int8", "--calibration", "none"], "none"),
        (["--precision", "fp8"], "fp8"),
    ],
)
def test_bad_usage_exits_2_and_writes_nothing(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path, words: list[str], text: str
) -> None:
    code, _, err = run(*words)
    assert code == 2
    assert text in err
    assert [path.name for path in tmp_path.iterdir()] == ["p.yaml"]
