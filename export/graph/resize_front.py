"""The resize as the first part of the graph, for engines whose matrix products are cheap.

Pillow's resize is linear and separable: along the width, round to uint8, along the height, round to uint8.
Each pass is one product with a matrix that the runtime computes once per source size. The host then copies
raw bytes.

Pillow 13 takes the rows first where it reckons that cheaper (tall sources); the graph always takes the
columns first. A fifth of the values then differ by 1/255: the price of one fixed graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from medprompt.core.errors import MedpromptError
from medprompt.core.manifest import Preprocess, TensorSpec
from medprompt.export.graph.onnx_export import write_onnx

FRONT = "resize_front"
DTYPES = {"uint8": TensorProto.UINT8, "float32": TensorProto.FLOAT}


def with_resize_front(
    model_path: Path, out_path: Path, inputs: Sequence[TensorSpec], preprocess: Preprocess
) -> tuple[tuple[TensorSpec, ...], Preprocess]:
    """Compose the resize onto an exported model.

    The composed model takes ``image`` uint8 ``[B, H, W, 3]`` at source size (one size a batch),
    ``resize_rows`` float32 ``[h, H]`` and ``resize_cols`` float32 ``[w, W]``, see
    ``medprompt.images.resize.resize_matrices``. ``out_path`` may be ``model_path``; ``inputs`` are the model's,
    ``image`` first, and ``preprocess`` is its own, placed on the host.

    Returns:
        Inputs and preprocessing of the composed model.

    Raises:
        MedpromptError: The model's ``image`` does not go through a cast to float32 first.
    """
    model = onnx.load(str(model_path))
    specs = front_specs(preprocess)
    nodes, constants, resized = _front(specs, rounds=preprocess.resample != "zoom")
    _feed_from(model.graph, specs[0].name, resized)
    _put_first(model.graph.node, nodes)
    model.graph.initializer.extend(constants)
    fields = [helper.make_tensor_value_info(spec.name, DTYPES[spec.dtype], list(spec.shape)) for spec in specs]
    _put_first(model.graph.input, fields, replaced=1)
    write_onnx(model, out_path)
    return (*specs, *inputs[1:]), preprocess.model_copy(update={"placement": "graph"})


def front_specs(preprocess: Preprocess) -> tuple[TensorSpec, TensorSpec, TensorSpec]:
    """The three inputs that take the place of ``image``."""
    height, width = preprocess.size_hw
    return (
        TensorSpec(name="image", dtype="uint8", shape=("B", "H", "W", 3), source="image"),
        TensorSpec(name="resize_rows", dtype="float32", shape=(height, "H"), source="resize_rows"),
        TensorSpec(name="resize_cols", dtype="float32", shape=(width, "W"), source="resize_cols"),
    )


def _front(specs: Sequence[TensorSpec], *, rounds: bool) -> tuple[list[Any], list[Any], str]:
    """Nodes, constants, and the name of the resized float32 image ``[B, h, w, 3]``."""
    image, rows, cols = (spec.name for spec in specs)
    nodes = [
        # The cast precedes the permute: TensorRT refuses to permute uint8.
        _node("Cast", [image], "float", to=TensorProto.FLOAT),
        _node("Transpose", [f"{FRONT}/float"], "planes", perm=[0, 3, 1, 2]),
        _node("Transpose", [cols], "cols", perm=[1, 0]),
        _node("MatMul", [f"{FRONT}/planes", f"{FRONT}/cols"], "wide"),
        *_as_uint8("wide", rounds=rounds, last=False),
        _node("MatMul", [rows, f"{FRONT}/wide_done"], "high"),
        *_as_uint8("high", rounds=rounds, last=True),
        _node("Transpose", [f"{FRONT}/high_done"], "resized", perm=[0, 2, 3, 1]),
    ]
    constants = [
        numpy_helper.from_array(np.array(value, dtype=np.float32), f"{FRONT}/{name}")
        for name, value in (("half", 0.5), ("black", 0), ("white", 255))
    ]
    return nodes, constants, f"{FRONT}/resized"


def _as_uint8(name: str, *, rounds: bool, last: bool) -> list[Any]:
    """Round and clip to what uint8 would hold, still in float32.

    Pillow rounds halves up after each pass; ONNX's Round would send them to the even neighbour. The zoom of
    OWLv2's processor works in floating point throughout, so its passes are left as they are and only the end
    is clipped.
    """
    source = f"{FRONT}/{name}"
    if not rounds and not last:
        return [_node("Identity", [source], f"{name}_done")]
    limits = [f"{FRONT}/black", f"{FRONT}/white"]
    if not rounds:
        return [_node("Clip", [source, *limits], f"{name}_done")]
    return [
        _node("Add", [source, f"{FRONT}/half"], f"{name}_raised"),
        _node("Floor", [f"{FRONT}/{name}_raised"], f"{name}_rounded"),
        _node("Clip", [f"{FRONT}/{name}_rounded", *limits], f"{name}_done"),
    ]


def _node(operator: str, inputs: list[str], output: str, **attributes: Any) -> Any:
    name = f"{FRONT}/{output}"
    return helper.make_node(operator, inputs, [name], name=f"{name}/{operator}", **attributes)


def _feed_from(graph: Any, image: str, resized: str) -> None:
    """Let the readers of ``image`` read the resized image, which is float32 already and needs no cast."""
    readers = [node for node in graph.node if image in node.input]
    casts = [node for node in readers if _is_cast_to_float(node)]
    others = {node.op_type for node in readers if node not in casts}
    if graph.input[0].type.tensor_type.elem_type != TensorProto.FLOAT and (not casts or others - {"Shape"}):
        raise MedpromptError(
            "The resize cannot be put in front of this graph.",
            where=image,
            expected="the image goes through a cast to float32 first",
            got=", ".join(sorted(others)) or "nothing reads the image",
            fix="export with resize=host, and report it",
        )
    renamed = {image: resized, **{node.output[0]: resized for node in casts}}
    for node in casts:
        graph.node.remove(node)
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]


def _is_cast_to_float(node: Any) -> bool:
    return node.op_type == "Cast" and any(a.name == "to" and a.i == TensorProto.FLOAT for a in node.attribute)


def _put_first(field: Any, items: list[Any], replaced: int = 0) -> None:
    """Insert before a repeated field's items, in place of the first ``replaced``."""
    rest = list(field)[replaced:]
    del field[:]
    field.extend([*items, *rest])
