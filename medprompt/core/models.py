"""What the models of files share: a frozen base that refuses unknown keys, and errors that say which rule broke."""

from __future__ import annotations

import json
from collections.abc import Iterator
from difflib import get_close_matches
from reprlib import Repr
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import PydanticCustomError

from medprompt.core.errors import InputError
from medprompt.core.yaml import YamlFile

M = TypeVar("M", bound=BaseModel)

TEXT = "expected text"
WORDS = {
    "missing": "is missing",
    "extra_forbidden": "is no key here",
    "string_type": TEXT,
    "tuple_type": "expected a list",
    "dict_type": "expected keys and values",
    "model_type": "expected keys and values",
    "too_short": "expected at least one entry",
    "string_too_short": "must not be empty",
    "string_pattern_mismatch": "has a character or a length that is not allowed",
    "float_type": "expected a number",
    "float_parsing": "expected a number, such as 0.3",
}
"""Our words for pydantic's rules that speak of Python."""


SHORT = Repr()
SHORT.maxlevel, SHORT.maxlist, SHORT.maxdict = 2, 3, 3
"""Shows a value in a few characters, however large it is."""


class FrozenModel(BaseModel):
    """A frozen record; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Place = tuple[str | int, ...]
"""Keys and list indices that lead to a value."""


class Fault(NamedTuple):
    """A broken rule: where the value is, what is wrong with it, and the value (``...`` where there is none to show)."""

    loc: Place
    words: str
    value: Any


def faulty(faults: list[Fault]) -> PydanticCustomError:
    """What a validator raises for faults inside of its value."""
    text = "; ".join(f"{'.'.join(map(str, fault.loc))}: {fault.words}" for fault in faults)
    return PydanticCustomError("faults", "{text}", {"text": text, "faults": faults})


def validate(model: type[M], raw: Any, failure: InputError, source: YamlFile | None = None, context: Any = None) -> M:
    """Make a model of raw values; where they break a rule, raise ``failure`` with every broken rule as its ``got``.

    ``source`` is the YAML file that they come from: a broken rule then has its line. ``context`` is for the model's own
    validators.
    """
    try:
        return model.model_validate(raw, context=context)
    except ValidationError as error:
        faults = list(_faults(error, model))
        rules = "; ".join(_describe(fault, source) for fault in faults if not _is_noise(fault, faults))
        fields = {name: getattr(failure, name) for name in ("expected", "where", "fix")}
        raise type(failure)(failure.problem, got=rules, **fields) from error


def _faults(error: ValidationError, model: type[BaseModel]) -> Iterator[Fault]:
    for detail in error.errors():
        loc, kind = detail["loc"], detail["type"]
        if kind == "faults":
            yield from (Fault((*loc, *one.loc), one.words, one.value) for one in detail["ctx"]["faults"])
            continue
        message = detail["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
        near = _near(str(loc[-1]), model) if kind == "extra_forbidden" else ""
        yield Fault(loc, WORDS.get(kind, message) + near, ... if kind == "missing" else detail["input"])


def _near(key: str, model: type[BaseModel]) -> str:
    """A key of the model, or of one inside of it, that an unknown key may stand for; that key itself is misplaced."""
    schema = model.model_json_schema()
    tables = (schema, *schema.get("$defs", {}).values())
    known = {name for table in tables for name in table.get("properties", {})}
    if key in known:
        return ", but elsewhere"
    return "".join(f"; is it {name!r}?" for name in get_close_matches(key, known, 1))


def _is_noise(fault: Fault, faults: list[Fault]) -> bool:
    """Whether a list seems empty only because its entries are at fault themselves."""
    inside = (one for one in faults if len(one.loc) > len(fault.loc) and one.loc[: len(fault.loc)] == fault.loc)
    return "at least" in fault.words and any(inside)


def _describe(fault: Fault, source: YamlFile | None) -> str:
    index = ".".join(str(key) for key in fault.loc if source is None or isinstance(key, str)) or "file"
    line = f"line {source.line(*fault.loc)}, " if source else ""
    return f"{line}{index}: {fault.words}{'' if fault.value is ... else _got(fault, source)}"


def _got(fault: Fault, source: YamlFile | None) -> str:
    """The value in a few characters; of text without quotes that YAML reads as something else, as it is written."""
    written = source.written(*fault.loc) if source and not isinstance(fault.value, str | list | dict) else None
    if written is None:
        return f" (got {SHORT.repr(fault.value)})"
    if not written:
        return " (got nothing)"
    kind = {bool: "a yes or no", int: "a number", float: "a number", type(None): "nothing"}.get(type(fault.value))
    read = f", which YAML reads as {kind or 'a ' + type(fault.value).__name__}: put it in quotes"
    return f" (got {json.dumps(written, ensure_ascii=False)[1:-1]}{read if fault.words == TEXT else ''})"
