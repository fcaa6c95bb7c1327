"""Which nodes of a half block stay fp32.

Always fp32, since half loses or overflows there: norms, softmax, reductions, logarithms and roots, sines of positions,
sampling points, top-K, and every sigmoid that makes a score or a box (the sigmoid of SiLU stays half, since
``x · sigmoid(x)`` needs no more digits than ``x``; likewise ``x · sigmoid(1.702 x)``, the quick GELU).

From those whose *input* must not be rounded (``EXACT_INPUTS``), the set grows backwards over element-wise and
data-moving nodes up to the matrix product that made the value: box refinement, inverse sigmoid and sampling points stay
whole. Last, a node that stands between fp32 nodes only joins them, which saves casts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from onnx import numpy_helper

from medprompt.export.precision.dataflow import Dataflow

FP32_OPS = frozenset(
    {
        *("LayerNormalization", "InstanceNormalization", "GroupNormalization", "BatchNormalization", "LpNormalization"),
        *("Softmax", "LogSoftmax", "ReduceMean", "ReduceSum", "ReduceL1", "ReduceL2", "ReduceMax", "ReduceMin"),
        *("ReduceSumSquare", "ReduceProd", "ReduceLogSumExp", "CumSum", "TopK", "ArgMax", "ArgMin", "GridSample"),
        *("Log", "Exp", "Sqrt", "Reciprocal", "Pow", "Sin", "Cos", "Elu", "Softplus", "Sigmoid"),
    }
)

EXACT_INPUTS = {"TopK": 0, "ReduceMax": 0, "Sigmoid": 0, "Log": 0, "Sin": 0, "Cos": 0, "GridSample": 1}
"""Operators, and which of their inputs is a score, a box, or a point."""

ELEMENTWISE_OPS = frozenset(
    {
        *("Add", "Sub", "Mul", "Div", "Neg", "Abs", "Min", "Max", "Clip", "Where", "Concat", "Slice", "Split", "Pad"),
        *("Reshape", "Transpose", "Unsqueeze", "Squeeze", "Flatten", "Expand", "Tile", "Identity"),
        *("Gather", "GatherElements", "GatherND"),
    }
)
"""Element-wise and data-moving operators: they run in whichever type their surroundings have."""

MATRIX = frozenset({"MatMul", "Gemm", "Conv"})


def fp32_nodes(flow: Dataflow, half: frozenset[int]) -> frozenset[int]:
    """Choose the nodes that stay fp32.

    Of the nodes whose block is half, by index in ``graph.node``.
    """
    fixed = {index for index in half if flow.nodes[index].op_type in FP32_OPS and not _is_silu(flow, index)}
    fixed |= _grown(flow, half)
    constants = {index: flow.constants.keys() & set(flow.nodes[index].input) for index in half}
    fixed |= {index for index in half if any(fp16_loses(flow, name) for name in constants[index])}
    return frozenset(fixed | _enclosed(flow, half - fixed))


def _is_silu(flow: Dataflow, index: int) -> bool:
    """Whether a node is the sigmoid of ``x · sigmoid(c x)``, with or without a constant."""
    node = flow.nodes[index]
    readers = flow.readers_of(node.output[0])
    gated = {node.input[0], *_scaled(flow, node.input[0])}
    return (
        node.op_type == "Sigmoid"
        and bool(readers)
        and node.output[0] not in flow.outputs
        and all(flow.nodes[r].op_type == "Mul" and gated & set(flow.nodes[r].input) for r in readers)
    )


def _scaled(flow: Dataflow, name: str) -> set[str]:
    """What a tensor is a multiple of, by a constant number."""
    maker = flow.maker_of(name)
    if maker is None or flow.nodes[maker].op_type != "Mul":
        return set()
    factors = [one for one in flow.nodes[maker].input if one in flow.constants]
    scalar = len(factors) == 1 and math.prod(flow.constants[factors[0]].dims) == 1
    return set(flow.nodes[maker].input) - set(factors) if scalar else set()


def _grown(flow: Dataflow, half: frozenset[int]) -> set[int]:
    """Neutral nodes on the way to an input that must be exact."""
    front = [
        flow.nodes[index].input[EXACT_INPUTS[node.op_type]]
        for index, node in enumerate(flow.nodes)
        if node.op_type in EXACT_INPUTS and not _is_silu(flow, index)
    ]
    found: set[int] = set()
    while front:
        maker = flow.maker_of(front.pop())
        if (
            maker in half
            and maker not in found
            and flow.nodes[maker].op_type in ELEMENTWISE_OPS
            and not _is_bias(flow, maker)
        ):
            found.add(maker)
            front.extend(flow.float_inputs(maker))
    return found


def _is_bias(flow: Dataflow, index: int) -> bool:
    """Whether a node adds a matrix product's bias: engines fuse the two, so they share a type."""
    node = flow.nodes[index]
    if node.op_type != "Add":
        return False
    makers = [flow.maker_of(name) for name in node.input]
    operators = {flow.nodes[maker].op_type for maker in makers if maker is not None}
    biases = [name for name in node.input if name in flow.constants and len(flow.constants[name].dims) == 1]
    return len(biases) == 1 and any(operator in MATRIX for operator in operators)


def _enclosed(flow: Dataflow, half: frozenset[int]) -> set[int]:
    """The most neutral nodes whose dynamic inputs and outputs all meet fp32 nodes, or each other."""
    found = {index for index in half if flow.nodes[index].op_type in ELEMENTWISE_OPS}
    # The greatest set: start with all, drop those that touch a half node, until none does.
    while True:
        open_ones = {index for index in found if any(n in half and n not in found for n in _neighbours(flow, index))}
        if not open_ones:
            return found
        found -= open_ones


def _neighbours(flow: Dataflow, index: int) -> Iterator[int]:
    for name in flow.float_inputs(index):
        maker = flow.maker_of(name)
        if maker is not None:
            yield maker
    for name in flow.nodes[index].output:
        yield from flow.readers_of(name)


def fp16_loses(flow: Dataflow, name: str) -> bool:
    """Whether a float constant has a finite value that fp16 makes infinite, or nothing but values it makes zero."""
    if name not in flow.range_of:
        values = abs(numpy_helper.to_array(flow.constants[name]).astype("float64").ravel())
        finite = values[values < math.inf]
        flow.range_of[name] = float(finite.max(initial=0.0)), float(values.max(initial=0.0))
    largest_finite, largest = flow.range_of[name]
    return largest_finite >= FP16_OVERFLOW or 0 < largest < FP16_UNDERFLOW


FP16_OVERFLOW = 65520.0
"""From here on, rounding to fp16 gives infinity."""

FP16_UNDERFLOW = 2.0**-25
"""Below this, rounding to fp16 gives zero."""
