"""What an engine computes as one kernel: attention, where its types let it be.

A fused attention never writes its matrix of scores. Which ones are fused TensorRT-RTX 1.7 shows in the memory that its
builder states for one attention of 8 heads and 2,048 tokens: none for sm86 with both products in half, whatever type
scale, bias, mask, clip and softmax between them have; two matrices of scores where a maximum is subtracted before the
softmax, or the weights are scaled after it; three where one product is in fp32, four (in half's bytes) where all is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medprompt.export.precision.dataflow import Dataflow

PRODUCTS = frozenset({"MatMul", "Gemm", "Conv", "Einsum"})

MOVES = frozenset({"Reshape", "Transpose", "Unsqueeze", "Squeeze", "Expand", "Identity"})

BEFORE_SOFTMAX = frozenset({"Mul", "Div", "Add", "Where", "Clip"}) | MOVES
"""What a fused attention may do to its scores; to its weights, it may do nothing but move them."""


@dataclass(frozen=True)
class Attention:
    """One attention, by indices in ``graph.node``.

    Attributes:
        first, last: The products of queries with keys, and of weights with values.
        softmax: Between them.
        between: All nodes between them, the softmax included.
        fusible: Whether an engine fuses it where its products are half.
    """

    first: int
    last: int
    softmax: int
    between: frozenset[int]
    fusible: bool

    def is_fused(self, kinds: Sequence[str]) -> bool:
        """Whether an engine fuses it, given each node's type."""
        return self.fusible and kinds[self.first] == kinds[self.last] != "fp32"


def attentions_of(flow: Dataflow) -> tuple[Attention, ...]:
    """Find every softmax that stands between two products."""
    found = (_attention(flow, index) for index, node in enumerate(flow.nodes) if node.op_type == "Softmax")
    return tuple(one for one in found if one is not None)


def _attention(flow: Dataflow, softmax: int) -> Attention | None:
    before, first = _way(flow, softmax, forward=False)
    after, last = _way(flow, softmax, forward=True)
    if first is None or last is None:
        return None
    fusible = _operators(flow, before) <= BEFORE_SOFTMAX and _operators(flow, after) <= MOVES
    return Attention(first, last, softmax, frozenset({softmax, *before, *after}), fusible)


def _operators(flow: Dataflow, indices: set[int]) -> set[str]:
    return {flow.nodes[index].op_type for index in indices}


def _way(flow: Dataflow, start: int, *, forward: bool) -> tuple[set[int], int | None]:
    """The nodes between a softmax and the product before or after it, and that product."""
    found: set[int] = set()
    front = [start]
    while front:
        node = flow.nodes[front.pop()]
        names = node.output if forward else node.input
        near = {r for name in names for r in (flow.readers_of(name) if forward else [flow.maker_of(name)])}
        for index in sorted(near - found - {None}):  # type: ignore[type-var]
            assert index is not None
            if flow.nodes[index].op_type in PRODUCTS:
                return found, index
            if flow.has_floats(index) and len(found) < MOST_BETWEEN and flow.nodes[index].op_type != "Softmax":
                found.add(index)
                front.append(index)
    return found, None


MOST_BETWEEN = 16
"""Nodes on one side: a softmax whose scores come from further away is no attention's."""
