"""A small segmenter made in code: two real ONNX files with a stated rule, and golden images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from medprompt.bundles.golden import OBJECT
from medprompt.bundles.load import DECODER_FILE, ENCODER_FILE, GOLDEN_FILE, save_golden, write_manifest
from medprompt.core.detections import Detections
from medprompt.core.manifest import Preprocess, TensorSpec
from medprompt.core.masks import Masks
from medprompt.core.segmenter import SegmenterManifest
from tests.runtime.bundles import record

SIDE = 16
DARK = 50
"""Of pixels at this level or below none is an object's."""


def _save(path: Path, nodes: list[Any], inputs: Any, outputs: Any, constants: dict[str, NDArray[Any]]) -> None:
    weights = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    infos = [
        [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in values]
        for values in (inputs, outputs)
    ]
    graph = helper.make_graph(nodes, "test", *infos, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))


def _save_encoder(path: Path) -> None:
    """Features are the mean level of each pixel."""
    nodes = [
        helper.make_node("Cast", ["image"], ["levels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["levels", "last"], ["features"], keepdims=0),
    ]
    image, features = ("image", TensorProto.UINT8, [1, SIDE, SIDE, 3]), ("features", TensorProto.FLOAT, [1, SIDE, SIDE])
    _save(path, nodes, [image], [features], {"last": np.array([3])})


def _save_decoder(path: Path) -> None:
    """A pixel's logit is 1 where its centre lies in the box and the image is not dark, else -1."""
    centres = ((np.arange(SIDE) + 0.5) / SIDE).astype(np.float32)
    nodes = [
        helper.make_node("Split", ["boxes_xyxy"], ["left", "top", "right", "bottom"], axis=1, num_outputs=4),
        helper.make_node("Greater", ["centres", "left"], ["after"]),
        helper.make_node("Less", ["centres", "right"], ["before"]),
        helper.make_node("Greater", ["centres", "top"], ["below"]),
        helper.make_node("Less", ["centres", "bottom"], ["above"]),
        helper.make_node("And", ["after", "before"], ["across"]),
        helper.make_node("And", ["below", "above"], ["down"]),
        helper.make_node("Unsqueeze", ["across", "one"], ["row"]),
        helper.make_node("Unsqueeze", ["down", "two"], ["column"]),
        helper.make_node("And", ["row", "column"], ["inside"]),
        helper.make_node("Greater", ["features", "dark"], ["bright"]),
        helper.make_node("And", ["inside", "bright"], ["object"]),
        helper.make_node("Where", ["object", "yes", "no"], ["masks"]),
    ]
    inputs = [("boxes_xyxy", TensorProto.FLOAT, ["N", 4]), ("features", TensorProto.FLOAT, [1, SIDE, SIDE])]
    constants = {
        "centres": centres[None],
        "one": np.array([1]),
        "two": np.array([2]),
        **{name: np.array(value, dtype=np.float32) for name, value in (("dark", DARK), ("yes", 1), ("no", -1))},
    }
    _save(path, nodes, inputs, [("masks", TensorProto.FLOAT, ["N", SIDE, SIDE])], constants)


def golden() -> tuple[NDArray[np.uint8], Detections]:
    """An image of the model's size, so that masks are the boxes' own pixels, and what the rule answers."""
    image = np.full((SIDE, SIDE, 3), 200, dtype=np.uint8)
    boxes = np.array([[2, 3, 9, 8], [0, 0, 16, 16], [5, 5, 6, 15]], dtype=np.float32)
    masks = np.zeros((3, SIDE, SIDE), dtype=bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes.astype(int), strict=True):
        mask[top:bottom, left:right] = True
    ids, scores = np.zeros(3, dtype=np.int64), np.ones(3, dtype=np.float32)
    found = Detections(boxes, scores, ids, ids, OBJECT, OBJECT, (SIDE, SIDE), masks=Masks.of(masks))
    return image, found


def make_segmenter(folder: Path, reference: Detections | None = None, **changes: Any) -> Path:
    """Write a whole segmenter."""
    folder.mkdir(parents=True)
    _save_encoder(folder / ENCODER_FILE)
    _save_decoder(folder / DECODER_FILE)
    image, found = golden()
    save_golden(folder / GOLDEN_FILE, [image], [found if reference is None else reference])
    fields: dict[str, Any] = {
        "family": "test",
        "architecture": "Test",
        "checkpoint": "test",
        "checkpoint_sha256": "0" * 64,
        "inputs": (
            TensorSpec(name="image", dtype="uint8", shape=(1, SIDE, SIDE, 3), source="image"),
            TensorSpec(name="boxes_xyxy", dtype="float32", shape=("N", 4), source="boxes"),
        ),
        "features": (TensorSpec(name="features", dtype="float32", shape=(1, SIDE, SIDE)),),
        "outputs": (TensorSpec(name="masks", dtype="float32", shape=("N", SIDE, SIDE)),),
        "preprocess": Preprocess(size_hw=(SIDE, SIDE), resample="bilinear"),
        "opset": 20,
        "engines": (record("ort-cpu"),),
    }
    write_manifest(folder, SegmenterManifest(**(fields | changes)))
    return folder
