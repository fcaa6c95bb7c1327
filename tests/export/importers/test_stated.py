"""Configs read as data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medprompt.core.errors import CheckpointError
from medprompt.export.importers.stated import UNREAD, Stated, python_values, read_config


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a = 3", 3),
        ("a = -0.5", -0.5),
        ("a = None", None),
        ("b = 2\na = dict(x=b, y=[b, 'z'], z={'k': True})", {"x": 2, "y": [2, "z"], "z": {"k": True}}),
        ("a = (1, (2, 3))", [1, [2, 3]]),
        ("a = 2 * 3 + 1", 7),
        ("a = [1] + [2]", [1, 2]),
        ("a = 1\na = 2", 2),
        ("a = open('/etc/passwd').read()", UNREAD),
        ("a = __import__('os').system('true')", UNREAD),
        ("def dict(**k): pass\ndict = print\na = dict(x=1)", UNREAD),
        ("a = [x for x in (1, 2)]", UNREAD),
        ("a = f'{1}'", UNREAD),
        ("a = 1 / 0", UNREAD),
        ("a = [1] * 99", UNREAD),
        ("a = 2 ** 999999", UNREAD),
        ("a = missing", UNREAD),
        ("a = dict(x=print(1), y=2)", {"x": UNREAD, "y": 2}),
    ],
)
def test_assignments_are_read(text: str, value: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert python_values(text)["a"] == value
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("line", ["a = a + a", "a = a * a", "a = [a, a]", "a = dict(x=a, y=a)"])
def test_no_config_grows_for_ever(line: str, tmp_path: Path) -> None:
    (tmp_path / "c.py").write_text("\n".join(["a = [1, 2]" if "+" in line else "a = 7", *[line] * 200]))
    with pytest.raises(CheckpointError):
        read_config(tmp_path / "c.py").needs("a", 1)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.py", "a = ("),
        ("c.json", "{"),
        ("c.json", "[1]"),
        ("c.yaml", "a: ["),
        ("c.yaml", "text"),
        ("c.py", "a = " + "(" * 5000),
        ("c.py", "a = '\0'"),
    ],
)
def test_what_is_no_config_is_refused(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(CheckpointError):
        read_config(tmp_path / name)
    with pytest.raises(CheckpointError):
        read_config(tmp_path / "none.py")


def test_yaml_builds_nothing(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("A: !!python/object/apply:eval ['print(1)']\nB: {C: 2}\nD: !!python/tuple [1]\n")
    stated = read_config(tmp_path / "c.yaml")
    assert stated.get("B.C") == 2
    with pytest.raises(CheckpointError, match="a config is read, never run"):
        stated.get("A")


def test_what_is_stated_and_what_is_read_must_agree() -> None:
    stated = Stated({"a": {"b": [1, 2]}}, "c.py")
    assert stated.agrees("a.b", (1, 2)) == (1, 2)
    assert stated.agrees("a.c", 5) == 5
    assert stated.get("a.b.c", 7) == 7
    with pytest.raises(CheckpointError, match="contradicts the weights"):
        stated.agrees("a.b", [1, 3])
    with pytest.raises(CheckpointError, match="not served"):
        stated.needs("a.b", [2])
