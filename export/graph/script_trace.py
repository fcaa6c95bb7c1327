"""Graphs of cores that serve images of any size, by PyTorch's TorchScript exporter.

torch.export keeps the size of every map as a formula of the image's, and proves such formulas equal at every step: of a
Swin of one layer a stage and two layers of encoder and decoder it was not done after 90 s of CPU time, where this trace
takes 5. It keeps shape arithmetic as it is written, and numbers that Python has made of sizes as the numbers of one
image: what it traces may not do that, and is run at other sizes in ``tests/export/graph``.
"""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from medprompt.core.manifest import TensorSpec

DOT = "|"
"""Stands for the dots of a module's path, of which this exporter keeps the last part only."""


def exported_by_script(
    graph: nn.Module, feeds: Sequence[Tensor], inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], opset: int
) -> Any:
    """Trace a graph with feeds, and name its nodes after their modules."""
    # A copy: the exporter leaves hooks on every module.
    named = _Named(copy.deepcopy(graph))
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one for each size that Python reads, right or wrong, and of its age
        torch.onnx.export(
            named,
            tuple(feeds),
            buffer,
            dynamo=False,
            opset_version=opset,
            input_names=[spec.name for spec in inputs],
            output_names=[spec.name for spec in outputs],
            dynamic_axes={
                spec.name: {axis: name for axis, name in enumerate(spec.shape) if isinstance(name, str)}
                for spec in (*inputs, *outputs)
            },
        )
    model = onnx.load_model_from_string(buffer.getvalue())
    _name_nodes(model, {path for path, _ in graph.named_modules()})
    return model


class _Named(nn.Module):
    """A graph whose modules have their whole path for a name."""

    def __init__(self, graph: nn.Module) -> None:
        super().__init__()
        # The exporter takes the first name that it meets: inner modules come before those that hold them.
        for path, module in reversed(list(_paths(graph))):
            self._modules[path.replace(".", DOT)] = module
        self._graph = [graph]

    def forward(self, *feeds: Tensor) -> Any:
        return self._graph[0](*feeds)


def _paths(graph: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return ((path or "graph", module) for path, module in graph.named_modules())


def _name_nodes(model: Any, paths: set[str]) -> None:
    """Name each node after its module, as torch.export's are."""
    for index, node in enumerate(model.graph.node):
        scope = next((part for part in reversed(node.name.split("/")[:-1]) if part), "graph").replace(DOT, ".")
        # A module that is called again gets a number behind its name.
        path = scope if scope in paths else scope.rpartition("_")[0]
        node.name = f"{path if path in paths and path else 'graph'}/{node.op_type}_{index}"
