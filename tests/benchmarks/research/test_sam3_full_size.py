"""The full-size run of SAM 3: what is done in which order, without the work, and what a stopped one keeps."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from medprompt.benchmarks.latency.processes import Process
from medprompt.benchmarks.research import sam3_full_size
from medprompt.benchmarks.research import steps as running
from medprompt.benchmarks.research.sam3_full_size import PHRASES, steps, texts
from medprompt.core.errors import MedpromptError


def test_phrases_are_all_different() -> None:
    assert len(set(texts(max(PHRASES)))) == max(PHRASES)


def test_a_stopped_run_goes_on_where_it_was(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done: list[str] = []

    def process(words: list[str], threads: int) -> tuple[Process, str]:
        name = next(one for one in steps() if repr(one) in words[0])
        if name == "ort-cpu, 5 phrases" and name not in done:
            done.append(name)
            raise MedpromptError("A measured program failed.")
        done.append(name)
        return Process(2.0, 1.5, 2048.0), json.dumps({"detections": 3})

    monkeypatch.setattr(running, "measured_process", process)
    monkeypatch.setattr(sys, "argv", ["sam3_full_size", "--out", str(tmp_path)])
    with pytest.raises(MedpromptError):
        sam3_full_size._main()
    sam3_full_size._main()
    assert done.count("export") == 1 and done.count("ort-cpu, 5 phrases") == 2
    assert list(json.loads((tmp_path / "figures.json").read_text())) == list(steps())
    assert "detections 3" in capsys.readouterr().out
