"""Which rule broke, in words, with the line of a YAML file."""

from __future__ import annotations

from typing import Any

import pytest

from medprompt.core.errors import DataError
from medprompt.core.models import Fault, FrozenModel, faulty, validate
from medprompt.core.yaml import yaml_from_text

READ = "which YAML reads as a yes or no"


class Inner(FrozenModel):
    name: str
    share: float = 0.0


class Outer(FrozenModel):
    entries: tuple[Inner, ...]


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ("entries:\n- {name: a, shares: 1}", "line 2, entries.shares: is no key here; is it 'share'? (got 1)"),
        ("name: a\nentries: []", "line 1, name: is no key here, but elsewhere (got 'a')"),
        ("entries:\n- {name: a, entry: 1}", "line 2, entries.entry: is no key here; is it 'entries'? (got 1)"),
        ("entries:\n- name: no", f"line 2, entries.name: expected text (got no, {READ}: put it in quotes)"),
        ("entries:\n- share: 1", "line 2, entries.name: is missing"),
        ("entries:\n- {name: a, share: x}", "line 2, entries.share: expected a number, such as 0.3 (got 'x')"),
        ("entries: 3", "line 1, entries: expected a list (got 3)"),
        ("entries:", "line 1, entries: expected a list (got nothing)"),
        ("[]", "line 1, file: expected keys and values (got [])"),
    ],
)  # fmt: skip
def test_rules_in_a_file(text: str, got: str) -> None:
    source = yaml_from_text(text)
    with pytest.raises(DataError, match="bad") as caught:
        validate(Outer, source.value, DataError("bad"), source)
    assert caught.value.got == got


@pytest.mark.parametrize(
    ("raw", "got"),
    [
        ({"entries": [{"name": 3}]}, "entries.0.name: expected text (got 3)"),
        ({"entries": [], "x": "y" * 999}, "x: is no key here (got 'yyyyyyyyyyyy...yyyyyyyyyyyyy')"),
    ],
)
def test_rules_without_a_file(raw: Any, got: str) -> None:
    with pytest.raises(DataError, match="bad") as caught:
        validate(Outer, raw, DataError("bad"))
    assert caught.value.got == got


def test_faults_of_a_validator_show_without_a_file_too() -> None:
    assert str(faulty([Fault(("a", 0), "is odd", 1), Fault((), "is even", 2)])) == "a.0: is odd; : is even"
