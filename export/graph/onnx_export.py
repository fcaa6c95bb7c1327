"""The canonical graph as an ONNX file: dynamic axes, equal bytes each time, no trace of the machine."""

from __future__ import annotations

import ast
import gc
import logging
import math
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx.external_data_helper import load_external_data_for_model
from torch import Tensor, nn

from medprompt.core.errors import InputError, MedpromptError
from medprompt.core.files import sha256_of_file
from medprompt.core.manifest import TensorSpec
from medprompt.export.graph.detection_graph import DetectionGraph
from medprompt.export.graph.light import without_large_weights
from medprompt.export.graph.script_trace import exported_by_script

OPSETS = (18, 19, 20)
"""Tried: 18 to 20 compile everywhere; 23 emits ``Attention``, which TensorRT-RTX does not compile in fp32."""

EXTERNAL_OVER_BYTES = 100_000_000
"""Weights above this go to a data file: protobuf ends at 2 GB, and engines map a data file without a copy."""

INLINE_UNDER_BYTES = 1024
"""Small constants stay in the graph file, since engines fold them and shape inference reads them."""

EXAMPLE_SIZES = {"B": 2, "P": 5, "C": 3, "T": 11, "L": 4, "N": 7, "h": 141, "w": 173}
"""Sizes of the dynamic axes while tracing: over 1 and all different, so that torch fixes none of them.

Height and width are multiples of these where the model needs more pixels.
"""

NOISE = (
    # torch.export's own pytree calls its deprecated class.
    ("`isinstance\\(treespec, LeafSpec\\)` is deprecated.*", FutureWarning),
    # An axis that two inputs share is named once, as wanted.
    ("# The axis name: .* will not be used.*", UserWarning),
)

HEAVY_BYTES, LARGE = 1_000_000_000, 65_536
"""Bytes of weights from which a model is too heavy for copies; elements of a weight that is large."""

SLIM_ROUNDS = "3"
"""Of onnxslim, which else goes on until nothing changes: two more rounds took one of 3,150 nodes from a GLIP."""

LOUD_LOGGER = "torch.onnx._internal.exporter._registration"
"""Says on every export that torchvision's operators are absent; no family uses them."""


@dataclass(frozen=True)
class OnnxFacts:
    """What was measured while the file was made.

    Attributes:
        nodes: Nodes of the final graph.
        nodes_traced: Nodes before slimming.
        bytes: Size of graph and weights.
        seconds: Wall time of the export.
        sha256: Hash of the graph file.
        opset: ONNX operator set.
        optimiser: What rewrote the graph, or why nothing did.
    """

    nodes: int
    nodes_traced: int
    bytes: int
    seconds: float
    sha256: str
    opset: int
    optimiser: str


def check_opset(opset: int) -> None:
    """Refuse operator sets that some engine does not compile.

    Raises:
        InputError: ``opset`` is not one of ``OPSETS``.
    """
    if opset not in OPSETS:
        raise InputError(
            "This ONNX operator set is not served.",
            where="opset",
            expected=", ".join(map(str, OPSETS)),
            got=str(opset),
            fix="leave opset= out, or choose one of these",
        )


def onnx_from_graph(
    graph: nn.Module, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], path: Path, opset: int = 20
) -> OnnxFacts:
    """Export a graph; large weights go to ``<name>.data`` beside ``path``.

    Strings in the shapes of ``inputs`` become dynamic axes of that name.

    Raises:
        InputError: The operator set is not served.
        MedpromptError: PyTorch cannot export the graph.
    """
    check_opset(opset)
    started = time.perf_counter()
    # A script trace keeps its shape arithmetic in the graph, where typed precisions and the cost model cannot read it.
    if isinstance(graph, DetectionGraph) and isinstance(inputs[0].shape[1], str):
        traced = _traced_by_script(graph.eval(), inputs, outputs, opset)
    else:
        traced = _traced(graph.eval(), inputs, outputs, opset)
    nodes_traced = len(traced.graph.node)
    model, optimiser = slimmed(traced)
    del traced  # gigabytes, of a large model
    _declare(model, outputs)
    _strip_metadata(model)
    write_onnx(model, path)
    return OnnxFacts(
        nodes=len(model.graph.node),
        nodes_traced=nodes_traced,
        bytes=sum(file.stat().st_size for file in (path, data_file(path)) if file.exists()),
        seconds=time.perf_counter() - started,
        sha256=sha256_of_file(path),
        opset=opset,
        optimiser=optimiser,
    )


def data_file(path: Path) -> Path:
    """Where the large weights of an ONNX file lie."""
    return path.with_name(f"{path.name}.data")


def example_feeds(inputs: Sequence[TensorSpec], least_pixels: int = 1) -> tuple[Tensor, ...]:
    """Zeros in the shapes used for tracing. Values do not matter: no family's graph branches on data.

    An image of any size has ``least_pixels`` or more, see ``Preprocess``.
    """
    times = math.isqrt((least_pixels - 1) // (EXAMPLE_SIZES["h"] * EXAMPLE_SIZES["w"])) + 1
    sizes = EXAMPLE_SIZES | {axis: times * EXAMPLE_SIZES[axis] for axis in "hw"}
    return tuple(
        torch.zeros([sizes.get(str(n), n) for n in spec.shape], dtype=getattr(torch, spec.dtype)) for spec in inputs
    )


def _traced(graph: nn.Module, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], opset: int) -> Any:
    axes = {name: torch.export.Dim(name, min=1) for name in EXAMPLE_SIZES}
    shapes = [{i: axes[n] for i, n in enumerate(spec.shape) if isinstance(n, str)} for spec in inputs]
    with _exporting(graph):
        program = torch.onnx.export(
            graph,
            example_feeds(inputs),
            dynamo=True,
            opset_version=opset,
            input_names=[spec.name for spec in inputs],
            output_names=[spec.name for spec in outputs],
            # *prompts is one argument of the module, so its shapes are one tuple.
            dynamic_shapes=(shapes[0], tuple(shapes[1:])) if shapes[1:] else (shapes[0],),
            verbose=False,
        )
    model = program.model_proto
    del program
    gc.collect()  # it is held by circles, and holds the weights once more
    _name_nodes_by_module(model)
    return model


