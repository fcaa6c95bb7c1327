"""Which block of the model a node belongs to: the unit in which precision is chosen.

Export names every node after its module (``core.model.decoder.layers.0.fc1/MatMul_7``), and those names survive
slimming; the exporter's own metadata does not. A family maps module paths to block names; a node without a module of
its own (a functional operator, a node that the slimmer made) belongs where its inputs were made.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

PREPROCESS = "preprocess"
POSTPROCESS = "postprocess"
FRONT = "resize_front"
"""Nodes of this name resize the source, in bundles that were exported with the resize in the graph."""
UNNAMED = "unnamed"

FIXED = (PREPROCESS, POSTPROCESS, UNNAMED)
"""Blocks that stay fp32 but in the naive model: source pixels must not be rounded, scores and boxes neither."""

Rank = tuple[int, int]


@dataclass(frozen=True)
class Blocks:
    """The blocks of one model.

    ``names`` are those that have nodes, in the order of the data's way, ``FIXED`` ones included; ``of_node`` is by the
    node's index in ``graph.node``.
    """

    names: tuple[str, ...]
    of_node: tuple[str, ...]

    @property
    def free(self) -> tuple[str, ...]:
        """Blocks whose type may be chosen."""
        return tuple(name for name in self.names if name not in FIXED)


def blocks_of_model(model: Any, declared: Mapping[str, str]) -> Blocks:
    """Assign every node to a block.

    Args:
        model: An exported model (ONNX), nodes in topological order.
        declared: Module-path prefix → block name, see ``Family.blocks``, in the order of the data's way. ``{i}``
            stands for a number, in the prefix and in the name, ``{any}`` for any one part of the path. The rule that
            covers most of the path decides.
    """
    finder = _Finder({"normalise": PREPROCESS, FRONT: PREPROCESS, **declared, "select": POSTPROCESS})
    nodes = list(model.graph.node)
    found = [finder.find(node.name.partition("/")[0]) for node in nodes]
    _inherit(nodes, found, finder, forward=True)
    _inherit(nodes, found, finder, forward=False)
    ranks = {name: finder.ranks[name] for name in found if name}
    ordered = sorted(ranks, key=ranks.__getitem__)
    of_node = tuple(name or UNNAMED for name in found)
    return Blocks((*ordered, *([UNNAMED] if UNNAMED in of_node else [])), of_node)


class _Finder:
    """Looks a module path up, and remembers where on the data's way each block lies."""

    def __init__(self, declared: Mapping[str, str]) -> None:
        indices = {name: index for index, name in reversed(list(enumerate(declared.values())))}
        self._rules = [(_pattern(path), name, indices[name]) for path, name in declared.items()]
        self.ranks: dict[str, Rank] = {}

    def find(self, path: str) -> str:
        """Block of a module path; empty where none is declared."""
        fits = [(rule.match(path), name, index) for rule, name, index in self._rules]
        best = max(((m.end(), m, name, index) for m, name, index in fits if m), key=lambda fit: fit[0], default=None)
        if best is None:
            return ""
        _, match, name, index = best
        number = match.groupdict().get("i")
        block = name.replace("{i}", number or "")
        self.ranks.setdefault(block, (index, int(number or 0)))
        return block


def _pattern(path: str) -> re.Pattern[str]:
    named = re.escape(path).replace(re.escape("{i}"), r"(?P<i>\d+)").replace(re.escape("{any}"), r"\w+")
    return re.compile(named + r"(?=\.|$)")


def _inherit(nodes: list[Any], found: list[str], finder: _Finder, *, forward: bool) -> None:
    """Give nodes without a block the last block among their producers, or the first among their consumers."""
    of_tensor: dict[str, str] = {}
    for index in range(len(nodes)) if forward else reversed(range(len(nodes))):
        node = nodes[index]
        known, outputs = (node.input, node.output) if forward else (node.output, node.input)
        around = {of_tensor[name] for name in known if name in of_tensor}
        if not found[index] and around:
            found[index] = (max if forward else min)(around, key=finder.ranks.__getitem__)
        if found[index]:
            _tell(of_tensor, outputs, found[index], finder)


def _tell(of_tensor: dict[str, str], names: Iterable[str], block: str, finder: _Finder) -> None:
    """Note a tensor's block; of several consumers, the first on the data's way."""
    for name in names:
        if name:
            of_tensor[name] = min(of_tensor.get(name, block), block, key=finder.ranks.__getitem__)
