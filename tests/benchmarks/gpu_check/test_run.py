"""Sections in processes of their own: what they say, and what is said of those that cannot say it any more."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from medprompt.benchmarks.gpu_check import child, run
from medprompt.benchmarks.gpu_check.notes import Notes, NotRun, Subject, expect
from medprompt.benchmarks.gpu_check.run import GpuCheck, Outcome, outcome_of, run_gpu_check
from medprompt.benchmarks.gpu_check.sections import SECTIONS, Section
from medprompt.core.errors import InputError
from tests.shared import Cli

NO_GPU = "not run: no GPU: no driver"


def test_all_sections_together_are_within_ten_minutes() -> None:
    assert sum(section.limit_s for section in SECTIONS.values()) <= 600
    assert all(callable(section.load()) for section in SECTIONS.values())


def _ok(subject: Subject, notes: Notes) -> None:
    notes.add("speed", {"GB/s": 2.5})


def _one_of_two(subject: Subject, notes: Notes) -> None:
    notes.check("first", lambda: expect(False, "2 of 3 values are wrong") or {})
    notes.check("second", lambda: {"us": 3})


def _absent(subject: Subject, notes: Notes) -> None:
    raise NotRun("no GPU: no driver")


def _broken(subject: Subject, notes: Notes) -> None:
    raise KeyError("name")


@pytest.mark.parametrize(
    ("function", "status", "facts"),
    [
        (_ok, "ok", {"speed": {"GB/s": 2.5}}),
        (
            _one_of_two,
            "failed: first: 2 of 3 values are wrong",
            {"first": {"status": "failed: 2 of 3 values are wrong"}, "second": {"status": "ok", "us": 3}},
        ),
        (_absent, NO_GPU, {}),
        (_broken, "failed: KeyError: 'name'", {}),
    ],
)
def test_how_a_section_ends(
    function: Any, status: str, facts: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Section, "load", lambda _: function)
    child.run_section("worker", Subject(), Notes(tmp_path / "notes.json"))
    assert json.loads((tmp_path / "notes.json").read_text()) == {**facts, "status": status}


NOTE = 'import pathlib, sys; pathlib.Path(sys.argv[2]).write_text(\'{"came": "so far"}\'); '


@pytest.mark.parametrize(
    ("code", "limit_s", "status"),
    [
        ("import os; os.kill(os.getpid(), 11)", 20, "failed: the process ended with SIGSEGV"),
        ("sys.stderr.write('CUDA error 700'); sys.exit(3)", 20, "failed: the process ended with exit code 3: CUDA er"),
        ("import time; time.sleep(60)", 0.3, "failed: stopped after 0 s"),
    ],
)
def test_a_process_that_cannot_say_how_it_ended(
    code: str, limit_s: float, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[bytes]] = []

    class Other(subprocess.Popen[bytes]):
        def __init__(self, command: list[str], **options: Any) -> None:
            super().__init__([sys.executable, "-S", "-c", NOTE + code, *command[4:]], **options)
            started.append(self)

    monkeypatch.setattr(run.subprocess, "Popen", Other)
    found = outcome_of("worker", Section("", limit_s), Subject(), lambda: None)
    assert found.status.startswith(status)
    assert limit_s < 1 or found.facts == {"came": "so far"}
    assert started[0].poll() is not None


def _outcomes(monkeypatch: pytest.MonkeyPatch, **statuses: str) -> None:
    def outcome(name: str, *_: Any) -> Outcome:
        return Outcome(name, statuses.get(name, "ok"), 1.0, 2.0, {"rate": 1.23456789, "deep": [1]})

    monkeypatch.setattr(run, "outcome_of", outcome)


@pytest.mark.parametrize(
    ("statuses", "exit_code"),
    [
        ({}, 0),
        ({"decisions": "not run: no bundle was given"}, 0),
        ({"taps": "failed: 3 grey levels"}, 1),
        ({"machine": "failed: the process ended with SIGSEGV"}, 1),
        ({"machine": NO_GPU}, 4),
        ({name: "not run: no" for name in SECTIONS if name != "machine"}, 4),
    ],
)
def test_the_exit_code_says_how_it_ended(
    statuses: dict[str, str], exit_code: int, cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _outcomes(monkeypatch, **statuses)
    code, out, err = cli("gpu-check", "--out", tmp_path / "gpu.json")
    written = json.loads((tmp_path / "gpu.json").read_text())
    assert (code, list(written["sections"])) == (exit_code, list(SECTIONS))
    assert all(status in out for status in statuses.values())
    assert "gpu-check: 7 sections" in err
    for name in SECTIONS if statuses.get("machine") == NO_GPU else ():
        assert written["sections"][name]["status"] == NO_GPU


def test_json_on_stdout_is_the_file(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _outcomes(monkeypatch)
    code, out, _ = cli("gpu-check", "--out", tmp_path / "gpu.json", "--json")
    assert (code, json.loads(out)) == (0, json.loads((tmp_path / "gpu.json").read_text()))


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"bundle": "none.bundle"}, "bundle"),
        ({"checkpoint": "none"}, "checkpoint alone"),
    ],
)
def test_what_cannot_be_checked_is_refused_before_any_section(given: dict[str, str], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        run_gpu_check(**given)  # type: ignore[arg-type]


def test_tables_show_what_is_flat() -> None:
    check = GpuCheck(Subject(), [Outcome("taps", "ok", 1, 2, {"a": {"us": 1.23456789, "b": ""}, "deep": {"x": {}}})])
    ended, found = check.tables()
    assert ended.rows == [("taps", "1.0", "ok")]
    assert found.rows == [("taps", "a", "us: 1.23457")]


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="there is a GPU")
def test_a_machine_without_a_gpu_says_so_in_every_section(tmp_path: Path) -> None:
    check = run_gpu_check(out=tmp_path / "gpu.json")
    assert {one.status.partition(":")[0] for one in check.outcomes} == {"not run"}
    assert all("GPU" in one.status or "cuda-python" in one.status for one in check.outcomes)
    assert check.outcomes[0].facts["host"]["python"]
    assert check.proves_nothing
