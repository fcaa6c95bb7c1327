"""Tables of the documentation are what docs/results holds: figures on a user page come from a command of ours."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from medprompt.benchmarks.research.docs_tables import DOCS, pages_from_results, table

RESULTS = DOCS / "results"
MACHINE = {
    "cpu": "A CPU",
    "cores": 2,
    "vector_units": ["avx2"],
    "system": "Linux x86_64",
    "libraries": {"torch": "2.13"},
}


@pytest.mark.parametrize("page", sorted(pages_from_results()), ids=lambda page: page.stem)
def test_a_page_shows_what_its_results_say(page: Path) -> None:
    drawn = pages_from_results()[page]
    assert page.read_text("utf-8") == drawn, "renew with: python -m medprompt.benchmarks.research.docs_tables"


def test_a_figure_that_was_typed_by_hand_is_found(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    shutil.copytree(RESULTS, docs / "results")
    page = docs / "parity.md"
    page.write_text((DOCS / "explanation" / "parity.md").read_text("utf-8").replace("100 %", "100.0 %"))
    assert pages_from_results(docs)[page] != page.read_text("utf-8")


def test_each_result_is_on_a_page_and_says_where_it_came_from() -> None:
    pages = "".join(pages_from_results().values())
    for path in RESULTS.glob("*.json"):
        record = json.loads(path.read_text("utf-8"))
        assert path.name in pages
        assert record.keys() == {"command", "date", "machine", "exit_code", "left_out", "output"}
        assert "/work" not in path.read_text("utf-8") and "/tmp" not in path.read_text("utf-8")


def measured(kept: float, decisions: int, passed: bool, fallback_top: int = 0) -> dict[str, object]:
    parity = {"kept": kept, "decisions": decisions, "passed": passed, "fallback_top": fallback_top}
    return {"device": "ort-cpu", "parity": parity}


@pytest.mark.parametrize(
    ("engine", "cell"),
    [
        (measured(0.99999, 1234, True), "parity proven: 99.99 % of 1,234"),
        (measured(1.0, 120, True, 20), "parity proven: 100 % of the best 120"),
        (measured(0.5, 2, False), "parity failed: 50.00 % of 2"),
        ({"device": "ort-cpu", "parity": None, "compiled": {"gpus": ["sm86", "sm89"]}}, "compiled only (sm86, sm89)"),
        ({"device": "ort-cpu", "parity": None, "compiled": None}, "never run"),
        ({"device": "fake", "parity": None, "compiled": None}, "never run"),
    ],
)
def test_an_engine_is_proven_compiled_or_never_run(engine: dict[str, object], cell: str, tmp_path: Path) -> None:
    record = {"date": "2026-11-28", "machine": MACHINE, "output": {"family": "owlvit", "engines": [engine]}}
    (tmp_path / "support-owlvit.json").write_text(json.dumps(record))
    header, _, row, _, made = table(["support-owlvit.json"], tmp_path).splitlines()
    assert header.startswith("| family | ONNX Runtime CPU |")
    assert row == f"| owlvit | {cell} | never run | never run | never run | never run |"
    assert made == "Measured on 28 November 2026: A CPU, 2 cores (avx2), Linux x86_64, torch 2.13."


def test_an_unknown_table_and_a_missing_file_are_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        table(["support-owlvit.json"], tmp_path)
    (tmp_path / "weather.json").write_text("{}")
    with pytest.raises(KeyError):
        table(["weather.json"], tmp_path)
