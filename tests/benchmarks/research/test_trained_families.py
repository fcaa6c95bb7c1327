"""The table of trained families: every precision on both engines, against fp32 on ONNX Runtime."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from medprompt.benchmarks.research.trained_families import COLUMNS, FamilyRow, run_family
from medprompt.export.finetune.recipe import Recipe
from tests.benchmarks.conftest import write_samples


def test_rows_fit_the_columns() -> None:
    row = FamilyRow("owlvit", "bccd:val", "bf16, OpenVINO", 0.5, 0.7, -0.001, 100, 0.99, 0.01, True).row()
    assert len(row) == len(COLUMNS) and row[5] == "-0.0010" and row[-1] == "yes"


@pytest.mark.slow
def test_a_checkpoint_that_is_there_is_measured(tiny_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    samples = write_samples(tmp_path / "samples")
    shutil.copytree(tiny_checkpoint("owlvit"), tmp_path / "owlvit-trained")
    sets = sorted(str(path.relative_to(samples)) for path in samples.glob("*/labels.json"))
    recipe = Recipe.model_validate({"data": [{"train": one, "val": one} for one in sets]})
    rows = run_family("owlvit", samples, tmp_path, recipe)
    models = {row.model for row in rows}
    assert {"fp32, ONNX Runtime", "auto, ONNX Runtime", "fp32, OpenVINO", "bf16, OpenVINO"} <= models
    assert len(rows) == len(models) * len(sets)
    exact = [row for row in rows if row.model == "fp32, ONNX Runtime"]
    assert all(row.delta_ap == 0 and row.kept == 1 and row.passed for row in exact)