def _traced_by_script(
    graph: DetectionGraph, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], opset: int
) -> Any:
    """As ``_traced``, where height and width are dynamic; see ``medprompt.export.graph.script_trace``."""
    with _exporting(graph):
        return exported_by_script(graph, example_feeds(inputs, graph.least_pixels), inputs, outputs, opset)


@contextmanager
def _exporting(graph: nn.Module) -> Iterator[None]:
    """As ``exporting``; what PyTorch's exporter raises is said of the graph."""
    try:
        with exporting():
            yield
    except (RuntimeError, torch.onnx.errors.OnnxExporterError, ValueError, TypeError) as error:
        raise MedpromptError(
            "PyTorch could not export the graph.",
            got=str(error).strip().splitlines()[0],
            where=type(graph.core if isinstance(graph, DetectionGraph) else graph).__name__,
            fix="use the versions in constraints.txt; if it stays, report it with config.json",
        ) from error


@contextmanager
def exporting() -> Iterator[None]:
    """What every export by PyTorch's exporter needs: no gradients, no checks that cannot be traced, no known noise."""
    # transformers' data-dependent checks are off: Grounding DINO cannot be traced through them.
    with _quiet(), _environment("TRANSFORMERS_DISABLE_TORCH_CHECK", "1"), torch.no_grad():
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Drop the exporter's known noise; any other warning passes."""
    logger = logging.getLogger(LOUD_LOGGER)
    level = logger.level
    with warnings.catch_warnings():
        for message, category in NOISE:
            warnings.filterwarnings("ignore", message, category)
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _name_nodes_by_module(model: Any) -> None:
    """Name each node after its module, so that profiles and per-block precision can speak of blocks."""
    for index, node in enumerate(model.graph.node):
        scopes = next((p.value for p in node.metadata_props if p.key == "pkg.torch.onnx.name_scopes"), "[]")
        # The last scope is the traced operator; those with an underscore are the exporter's own.
        modules = [scope for scope in ast.literal_eval(scopes)[:-1] if scope and not scope.startswith("_")]
        node.name = f"{modules[-1] if modules else 'graph'}/{node.op_type}_{index}"


def slimmed(model: Any) -> tuple[Any, str]:
    """Fold and fuse with onnxslim; the traced graph itself where that fails.

    It holds half a dozen copies of a model at a time, so it never sees the large weights of a heavy one.
    """
    import onnxslim

    heavy = sum(len(tensor.raw_data) for tensor in model.graph.initializer) > HEAVY_BYTES
    try:
        with _environment("ONNXSLIM_MAX_ITER", SLIM_ROUNDS):
            slim = onnxslim.slim(without_large_weights(model, LARGE) if heavy else model)
            return _with_weights(slim, model) if heavy else slim, f"onnxslim {onnxslim.__version__}"
    except Exception as error:  # onnxslim raises bare types; an unslimmed graph is right, only slower
        return model, f"none: onnxslim failed with {type(error).__name__}: {error}"


def _with_weights(light: Any, model: Any) -> Any:
    """What was made of a model without its large weights, with those that it still uses."""
    light.graph.name = model.graph.name
    used = {name for node in light.graph.node for name in node.input}
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for value in [value for value in light.graph.input if value.name in weights]:
        light.graph.input.remove(value)
        light.graph.initializer.extend([weights[value.name]] if value.name in used else [])
    return light


def _declare(model: Any, outputs: Sequence[TensorSpec]) -> None:
    """State the outputs' shapes, of which the TorchScript exporter names what it cannot compute."""
    for value, spec in zip(model.graph.output, outputs, strict=True):
        value.type.tensor_type.shape.CopyFrom(onnx.helper.make_tensor_type_proto(1, spec.shape).tensor_type.shape)


def _strip_metadata(model: Any) -> None:
    """Remove stack traces and notes: they hold the paths of this machine and no engine reads them."""
    model.doc_string = ""
    model.graph.doc_string = ""
    parts = [*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output]
    for part in [model, model.graph, *parts, *model.graph.initializer]:
        del part.metadata_props[:]
        if part.HasField("doc_string"):
            part.ClearField("doc_string")


def write_onnx(model: Any, path: Path) -> None:
    """Write a model, large weights to a file beside it, and check what was written. The model keeps its weights."""
    for file in (path, data_file(path)):
        file.unlink(missing_ok=True)  # onnx appends to a data file that exists
    large = sum(len(tensor.raw_data) for tensor in model.graph.initializer) > EXTERNAL_OVER_BYTES
    onnx.save_model(
        model,
        str(path),
        save_as_external_data=large,
        all_tensors_to_one_file=True,
        location=data_file(path).name,
        size_threshold=INLINE_UNDER_BYTES,
    )
    if large:
        # onnx has moved the weights out of the model in memory, which others still read when the file may be gone.
        load_external_data_for_model(model, str(path.parent))
    onnx.checker.check_model(str(path), full_check=True)
