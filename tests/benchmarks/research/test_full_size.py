"""The full-size run: a checkpoint for every family, and the steps a user would take, here with the work left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from medprompt.benchmarks.latency.processes import Process
from medprompt.benchmarks.research import full_size
from medprompt.benchmarks.research.full_size import OTHER_PHRASES, PHRASES, rows, run_family
from medprompt.benchmarks.research.full_size_checkpoints import FULL_SIZE, full_size_checkpoint
from medprompt.core.errors import InputError, MedpromptError
from medprompt.export.checkpoint import family_from_checkpoint
from medprompt.export.families import FAMILIES

PLAN = {"half_flops_share": 0.75, "parity": {"typed": {"kept": 0.995}}}
ANSWER = {"engine": "ort-cpu", "items": [{"detections": [{}, {}]}]}


def test_every_family_has_one() -> None:
    assert set(FULL_SIZE) - {"glip-l"} == set(FAMILIES), "GLIP in two sizes"


def test_an_unknown_family(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="owlv2"):
        full_size_checkpoint("yolo", tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What would have been run; files that the steps leave are made."""
    seen: list[list[str]] = []

    def process(words: list[str], threads: int) -> tuple[Process, str]:
        seen.append(words[1:])
        bundle = Path(words[2])
        printed: Any = None
        if words[1] == "export":
            Path(words[words.index("--out") + 1]).mkdir()
            printed = {"engines": [], "precision_plan": PLAN}
        elif words[1] == "compile":
            (bundle / "engine").write_bytes(bytes(2_000_000))
            printed = {"path": "engine", "activation_bytes": 3 << 20}
        elif words[1] == "infer":
            printed = ANSWER
        return Process(1.0, 0.5, 2048.0), json.dumps(printed) if printed else "a sentence"

    monkeypatch.setattr(full_size, "measured_process", process)
    monkeypatch.setattr(full_size, "full_size_checkpoint", lambda family, folder, seed: None)
    return seen


def test_the_steps_and_their_figures(commands: list[list[str]], tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    run = run_family("owlv2", tmp_path / "work", [tmp_path / "x.png"], 1)
    assert [words[0] for words in commands] == ["export", "compile", "compile", "prompts", "infer", "infer"]
    assert commands[1][-2:] == ["fp32", "--json"] and commands[2][-2:] == ["auto", "--json"]
    assert "--prompts" in commands[5] and "--prompts" not in commands[4]
    assert len(OTHER_PHRASES) > len(PHRASES)
    assert run.megabytes == {"engine fp32": 2.0, "engine auto": 2.0}
    assert run.facts["infer"] == {"detections": 2, "engine": "ort-cpu"}
    fp32, auto = rows(run)
    assert fp32 == ("owlv2", "fp32", "2", "1", "2.0", "3", "0 %", "")
    assert auto[-2:] == ("75.0%", "99.50%")
    assert json.loads(json.dumps(run.as_json()))["steps"]["export"]["peak_mib"] == 2048.0


def test_fp32_alone(commands: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.benchmarks.research.test_full_size.PLAN", None)
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    run = run_family("glip", tmp_path / "work", [tmp_path / "x.png"], 1, builds=("fp32",))
    assert [words[0] for words in commands] == ["export", "compile", "prompts", "infer", "infer"]
    assert commands[0][commands[0].index("--precision") + 1] == "fp32"
    assert [row[1] for row in rows(run)] == ["fp32"]


def test_a_step_that_fails_ends_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fails(words: list[str], threads: int) -> tuple[Process, str]:
        raise MedpromptError("A measured program failed.")

    monkeypatch.setattr(full_size, "measured_process", fails)
    monkeypatch.setattr(full_size, "full_size_checkpoint", lambda family, folder, seed: None)
    with pytest.raises(MedpromptError):
        run_family("owlv2", tmp_path / "work", [], 1)


@pytest.mark.slow
@pytest.mark.parametrize("family", [name for name in sorted(FAMILIES) if "sam3" not in name])  # 3.4 GB each
def test_checkpoints_load(family: str, tmp_path: Path) -> None:
    full_size_checkpoint(family, tmp_path / "checkpoint")
    size_hw = (800, 1066) if "grounding" in family else None
    assert family_from_checkpoint(tmp_path / "checkpoint", size_hw).preprocess().size_hw[0] >= 640
