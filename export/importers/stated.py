"""What a project's config states, read as data: no config is ever run."""

from __future__ import annotations

import ast
import json
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from medprompt.core.errors import CheckpointError
from medprompt.core.models import SHORT

OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


BASES = ("_base_", "_BASE_")
"""mmengine's and detectron2's word for the config that a config changes."""
MOST, LARGEST = 10_000, 1e18
"""Entries of a list that is joined, and a number that is multiplied: a few lines could double either for ever."""


class Unread:
    """Stands for what a config computes: it is not run, so its value is not known."""


UNREAD = Unread()
_MISSING = object()


@dataclass(frozen=True)
class Stated:
    """A config's values.

    Attributes:
        values: Tables in tables.
        where: What states them, for messages.
    """

    values: Mapping[str, Any]
    where: str

    def get(self, path: str, default: Any = None) -> Any:
        """The value at a dotted path, ``default`` where the config says nothing.

        Raises:
            CheckpointError: The config computes it.
        """
        found: Any = self.values
        for part in path.split("."):
            found = found.get(part, _MISSING) if isinstance(found, Mapping) else _MISSING
        if isinstance(found, Unread):
            raise CheckpointError(
                "The config computes a value; a config is read, never run.",
                where=f"{self.where}: {path}",
                expected="a number, text, list or dict(…)",
                fix="name the config that the training wrote beside its checkpoints, with every value written out",
            )
        return default if found is _MISSING or found is None else found

    def agrees(self, path: str, read: Any) -> Any:
        """Return what was read off the weights.

        Raises:
            CheckpointError: The config states something else.
        """
        stated = _plain(self.get(path, read))
        if stated != _plain(read):
            raise CheckpointError(
                "The config contradicts the weights: it is another model's.",
                where=f"{self.where}: {path}",
                expected=f"{read}, as the weights have it",
                got=SHORT.repr(stated),
                fix="name the config that this checkpoint was trained with",
            )
        return read

    def check_whole(self, states: Sequence[str]) -> None:
        """Refuse a config of another project, and one that leaves values to a file that is not read.

        Raises:
            CheckpointError: One of the paths in ``states`` is missing, or the config builds on another.
        """
        based = [name for name in BASES if name in self.values]
        missing = [path for path in states if self.get(path) is None]
        if based or missing:
            raise CheckpointError(
                "The config builds on another file, which is not read: values would be missing."
                if based
                else "The config is of another project, or a part of one.",
                where=self.where,
                expected="every value written out, as the training wrote it beside its checkpoints",
                got=based[0] if based else f"no {missing[0]}",
                fix="name the config that this checkpoint was trained with",
            )

    def needs(self, path: str, served: Any, *, default: Any = _MISSING) -> None:
        """Refuse a form of the model that is not served.

        Raises:
            CheckpointError: The config states something else than ``served``; ``default`` counts where it is silent.
        """
        stated = _plain(self.get(path, served if default is _MISSING else default))
        if stated != _plain(served):
            raise CheckpointError(
                "This form of the model is not served.",
                where=f"{self.where}: {path}",
                expected=f"{served}",
                got=SHORT.repr(stated),
                fix="train from a checkpoint of the form that is served",
            )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


class _Loader(yaml.SafeLoader):
    """The safe loader; what a config wants to be built of Python is not known."""


for _tag in ("tag:yaml.org,2002:python/", "!"):
    _Loader.add_multi_constructor(_tag, lambda loader, suffix, node: UNREAD)


def read_config(path: Path) -> Stated:
    """Read a project's config: Python (assignments and ``dict(…)``), YAML or JSON.

    Raises:
        CheckpointError: No such file, or not one of these.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".py":
            return Stated(python_values(text), str(path))
        values = json.loads(text) if path.suffix == ".json" else yaml.load(text, _Loader)
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError, yaml.YAMLError) as error:
        raise CheckpointError(
            "The config cannot be read.",
            where=str(path),
            expected="the project's own config: Python, YAML or JSON",
            got=type(error).__name__,
        ) from error
    if not isinstance(values, dict):
        raise CheckpointError("The config holds no names.", where=str(path), expected="names and their values")
    return Stated(values, str(path))


def python_values(text: str) -> dict[str, Any]:
    """The top-level assignments of a config in Python, each value as data or ``UNREAD``.

    Raises:
        SyntaxError: Not Python.
    """
    values: dict[str, Any] = {}
    for statement in ast.parse(text).body:
        if isinstance(statement, ast.With):  # mmengine's read_base()
            values[BASES[0]] = UNREAD
        if isinstance(statement, ast.Assign):
            value = _value(statement.value, values)
            values |= {target.id: value for target in statement.targets if isinstance(target, ast.Name)}
    return values


def _value(node: ast.expr, names: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant():
            return node.value
        case ast.Name():
            return names.get(node.id, UNREAD)
        case ast.List() | ast.Tuple():
            return [_value(one, names) for one in node.elts]
        case ast.Dict():
            keys = [UNREAD if key is None else _value(key, names) for key in node.keys]
            return {key: _value(one, names) for key, one in zip(keys, node.values, strict=True) if isinstance(key, str)}
        case ast.Call(func=ast.Name(id="dict"), args=[]) if "dict" not in names:
            return {word.arg: _value(word.value, names) for word in node.keywords if word.arg}
        case ast.UnaryOp(op=ast.USub()) | ast.BinOp():
            return _calculated(node, names)
        case _:
            return UNREAD


def _calculated(node: ast.UnaryOp | ast.BinOp, names: Mapping[str, Any]) -> Any:
    """Sums and products of numbers, and lists that are joined; a product with a text or list may be endless."""
    if isinstance(node, ast.UnaryOp):
        value = _value(node.operand, names)
        return -value if isinstance(value, int | float) else UNREAD
    left, right = _value(node.left, names), _value(node.right, names)
    numbers = all(isinstance(one, int | float) and abs(one) < LARGEST for one in (left, right))
    lists = isinstance(node.op, ast.Add) and all(isinstance(one, list) and len(one) < MOST for one in (left, right))
    known = OPERATORS.get(type(node.op))
    if known is None or not (numbers or lists) or (isinstance(node.op, ast.Div) and not right):
        return UNREAD
    return known(left, right)
