"""The resize in the graph makes the same image as the resize on the host, and the same decisions."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from medprompt.core.errors import MedpromptError
from medprompt.core.manifest import Preprocess, TensorSpec
from medprompt.export.graph.resize_front import with_resize_front
from medprompt.export.parity.images import drawn_image
from medprompt.images.resize import resize_matrices, resize_on_host

SIZE_HW = (48, 64)
IMAGE = TensorSpec(name="image", dtype="uint8", shape=("B", *SIZE_HW, 3), source="image")
PHRASES = TensorSpec(name="phrases", dtype="float32", shape=("P",), source="phrase")


def save_model(path: Path, nodes: list[Any], output_type: int = TensorProto.FLOAT, rank: int = 4) -> None:
    """A model of ``image`` and ``phrases`` whose output is called ``seen``."""
    graph = helper.make_graph(
        [*nodes, helper.make_node("Identity", ["phrases"], ["heard"])],
        "g",
        [
            helper.make_tensor_value_info("image", TensorProto.UINT8, list(IMAGE.shape)),
            helper.make_tensor_value_info("phrases", TensorProto.FLOAT, ["P"]),
        ],
        [
            helper.make_tensor_value_info("seen", output_type, [f"n{axis}" for axis in range(rank)]),
            helper.make_tensor_value_info("heard", TensorProto.FLOAT, ["P"]),
        ],
    )
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), str(path))


CAST = helper.make_node("Cast", ["image"], ["x"], to=TensorProto.FLOAT)
SHOW = helper.make_node("Identity", ["x"], ["seen"])


def run(path: Path, images: NDArray[np.uint8], spec: Preprocess) -> tuple[NDArray[Any], NDArray[Any]]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    rows, cols = resize_matrices((images.shape[1], images.shape[2]), spec)
    phrases = np.array([1.0, 2.0], dtype=np.float32)
    feeds = {"image": images, "resize_rows": rows, "resize_cols": cols, "phrases": phrases}
    seen, heard = session.run(None, feeds)
    np.testing.assert_array_equal(heard, phrases)
    return seen, heard


@pytest.mark.parametrize("source_hw", [(1, 1), (48, 64), (37, 211), (211, 37), (480, 640), (1080, 1920)])
@pytest.mark.parametrize(
    ("resample", "pad", "most", "mean"),
    # Pillow multiplies in fixed point, and from version 13 on takes the rows first where that is cheaper:
    # some values round the other way. The zoom is not rounded here.
    [("bicubic", "none", 2, 0.3), ("bilinear", "none", 1, 0.3), ("zoom", "square", 0.501, 0.3)],
)
def test_same_image_as_on_the_host(
    tmp_path: Path,
    source_hw: tuple[int, int],
    resample: Literal["bicubic", "bilinear", "zoom"],
    pad: Literal["none", "square"],
    most: float,
    mean: float,
) -> None:
    spec = Preprocess(size_hw=SIZE_HW if pad == "none" else (64, 64), resample=resample, pad=pad)
    save_model(tmp_path / "m.onnx", [CAST, SHOW])
    with_resize_front(tmp_path / "m.onnx", tmp_path / "f.onnx", (IMAGE, PHRASES), spec)
    image = drawn_image(source_hw, 3) if min(source_hw) > 20 else np.full((*source_hw, 3), 137, np.uint8)
    batch = np.stack([image, np.ascontiguousarray(image[:, ::-1])])
    seen, _ = run(tmp_path / "f.onnx", batch, spec)
    wanted = np.stack([resize_on_host(item, spec) for item in batch]).astype(np.float32)
    difference = np.abs(seen - wanted)
    assert seen.shape == wanted.shape
    assert difference.max() <= most
    assert difference.mean() <= mean
    assert seen.min() >= 0
    assert seen.max() <= 255


@pytest.mark.parametrize("source_hw", [(48, 64), (96, 128), (480, 640), (100, 300)])
def test_nearly_bit_for_bit_where_pillow_takes_the_columns_first(tmp_path: Path, source_hw: tuple[int, int]) -> None:
    spec = Preprocess(size_hw=SIZE_HW, resample="bicubic")
    save_model(tmp_path / "m.onnx", [CAST, SHOW])
    with_resize_front(tmp_path / "m.onnx", tmp_path / "f.onnx", (IMAGE, PHRASES), spec)
    image = drawn_image(source_hw, 3)
    seen, _ = run(tmp_path / "f.onnx", image[None], spec)
    assert (seen[0] != resize_on_host(image, spec)).mean() < 0.002


def test_specs_say_that_the_graph_resizes(tmp_path: Path) -> None:
    spec = Preprocess(size_hw=SIZE_HW, resample="bilinear")
    save_model(tmp_path / "m.onnx", [CAST, SHOW])
    inputs, placed = with_resize_front(tmp_path / "m.onnx", tmp_path / "m.onnx", (IMAGE, PHRASES), spec)
    assert placed == spec.model_copy(update={"placement": "graph"})
    assert [(s.name, s.shape, s.source) for s in inputs] == [
        ("image", ("B", "H", "W", 3), "image"),
        ("resize_rows", (48, "H"), "resize_rows"),
        ("resize_cols", (64, "W"), "resize_cols"),
        ("phrases", ("P",), "phrase"),
    ]
    graph_inputs = onnx.load(str(tmp_path / "m.onnx")).graph.input
    assert [value.name for value in graph_inputs] == [spec.name for spec in inputs]


def test_uint8_is_cast_before_it_is_permuted(tmp_path: Path) -> None:
    save_model(tmp_path / "m.onnx", [CAST, SHOW])
    spec = Preprocess(size_hw=SIZE_HW, resample="bilinear")
    with_resize_front(tmp_path / "m.onnx", tmp_path / "f.onnx", (IMAGE, PHRASES), spec)
    nodes = onnx.load(str(tmp_path / "f.onnx")).graph.node
    assert [node.op_type for node in nodes if "image" in node.input] == ["Cast"]


def test_shape_of_the_image_is_taken_from_the_resized_one(tmp_path: Path) -> None:
    save_model(tmp_path / "m.onnx", [CAST, helper.make_node("Shape", ["image"], ["seen"])], TensorProto.INT64, 1)
    spec = Preprocess(size_hw=SIZE_HW, resample="bilinear")
    with_resize_front(tmp_path / "m.onnx", tmp_path / "f.onnx", (IMAGE, PHRASES), spec)
    seen, _ = run(tmp_path / "f.onnx", np.zeros((3, 10, 20, 3), np.uint8), spec)
    assert seen.tolist() == [3, 48, 64, 3]


@pytest.mark.parametrize("operator", ["Transpose", "Identity"])
def test_a_graph_that_reads_uint8_otherwise_is_refused(tmp_path: Path, operator: str) -> None:
    save_model(tmp_path / "m.onnx", [helper.make_node(operator, ["image"], ["seen"])], TensorProto.UINT8)
    spec = Preprocess(size_hw=SIZE_HW, resample="bilinear")
    with pytest.raises(MedpromptError, match=operator):
        with_resize_front(tmp_path / "m.onnx", tmp_path / "f.onnx", (IMAGE, PHRASES), spec)
    assert not (tmp_path / "f.onnx").exists()
