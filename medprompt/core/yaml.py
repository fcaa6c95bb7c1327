"""YAML files that people write: a key that is given twice is refused, and every value has its line.

PyYAML lets the last of two equal keys win: a class that was written twice, or an entry without its dash, is gone
without a word. Values are those of YAML 1.1, in which ``no``, ``yes`` and ``on`` are booleans: who wanted text says so
with ``YamlFile.line``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from medprompt.core.errors import InputError
from medprompt.core.text import read_text, reason


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
        node = self.root
        for key in keys:
            inner = _inner(node, key)
            if inner is None:
                break
            node = inner
        return node.start_mark.line + 1 if node else 1

    def text(self, *keys: Any) -> str:
        """The value that keys and list indices lead to as it is written: ``no``, where the value is False."""
        node = self.root
        for key in keys:
            node = _inner(node, key)
        return str(node.value) if isinstance(node, yaml.ScalarNode) else ""


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which refuses a key that a mapping has already."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Compose a mapping. Here its keys are still those of the file: construction lays merged ones among them."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        lines: dict[Any, int] = {}
        for key_node in (key_node for key_node, _ in node.value if isinstance(key_node, yaml.ScalarNode)):
            merge = key_node.tag == "tag:yaml.org,2002:merge"
            key = key_node.value if merge else self.construct_object(key_node)
            if key in lines:
                problem = f"{key!r} is given twice, first in line {lines[key]}"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            lines[key] = key_node.start_mark.line + 1
        return node


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
        yaml.YAMLError: It is none, or has a key twice.
        ValueError: A value that looks like a date and is none.
    """
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        return YamlFile(None if root is None else loader.construct_document(root), root)
    finally:
        loader.dispose()


def _inner(node: yaml.Node | None, key: Any) -> yaml.Node | None:
    if isinstance(node, yaml.SequenceNode) and isinstance(key, int) and 0 <= key < len(node.value):
        inner: yaml.Node = node.value[key]
        return inner
    if isinstance(node, yaml.MappingNode):
        return next((value for name, value in node.value if name.value == str(key)), None)
    return None
