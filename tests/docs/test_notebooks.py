"""The three notebooks run from top to bottom, offline, and are kept without outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import DOCS

NOTEBOOKS = sorted((DOCS / "tutorials" / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def nbformat() -> Any:
    """Imported here, not where tests are collected: its grammars take three seconds, of every worker."""
    return pytest.importorskip("nbformat")


def test_the_notebooks_are_there_and_hold_no_outputs(nbformat: Any) -> None:
    assert [path.stem for path in NOTEBOOKS] == ["dicom", "first_bundle", "new_prompts"]
    for path in NOTEBOOKS:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        assert not [cell for cell in notebook.cells if cell.get("outputs") or cell.get("execution_count")]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the kernel's own, not ours
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, nbformat: Any) -> None:
    client = pytest.importorskip("nbclient").NotebookClient
    notebook = nbformat.read(path, as_version=4)
    client(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
