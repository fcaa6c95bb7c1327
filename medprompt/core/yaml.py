"""YAML files that people write: a key that is given twice is refused, and every value has its line.

PyYAML lets the last of two equal keys win: a class that was written twice, or an entry without its dash, is gone
without a word. Values are those of YAML 1.1, in which ``no``, ``yes`` and ``on`` are booleans: who wanted text says so
with ``YamlFile.line``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from medprompt.core.errors import InputError
from medprompt.core.text import read_text, reason

PAIR = 12
"""Characters of two escapes."""
JSON_ESCAPE = re.compile(r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|.)")
"""An escape; the two of a character beyond U+FFFF together."""
MERGE = "tag:yaml.org,2002:merge"
MAX_WORD = 60
"""Characters of a value that a message repeats."""


@dataclass(frozen=True)
class YamlFile:
    """What a YAML file says, and where.

    Attributes:
        value: Its values; None of an empty file.
        root: Its nodes.
    """

    value: Any
    root: yaml.Node | None

    def line(self, *keys: Any) -> int:
        """Line (from 1) of the value that keys and list indices lead to; of the last that there is on the way."""
        node = self._last_node(keys)
        return node.start_mark.line + 1 if node else 1

    def written(self, *keys: Any) -> str | None:
        """The word there as it is written, such as ``no`` of a false; None of a list, a mapping and a longer text."""
        node = self._last_node(keys)
        return node.value if isinstance(node, yaml.ScalarNode) and len(node.value) <= MAX_WORD else None

    def _last_node(self, keys: Iterable[Any]) -> yaml.Node | None:
        node = self.root
        for key in keys:
            inner = _inner(node, key)
            if inner is None:
                break
            node = inner
        return node


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which refuses a key that a mapping has already."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Compose a mapping. Here its keys are still those of the file: construction lays merged ones among them."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        lines: dict[Any, int] = {}
        for key_node in (key_node for key_node, _ in node.value if isinstance(key_node, yaml.ScalarNode)):
            key = key_node.value if key_node.tag == MERGE else self.construct_object(key_node)
            if key in lines:
                problem = f"{key!r} is given twice, first in line {lines[key]}"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            lines[key] = key_node.start_mark.line + 1
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Lay merged keys among a mapping's own, which go first; of several mappings, the first goes first.

        PyYAML 6.0.4 lets a merged value replace its own replacement, and the last of several mappings win.
        """
        merged: dict[Any, tuple[yaml.Node, yaml.Node]] = {}
        for value in (value for key, value in node.value if key.tag == MERGE):
            for base in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                if not isinstance(base, yaml.MappingNode):
                    raise yaml.constructor.ConstructorError(None, None, "only a mapping is merged", base.start_mark)
                self.flatten_mapping(base)
                merged = {_identity(pair[0]): pair for pair in base.value} | merged
        own = {_identity(pair[0]): pair for pair in node.value if pair[0].tag != MERGE}
        node.value = list((merged | own).values())

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Make a value; one that PyYAML takes for a date or a number and cannot make has its line."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, KeyError, AttributeError) as error:
            problem = f"this is no {node.tag.rpartition(':')[2]}; put text in quotes"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from error


def load_yaml(path: Path, failure: InputError | None = None) -> Any:
    """Read the values of a YAML file, see ``read_yaml_file``.

    Raises:
        InputError: See there.
    """
    return read_yaml_file(path, failure).value


def read_yaml_file(path: Path, failure: InputError | None = None) -> YamlFile:
    """Read a YAML file of one document, UTF-8 or UTF-16.

    Raises:
        InputError: It is missing, no YAML, or has a key twice: ``failure`` with this file and reason, if it is given.
    """
    failure = failure or InputError("The YAML file cannot be read.")
    try:
        return yaml_from_text(read_text(Path(path)))
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise type(failure)(
            failure.problem, where=str(path), expected=failure.expected, got=reason(error), fix=failure.fix
        ) from error


def yaml_from_text(text: str) -> YamlFile:
    """Read YAML of one document.

    Raises:
        yaml.YAMLError: It is none, has a key twice, or a value that looks like a date and is none.
    """
    loader = _Loader(_as_yaml(text))
    try:
        root = loader.get_single_node()
        return YamlFile(None if root is None else loader.construct_document(root), root)
    finally:
        loader.dispose()


def _as_yaml(text: str) -> str:
    """JSON where YAML would read it otherwise: indented with tabs, and characters beyond U+FFFF in two escapes.

    Lines stay what they are. Within JSON's strings no tab can stand as it is.
    """
    if not text.lstrip().startswith(("{", "[")):
        return text
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return text
    return JSON_ESCAPE.sub(lambda found: _character(found[0]), text.replace("\t", " "))


def _character(escape: str) -> str:
    return str(json.loads(f'"{escape}"')) if len(escape) == PAIR else escape


def _identity(key: yaml.Node) -> Any:
    return (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key)


def _inner(node: yaml.Node | None, key: Any) -> yaml.Node | None:
    if isinstance(node, yaml.SequenceNode) and isinstance(key, int) and 0 <= key < len(node.value):
        inner: yaml.Node = node.value[key]
        return inner
    if isinstance(node, yaml.MappingNode):
        return next((value for name, value in node.value if name.value == str(key)), None)
    return None
