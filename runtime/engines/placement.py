"""Which execution provider of ONNX Runtime got which nodes: what a GPU provider cannot do falls to the CPU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

RECORD_KEY = "session.record_ep_graph_assignment_info"
"""Session setting without which ONNX Runtime forgets the placement."""

CPU = "CPUExecutionProvider"

BOOKKEEPING = frozenset(
    {"Shape", "Size", "Gather", "Slice", "Concat", "Unsqueeze", "Squeeze", "Cast", "Constant", "ConstantOfShape"}
    | {"Range", "Reshape", "Equal", "Where", "Expand", "Add", "Sub", "Mul", "Div", "Mod", "ReduceProd", "Max", "Min"}
)
"""Operators that compute shapes; ONNX Runtime keeps those on the CPU on purpose."""


@dataclass(frozen=True)
class Placement:
    """Node counts by provider, by operator."""

    nodes: Mapping[str, Mapping[str, int]]

    def describe(self) -> str:
        """Nodes by provider, and which of those on the CPU compute more than shapes.

        A provider that fuses a part of the graph lists the nodes of that part.
        """
        counts = ", ".join(f"{provider} {sum(ops.values())}" for provider, ops in self.nodes.items())
        heavy = self.heavy_on_cpu()
        named = ", ".join(f"{name} ×{count}" for name, count in heavy.items())
        return f"nodes by provider: {counts or 'none'}" + (f"; on the CPU: {named}" if heavy else "")

    def heavy_on_cpu(self) -> dict[str, int]:
        """Operators on the CPU, but for those that compute shapes, the most frequent first."""
        on_cpu = Counter({name: n for name, n in self.nodes.get(CPU, {}).items() if name not in BOOKKEEPING})
        return dict(on_cpu.most_common())


def read_placement(session: Any) -> Placement | None:
    """The placement of a session that was made with ``RECORD_KEY``; None where this ONNX Runtime does not tell."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return None
    nodes: dict[str, Counter[str]] = {}
    for part in session.get_provider_graph_assignment_info():
        nodes.setdefault(part.ep_name, Counter()).update(node.op_type for node in part.get_nodes())
    return Placement({provider: dict(counts) for provider, counts in nodes.items()})
