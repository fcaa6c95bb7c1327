"""One graph in two parts, for models whose phrases never meet: the image's, computed once, and that of some phrases.

The parts are traced apart, each with its weights; joined they are the canonical graph, which is a third small file on
the same weights. A typed model is made of the whole and cut again where the image's features pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper, shape_inference
from onnx.utils import Extractor

from medprompt.bundles.load import MODEL_FILE
from medprompt.core.files import sha256_of_file
from medprompt.core.manifest import TensorSpec
from medprompt.export.graph.detection_graph import DetectionGraph, ImagePart, PhrasePart
from medprompt.export.graph.onnx_export import OnnxFacts, write_onnx
from medprompt.export.graph.parts import part_paths

PHRASES = "phrases:"
"""Before the names of tensors that only the second part has: each trace counts its own from 0."""


def onnx_in_parts(
    graph: DetectionGraph,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    path: Path,
    opset: int,
    export: Callable[..., OnnxFacts],
) -> OnnxFacts:
    """As ``onnx_from_graph``, which is ``export``, and the two parts beside ``path``. Raises as it does."""
    features = graph.core.feature_specs()
    image, phrases = part_paths(path)
    facts = [
        export(ImagePart(graph), inputs[:1], features, image, opset),
        export(PhrasePart(graph, features), (*features, *inputs[1:]), outputs, phrases, opset),
    ]
    model = joined(*(onnx.load(str(part), load_external_data=False) for part in (image, phrases)))
    onnx.save_model(model, str(path))
    onnx.checker.check_model(str(path), full_check=True)
    return OnnxFacts(
        nodes=len(model.graph.node),
        nodes_traced=sum(part.nodes_traced for part in facts),
        bytes=sum(part.bytes for part in facts) + path.stat().st_size,
        seconds=sum(part.seconds for part in facts),
        sha256=sha256_of_file(path),
        opset=opset,
        optimiser=facts[0].optimiser,
    )


def write_typed(model: Any, path: Path) -> None:
    """Write a typed model of a bundle beside its fp32 one, and its parts where that has parts."""
    write_onnx(model, path)
    first, _ = part_paths(path.with_name(MODEL_FILE))
    if first.is_file():
        cut(path, onnx.load(str(first), load_external_data=False).graph.output)


def joined(image: Any, phrases: Any) -> Any:
    """The graph of which two models are the parts; the first is changed."""
    own, other = image.graph, phrases.graph
    shared = {value.name for value in (*other.input, *other.output)}
    names = {name: name if name in shared or not name else f"{PHRASES}{name}" for name in _names(other)}
    for index, node in enumerate(other.node, len(own.node)):
        node.input[:], node.output[:] = [names[name] for name in node.input], [names[name] for name in node.output]
        node.name = f"{node.name.rpartition('_')[0]}_{index}"
    for named in (*other.initializer, *other.value_info):
        named.name = names[named.name]
    between = {value.name for value in own.output}
    own.value_info.extend([*own.output, *other.value_info])
    own.input.extend(value for value in other.input if value.name not in between)
    own.node.extend(other.node)
    own.initializer.extend(other.initializer)
    del own.output[:]
    own.output.extend(other.output)
    return image


def _names(graph: Any) -> set[str]:
    of_nodes = {name for node in graph.node for name in (*node.input, *node.output)}
    return of_nodes | {named.name for named in (*graph.initializer, *graph.value_info)}


def cut(path: Path, features: Sequence[Any]) -> None:
    """Write the two parts of an ONNX file, which meet where ``features``, values of its fp32 model, pass."""
    whole = shape_inference.infer_shapes(onnx.load(str(path), load_external_data=False))
    kinds = {value.name: value.type.tensor_type.elem_type for value in whole.graph.value_info}
    passing = [_passing(whole.graph, value, kinds[value.name]) for value in features]
    between = [value.name for value in passing]
    kept = [value for value in whole.graph.value_info if value.name not in between]
    del whole.graph.value_info[:]
    whole.graph.value_info.extend([*kept, *passing])
    given, answers = ([value.name for value in values] for values in (whole.graph.input, whole.graph.output))
    cutter = Extractor(whole)
    image, phrases = part_paths(path)
    for part, taken, made in ((image, given[:1], between), (phrases, [*between, *given[1:]], answers)):
        onnx.save_model(cutter.extract_model(taken, made), str(part))
        onnx.checker.check_model(str(part), full_check=True)


def _passing(graph: Any, feature: Any, kind: int) -> Any:
    """The value at which a graph is cut: in float32 where the feature is bfloat16, which numpy has not."""
    if kind != TensorProto.BFLOAT16:
        return helper.make_tensor_value_info(feature.name, kind, _shape(feature))
    name = feature.name
    passed, taken = f"{name}/passed", f"{name}/taken"
    place = next(index for index, node in enumerate(graph.node) if name in node.output)
    for node in graph.node:
        node.input[:] = [taken if one == name else one for one in node.input]
    label = graph.node[place].name
    casts = [
        helper.make_node("Cast", [name], [passed], name=f"{label}/passed", to=TensorProto.FLOAT),
        helper.make_node("Cast", [passed], [taken], name=f"{label}/taken", to=kind),
    ]
    for node in reversed(casts):
        graph.node.insert(place + 1, node)
    return helper.make_tensor_value_info(passed, TensorProto.FLOAT, _shape(feature))


def _shape(value: Any) -> list[int | str]:
    return [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
