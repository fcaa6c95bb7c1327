"""``medprompt docs``: every page that an error names is there, and none of the research."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from medprompt.commands.docs import docs
from medprompt.core import pages
from medprompt.core.errors import InputError

ROOT = Path(__file__).parents[3]


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pages as they are installed."""
    for name in ("index.md", "how-to/video.md", "reference/results.md", "research/lost.md", "how-to/picture.png"):
        path = tmp_path / "docs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# About {path.stem}\n\nText.\n")
    monkeypatch.setattr(pages, "files", lambda package: tmp_path)
    return tmp_path


def test_pages_are_listed_by_name(library: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert list(pages.pages()) == ["index", "video", "results"]
    docs()
    out = capsys.readouterr().out
    assert "About video" in out
    assert "lost" not in out


def test_a_page_is_printed_as_it_is_where_nobody_watches(library: Path, capsys: pytest.CaptureFixture[str]) -> None:
    docs("results")
    assert capsys.readouterr().out == "# About results\n\nText.\n"


def test_on_a_terminal_a_page_is_set(
    library: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    docs("results")
    out = capsys.readouterr().out
    assert "About results" in out
    assert "# About" not in out


@pytest.mark.parametrize("name", ["lost", "", "../README", "picture"])
def test_another_page_is_refused_with_the_names(name: str, library: Path) -> None:
    with pytest.raises(InputError, match="no such page") as caught:
        pages.page_text(name)
    assert caught.value.expected == "index, video, results"


def test_the_checkouts_own_pages_are_found() -> None:
    found = pages.pages()
    assert found
    assert all(path.is_file() and "research" not in path.parts for path in found.values())


PAGES = {
    "index", "install", "first-bundle", "your-data", "new-prompts", "images", "dicom", "dicom-node", "video", "prompts",
    "datasets", "finetune", "checkpoints", "gpu-engines", "devices", "measure", "release-gate", "sign", "cli",
    "api", "prompts-file", "bundle", "results", "item-status", "recipe", "exit-codes", "parity", "precision",
    "prompt-banks", "performance", "support", "serve", "triton", "reviewer", "deployment", "other-systems",
    "many-images", "prompts-audit", "site", "segment", "sam3",
}  # fmt: skip
"""The pages of the documentation."""


def test_errors_name_pages_of_the_documentation() -> None:
    sources = [
        path for room in ("medprompt", "export", "runtime", "benchmarks") for path in (ROOT / room).rglob("*.py")
    ]
    named = {name for path in sources for name in re.findall(r"medprompt docs ([a-z-]+)", path.read_text())}
    assert named
    assert named <= PAGES


def test_python_m_medprompt() -> None:
    command = [sys.executable, "-m", "medprompt", "docs", "nowhere"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "where:    PAGE" in ended.stderr
