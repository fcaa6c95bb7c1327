"""Small bundles made in code: a real ONNX file with a stated rule, a real bank, a real manifest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from medprompt.bundles.load import BANK_FILE, MODEL_FILE, Bundle, load_bundle, write_manifest
from medprompt.core.manifest import (
    EngineRecord,
    Manifest,
    ParityRecord,
    Postprocess,
    Preprocess,
    TensorSpec,
    Tolerance,
)
from medprompt.prompts.bank import PromptBank, save_bank
from medprompt.prompts.schema import Prompts

ENCODER = "0123456789abcdef"
SIZE_HW = (8, 12)
QUERIES = 6
BOXES_XYXY = np.linspace(0.0, 0.95, QUERIES * 4, dtype=np.float32).reshape(QUERIES, 4)
"""Query i has box i."""

MASKS = np.array(
    [
        [
            [0.9 if 2 * i <= x < 2 * i + 9 and i <= y < i + 8 and x + y < 20 else 0.1 for x in range(24)]
            for y in range(16)
        ]
        for i in range(QUERIES)
    ],
    dtype=np.float32,
)
"""Query i has mask i: probabilities of a rectangle that has lost a corner."""

DIRECTIONS = np.eye(QUERIES, 3, dtype=np.float32)
"""Query i answers channel i of a phrase vector; queries over 2 answer nothing."""


def make_bank(
    classes: Sequence[dict[str, Any]] | None = None, pooling: str = "max", encoder: str = ENCODER
) -> PromptBank:
    """A bank whose phrase vectors are (1, 2, 3) x 0.2 x the phrase's number, from 1."""
    prompts = Prompts.model_validate(
        {
            "classes": classes
            or [
                {"label": "RBC", "phrases": ["red cell", "pale disc"]},
                {"label": "WBC", "phrases": ["white cell"]},
            ],
            "pooling": pooling,
        }
    )
    count = len(prompts.texts)
    vectors = 0.2 * np.arange(1, count + 1, dtype=np.float32)[:, None] * np.array([[1, 2, 3]], dtype=np.float32)
    return PromptBank(prompts, encoder, {"vectors": vectors}, {"vectors": "phrase"}, np.zeros(0, dtype=np.int64))


def parity_record(passed: bool, delta: float = 0.0) -> ParityRecord:
    """A comparison on one image: all of 100 decisions kept, or half of them."""
    return ParityRecord(
        images=1,
        image_source="test",
        threshold=0.2,
        fallback_top=0,
        decisions=100,
        kept=1.0 if passed else 0.5,
        extra=0,
        min_iou=1.0,
        mean_score_delta=delta,
        max_score_delta=delta,
        tolerance=Tolerance(),
        passed=passed,
    )


def record(device: str, latency_ms: float | None = 5.0, passed: bool | None = True, reason: str = "") -> EngineRecord:
    """What an export wrote about a device; ``passed`` None: its parity was not measured."""
    parity = None if passed is None else parity_record(passed)
    return EngineRecord(device=device, precision="fp32", parity=parity, latency_ms=latency_ms, reason=reason)


def make_manifest(**changes: Any) -> Manifest:
    """The manifest of ``save_model``'s graph."""
    graph = changes.get("preprocess", Preprocess(size_hw=SIZE_HW, resample="bilinear")).placement == "graph"
    image_shape: tuple[int | str, ...] = ("B", "H", "W", 3) if graph else ("B", *SIZE_HW, 3)
    resize = (
        TensorSpec(name="resize_rows", dtype="float32", shape=(SIZE_HW[0], "H"), source="resize_rows"),
        TensorSpec(name="resize_cols", dtype="float32", shape=(SIZE_HW[1], "W"), source="resize_cols"),
    )
    fields: dict[str, Any] = {
        "family": "owlvit",
        "architecture": "Test",
        "checkpoint": "test",
        "checkpoint_sha256": "0" * 64,
        "encoder": ENCODER,
        "inputs": (
            TensorSpec(name="image", dtype="uint8", shape=image_shape, source="image"),
            *(resize if graph else ()),
            TensorSpec(name="vectors", dtype="float32", shape=(1, "P", 3), source="phrase"),
            TensorSpec(name="phrase_to_class", dtype="float32", shape=("P", "C"), source="phrase_to_class"),
        ),
        "outputs": (
            TensorSpec(name="boxes_xyxy", dtype="float32", shape=("B", QUERIES, 4)),
            TensorSpec(name="scores", dtype="float32", shape=("B", QUERIES)),
            TensorSpec(name="class_ids", dtype="int64", shape=("B", QUERIES)),
            TensorSpec(name="phrase_ids", dtype="int64", shape=("B", QUERIES)),
        ),
        "preprocess": Preprocess(size_hw=SIZE_HW, resample="bilinear"),
        "postprocess": Postprocess(top_k=QUERIES, queries=QUERIES),
        "opset": 20,
    }
    return Manifest(**(fields | changes))


