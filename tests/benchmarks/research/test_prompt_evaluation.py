"""The Markdown table: what was not measured shows as a dash, files by their names."""

from __future__ import annotations

from pathlib import Path

import pytest

from medprompt.benchmarks.research.prompt_evaluation import SETS, _fits, markdown_from_report
from medprompt.core.errors import PromptError
from medprompt.data import DetectionSet
from medprompt.export.prompt_tuning.evaluate import PromptEvalReport, PromptEvalRow
from medprompt.prompts.file import pack_names, save_prompts
from medprompt.prompts.schema import Prompts


def test_a_table() -> None:
    whole = PromptEvalRow(
        "work/class name.yaml", "one phrase", 2, None, 0.25, 0.5, {"a": 0.3, "b": 0.2}, {"a": 0.6, "b": 0.4}
    )
    part = PromptEvalRow("p.safetensors", "max", 3, None, None, None, {"b": 0.1}, {"b": 0.125})
    report = PromptEvalReport((whole, part), ("a", "b"), "set:val", 7, 90, "0123456789abcdef0123")
    assert markdown_from_report(report).splitlines() == [
        "set:val, 7 images, 90 boxes, checkpoint `0123456789abcdef`",
        "",
        "| prompts | phrases | combined | AP | AP50 | a AP / AP50 | b AP / AP50 |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| class name | 2 | one phrase | 0.2500 | 0.500 | 0.3000 / 0.600 | 0.2000 / 0.400 |",
        "| p | 3 | max | – | – | – | 0.1000 / 0.125 |",
    ]


def test_the_packs_exist() -> None:
    assert {pack for _, _, pack in SETS} <= set(pack_names())


@pytest.mark.parametrize(("label", "fits"), [("A", True), ("b", False)])
def test_files_of_other_classes_are_passed_over(tmp_path: Path, label: str, fits: bool) -> None:
    save_prompts(Prompts.model_validate({"classes": [{"label": label, "phrases": ["x"]}]}), tmp_path / "p.yaml")
    assert _fits(tmp_path / "p.yaml", DetectionSet("s", ("a",), ())) is fits


def test_a_damaged_bank_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "b.safetensors").write_bytes(b"")
    with pytest.raises(PromptError):
        _fits(tmp_path / "b.safetensors", DetectionSet("s", ("a",), ()))
