"""YAML that people write, and text files of other programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from medprompt.core.errors import DataError, InputError
from medprompt.core.text import MAX_REASON, read_text, reason
from medprompt.core.yaml import load_yaml, read_yaml_file, yaml_from_text

MERGED = {"z": {"x": 0}, "a": {"q": {"x": 1}}, "c": {"x": 2}}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("a: 1\nb: [x, y]\n", {"a": 1, "b": ["x", "y"]}),
        ("a: no\nb: 'no'\n", {"a": False, "b": "no"}),
        ("0: a\n'0': b\n", {0: "a", "0": "b"}),
        ('{\n\t"a": [\n\t\t"b\\tc"\n\t]\n}\n', {"a": ["b\tc"]}),
        (r'["\ud83d\ude00", "\\ud83d\\ude00", "caf\u00e9"]', ["\U0001f600", r"\ud83d\ude00", "caf\u00e9"]),
        ("base: &b {x: 1}\nown: {<<: *b, x: 2}\n", {"base": {"x": 1}, "own": {"x": 2}}),
        ("z: &z {x: 0}\na: {q: &b {<<: *z, x: 1}}\nc: {<<: *b, x: 2}\n", MERGED),
        ("z: &z {xy: 0}\nb: &b {<<: *z, xy: 1}\nc: {<<: *b}\n", {"z": {"xy": 0}, "b": {"xy": 1}, "c": {"xy": 1}}),
        ("- &a {xy: 1}\n- &b {xy: 2, z: 3}\n- {<<: [*a, *b]}\n", [{"xy": 1}, {"xy": 2, "z": 3}, {"xy": 1, "z": 3}]),
    ],
)
def test_values(text: str, value: object) -> None:
    assert yaml_from_text(text).value == value


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 3, column 1: 'a' is given twice, first in line 1"),
        ("a: {b: 1, b: 1}\n", "line 1, column 11: 'b' is given twice, first in line 1"),
        ("a:\n- {x: 1}\n- x: 1\n  y: 2\n  x: 3\n", "line 5, column 3: 'x' is given twice, first in line 3"),
        ("1: a\n0x1: b\n", "line 2, column 1: 1 is given twice, first in line 1"),
        ("a: {<<: &b {x: 1}, <<: *b}\n", "line 1, column 20: '<<' is given twice, first in line 1"),
        ("a:\n\tb: 1\n", "line 2, column 1: a tab, where YAML wants spaces"),
        ('{"a": 1,\n\t"b": 2,\n\t"a": 3}', "line 3, column 2: 'a' is given twice, first in line 1"),
        ("a: 1\n---\nb: 2\n", "line 2, column 1: but found another document"),
        ("a: b: c\n", "line 1, column 5: mapping values are not allowed here"),
        ("a: {<<: 3}\n", "line 1, column 9: only a mapping is merged"),
        ("a: &a {<<: *a}\n", "it is nested too deeply"),
        ("[" * 9000, "it is nested too deeply"),
        ("day: 2020-13-45\n", "line 1, column 6: this is no timestamp; put text in quotes"),
        ("a: [0x_]\n", "line 1, column 5: this is no int; put text in quotes"),
        ("a:\n- !!bool perhaps\n", "line 2, column 3: this is no bool; put text in quotes"),
    ],
)
def test_faults_have_a_line(tmp_path: Path, text: str, got: str) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(text)
    with pytest.raises(DataError, match="cannot be used") as caught:
        load_yaml(path, DataError("It cannot be used.", fix="mend it"))
    assert (caught.value.got, caught.value.where, caught.value.fix) == (got, str(path), "mend it")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file") as caught:
        load_yaml(tmp_path / "none.yaml")
    assert "Error" not in caught.value.got


@pytest.mark.parametrize(
    ("keys", "line"),
    [((), 1), (("a",), 2), (("a", 1), 3), (("a", 1, "c"), 4), (("a", 7), 2), (("zz",), 1), ((3,), 5)],
)
def test_every_value_has_its_line(tmp_path: Path, keys: tuple[object, ...], line: int) -> None:
    path = tmp_path / "file.yaml"
    path.write_text("a:\n- x\n- b: 1\n  c: no\n3: z\n")
    assert read_yaml_file(path).line(*keys) == line


def test_a_merged_key_has_the_line_of_what_replaces_it() -> None:
    assert yaml_from_text("base: &b {x: 1}\nown:\n  <<: *b\n  x: 2\n").line("own", "x") == 4


@pytest.mark.parametrize(
    ("keys", "word"), [(("a",), "no"), (("b", 0), "12:30:00"), (("b",), None), (("c",), None), (("d",), "")]
)
def test_a_word_as_it_is_written(keys: tuple[object, ...], word: str | None) -> None:
    assert yaml_from_text(f"a: no\nb: [12:30:00]\nc: {'x' * 61}\nd:\n").written(*keys) == word


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings_with_a_mark_are_read(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "file.txt"
    path.write_bytes("Zelle µ\r\n".encode(encoding))
    assert read_text(path) == "Zelle µ\r\n"


def fault_of(text: str | bytes) -> BaseException:
    try:
        json.loads(text.decode() if isinstance(text, bytes) else text)
    except ValueError as error:
        return error
    raise AssertionError


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (fault_of(b"one\ntwo \xe9" + b" " * 9999), "line 2: byte 0xe9 is no UTF-8 text"),
        (fault_of('{"a": 1,\n]' + "x" * 9999), "line 2, column 1: Expecting property name enclosed in double quotes"),
        (KeyError("height"), "'height' is missing"),
        (ValueError("x" * 9999), "x" * MAX_REASON + "…"),
        (ValueError(), "ValueError"),
        (yaml.YAMLError("odd"), "odd"),
        (OSError(2, "No such file or directory", "a/b.xml"), "No such file or directory: a/b.xml"),
    ],
)
def test_reasons_hold_no_file(error: BaseException, text: str) -> None:
    assert reason(error) == text
