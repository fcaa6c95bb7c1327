"""How long a typed model takes, estimated: arithmetic and memory traffic of each kernel on a GPU of public figures.

A kernel is a product with what is done to its result, a row of other operators in one type, or a fused attention
(``fusion``). It takes the longer of its arithmetic and its traffic. That ranks choices of types by what they cost; it
predicts no latency.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from medprompt.export.precision.blocks import Blocks
from medprompt.export.precision.dataflow import Dataflow
from medprompt.export.precision.flops import TYPICAL_SIZES, flops_of_nodes, shapes_of_tensors
from medprompt.export.precision.fusion import attentions_of

FLOPS_A_SECOND = {"fp32": 19.2e12, "tf32": 38.3e12, "fp16": 76.7e12, "bf16": 76.7e12, "int8": 153.4e12, "fp8": 76.7e12}
"""NVIDIA RTX A4000's data sheet, dense; it has no fp8, which then runs as fp16."""

BYTES_A_SECOND = 448e9
"""The same GPU's memory."""

BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}


@dataclass(frozen=True)
class Island:
    """Neighbouring nodes in fp32 among half ones: a whole block, or a few operators.

    Attributes:
        block: Of its first node.
        operators: What it does, each named once.
        nodes: Names of the first and the last.
        splits: What it keeps an engine from fusing: ``attention``, ``products`` (a product with what follows it), or
            nothing.
        ms: Its estimated price for one image: the time that the model would take less with these nodes in half.
    """

    block: str
    operators: tuple[str, ...]
    nodes: tuple[str, str]
    splits: str
    ms: float


class CostModel:
    """The kernels of one fp32 model under any choice of types.

    ``tf32``: whether products in fp32 are TF32's.
    """

    def __init__(self, model: Any, flow: Dataflow, *, tf32: bool = False) -> None:
        self._flow = flow
        self._tf32 = tf32
        self._shapes = shapes_of_tensors(model, TYPICAL_SIZES)
        self._flops = flops_of_nodes(model)
        self._attentions = attentions_of(flow)
        self._nodes = [index for index in range(len(flow.nodes)) if flow.has_floats(index)]

    def ms(self, kinds: Sequence[str]) -> float:
        """Milliseconds for one image, given each node's type."""
        kernels, traffic = self._kernels(kinds), defaultdict[int, float](float)
        kept = self._kept_inside(kinds)
        for index in self._nodes:
            for name in self._flow.nodes[index].output:
                if name not in kept:
                    self._add_traffic(name, index, kinds, kernels, traffic)
            if index in self._flops:
                own = [name for name in self._flow.float_inputs(index) if self._flow.maker_of(name) is None]
                traffic[kernels[index]] += sum(self._bytes(name, kinds[index]) for name in own)
        work = {index: flops / self._rate(kinds[index]) for index, flops in self._flops.items()}
        return 1000 * sum(max(work.get(kernel, 0.0), traffic[kernel] / BYTES_A_SECOND) for kernel in {*traffic, *work})

    def islands(self, kinds: Sequence[str], blocks: Blocks) -> tuple[Island, ...]:
        """The fp32 nodes among half ones that cost something, the costliest first."""
        whole, half = self.ms(kinds), next((kind for kind in kinds if kind != "fp32"), None)
        exact = {i for i in self._nodes if half and kinds[i] == "fp32" and blocks.of_node[i] in blocks.free}
        neighbours = self._joined(lambda maker, reader: maker in exact and reader in exact)
        groups: dict[int, list[int]] = defaultdict(list)
        for index in sorted(exact):
            groups[neighbours[index]].append(index)
        found = (self._island(group, kinds, str(half), whole, blocks) for group in groups.values())
        return tuple(sorted((one for one in found if one.ms > 0), key=lambda one: (-one.ms, one.nodes)))

    def _island(self, group: list[int], kinds: Sequence[str], half: str, whole: float, blocks: Blocks) -> Island:
        without = list(kinds)
        for index in group:
            without[index] = half
        nodes = [self._flow.nodes[index] for index in group]
        return Island(
            blocks.of_node[group[0]],
            tuple(dict.fromkeys(node.op_type for node in nodes)),
            (nodes[0].name, nodes[-1].name),
            self._split(group, kinds, without),
            whole - self.ms(without),
        )

    def _split(self, group: list[int], kinds: Sequence[str], without: Sequence[str]) -> str:
        if any(one.is_fused(without) and not one.is_fused(kinds) for one in self._attentions):
            return "attention"
        inside = set(group)
        makers = {self._flow.maker_of(name) for index in group for name in self._flow.float_inputs(index)}
        return "products" if any(maker in self._flops and maker not in inside for maker in makers) else ""

    def _rate(self, kind: str) -> float:
        return FLOPS_A_SECOND["tf32" if kind == "fp32" and self._tf32 else kind]

    def _bytes(self, name: str, kind: str) -> int:
        return math.prod(self._shapes.get(name, (0,))) * BYTES[kind]

    def _kernels(self, kinds: Sequence[str]) -> dict[int, int]:
        """Kernel of each node: its own for a product, one for neighbours of one type that are none."""
        return self._joined(
            lambda maker, reader: kinds[maker] == kinds[reader] and not {maker, reader} & self._flops.keys()
        )

    def _joined(self, together: Callable[[int, int], bool]) -> dict[int, int]:
        """One node of each group, by node; a maker and a reader that go ``together`` are of one group."""
        root = {index: index for index in self._nodes}

        def find(index: int) -> int:
            while root[index] != index:
                root[index] = root[root[index]]
                index = root[index]
            return index

        for index in self._nodes:
            for maker in map(self._flow.maker_of, self._flow.float_inputs(index)):
                if maker in root and together(maker, index):
                    root[find(index)] = find(maker)
        return {index: find(index) for index in self._nodes}

    def _kept_inside(self, kinds: Sequence[str]) -> set[str]:
        """Tensors that a fused attention does not write."""
        fused = [one for one in self._attentions if one.is_fused(kinds)]
        return {name for one in fused for index in (one.first, *one.between) for name in self._flow.nodes[index].output}

    def _add_traffic(
        self, name: str, maker: int, kinds: Sequence[str], kernels: dict[int, int], traffic: dict[int, float]
    ) -> None:
        """Count a tensor's way from the kernel that makes it to those that read it."""
        readers = [index for index in self._flow.readers_of(name) if index in kernels]
        epilogue = maker in self._flops and all(
            index not in self._flops and kinds[index] == kinds[maker] for index in readers
        )
        others = {kernels[index]: kinds[index] for index in readers if kernels[index] != kernels[maker]}
        if epilogue or not others:
            return
        traffic[kernels[maker]] += sum(self._bytes(name, kind) for kind in set(others.values()))
        for kernel, kind in others.items():
            traffic[kernel] += self._bytes(name, kind)