def save_model(path: Path) -> None:
    """Scores are brightness (0 … 1) x best phrase's product with the query's direction; the host resizes.

    A query's best phrase is the last one, for vectors grow with the phrase's number.
    """
    constants = {
        "directions": DIRECTIONS.T,
        "boxes": BOXES_XYXY[None],
        "per_level": np.array(1 / 255, dtype=np.float32),
        "pixel_axes": np.array([1, 2, 3]),
        "class_axis": np.array([1]),
        "one": np.array([1]),
        "tail": np.array([1, 1]),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "pixel_axes"], ["level"], keepdims=0),
        helper.make_node("Mul", ["level", "per_level"], ["brightness"]),
        helper.make_node("MatMul", ["vectors", "directions"], ["answers"]),  # [1, P, Q]
        helper.make_node("ReduceMax", ["answers", "class_axis"], ["best"], keepdims=0),  # [1, Q]
        helper.make_node("Unsqueeze", ["brightness", "one"], ["column"]),
        helper.make_node("Mul", ["column", "best"], ["scores"]),
        helper.make_node("ArgMax", ["answers"], ["speaker"], axis=1, keepdims=0),  # [1, Q]
        helper.make_node("Shape", ["scores"], ["score_shape"]),
        helper.make_node("Expand", ["speaker", "score_shape"], ["phrase_ids"]),
        helper.make_node("ArgMax", ["phrase_to_class"], ["class_of_phrase"], axis=1, keepdims=0),
        helper.make_node("Gather", ["class_of_phrase", "phrase_ids"], ["class_ids"], axis=0),
        helper.make_node("Shape", ["image"], ["batch"], start=0, end=1),
        helper.make_node("Concat", ["batch", "tail"], ["box_shape"], axis=0),
        helper.make_node("Expand", ["boxes", "box_shape"], ["boxes_xyxy"]),
    ]
    kinds = {"uint8": TensorProto.UINT8, "float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
    manifest = make_manifest()
    inputs, outputs = (
        [helper.make_tensor_value_info(spec.name, kinds[spec.dtype], list(spec.shape)) for spec in specs]
        for specs in (manifest.inputs, manifest.outputs)
    )
    weights = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "test", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))


def add_masks(path: Path) -> None:
    """Give the graph one more output, ``masks``: query i has mask i."""
    model = onnx.load(str(path))
    weights = {"mask": MASKS[None], "mask_tail": np.array(MASKS.shape)}
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    model.graph.node.append(helper.make_node("Concat", ["batch", "mask_tail"], ["mask_shape"], axis=0))
    model.graph.node.append(helper.make_node("Expand", ["mask", "mask_shape"], ["masks"]))
    model.graph.output.append(helper.make_tensor_value_info("masks", TensorProto.FLOAT, ["B", *MASKS.shape]))
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))


def with_masks(manifest: Manifest) -> Manifest:
    """The manifest of a graph that has masks too."""
    outputs = (*manifest.outputs, TensorSpec(name="masks", dtype="float32", shape=("B", *MASKS.shape)))
    post = manifest.postprocess.model_copy(update={"mask_threshold": 0.5})
    return manifest.model_copy(update={"outputs": outputs, "postprocess": post})


def make_folder(folder: Path, bank: PromptBank | None = None, *, masks: bool = False, **changes: Any) -> Path:
    """Write a whole bundle."""
    folder.mkdir(parents=True)
    save_model(folder / MODEL_FILE)
    if masks:
        add_masks(folder / MODEL_FILE)
    save_bank(bank or make_bank(), folder / BANK_FILE)
    manifest = make_manifest(**changes)
    write_manifest(folder, with_masks(manifest) if masks else manifest)
    return folder


def make_bundle(folder: Path, bank: PromptBank | None = None, **changes: Any) -> Bundle:
    """Write a whole bundle and load it."""
    return load_bundle(make_folder(folder, bank, **changes))
