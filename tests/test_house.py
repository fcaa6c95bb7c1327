"""The house: no circle, no arrow upward, nothing loose; the wheel holds every room but the experiments."""

from __future__ import annotations

import importlib.util
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def graph() -> ModuleType:
    spec = importlib.util.spec_from_file_location("import_graph", ROOT / ".ci" / "import_graph.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_code_keeps_the_rules(graph: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert graph.main([str(ROOT)]) == 0, capsys.readouterr().out


@pytest.mark.parametrize(
    ("file", "line", "said"),
    [
        ("runtime/outputs.py", "import medprompt.commands", "upward: medprompt.runtime -> medprompt.commands"),
        ("medprompt/core/boxes.py", "from medprompt.images import read", "upward: medprompt.core -> medprompt.images"),
        ("medprompt/dicom/header.py", "from medprompt.images.read import load_image", "circle: medprompt.dicom"),
        ("medprompt/stray.py", "", "loose: stray"),
    ],
)
def test_a_broken_rule_is_named(
    graph: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, line: str, said: str
) -> None:
    modules = graph.modules_of(ROOT)
    for path in modules.values():
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text("".join(f"import {name}\n" for name in graph.imports_of(path, modules)), "utf-8")
    with (tmp_path / file).open("a", encoding="utf-8") as handle:
        handle.write(f"\n{line}\n")
    assert graph.main([str(tmp_path)]) == 1
    assert said in capsys.readouterr().out


def test_the_wheel_names_every_room_but_the_experiments(graph: ModuleType) -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    rooms = {name for name, path in graph.modules_of(ROOT).items() if path.name == "__init__.py"}
    assert set(listed) == {name for name in rooms if "research" not in name}
