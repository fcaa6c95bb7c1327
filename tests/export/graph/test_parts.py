"""A graph in two parts is that graph: traced, joined, typed and cut, with any number of images and phrases."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxslim
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medprompt.core.manifest import Postprocess, Preprocess, TensorSpec
from medprompt.export.families.base import Core, RawOutputs
from medprompt.export.graph import onnx_export
from medprompt.export.graph.detection_graph import DetectionGraph, ImagePart, output_specs
from medprompt.export.graph.onnx_export import onnx_from_graph
from medprompt.export.graph.parts import features_of_part
from medprompt.export.graph.parts_export import onnx_in_parts, write_typed
from medprompt.export.precision.blocks import blocks_of_model
from medprompt.export.precision.cast import typed_model
from medprompt.runtime.engines.ort import OnnxRuntime

SIDE, WIDTH, TOP_K = 8, 6, 4
INPUTS = (
    TensorSpec(name="image", dtype="uint8", shape=("B", SIDE, SIDE, 3), source="image"),
    TensorSpec(name="vectors", dtype="float32", shape=(1, "P", WIDTH), source="phrase"),
    TensorSpec(name="phrase_to_class", dtype="float32", shape=("P", "C"), source="phrase_to_class"),
)
BLOCKS = {"core.image": "backbone", "core.head": "head"}


class SmallCore(Core):
    """Each pixel is a query; two maps pass from the image to the phrases."""

    phrases_meet = False

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.image, self.head = nn.Conv2d(3, WIDTH, 3, padding=1), nn.Linear(WIDTH, 4)

    def feature_specs(self) -> tuple[TensorSpec, ...]:
        shapes = {"patches": ("B", SIDE * SIDE, WIDTH), "level0": ("B", WIDTH, SIDE, SIDE)}
        return tuple(TensorSpec(name=name, dtype="float32", shape=shape) for name, shape in shapes.items())

    def image_features(self, pixel_values: Tensor) -> dict[str, Tensor]:
        fine = self.image(pixel_values)
        return {"patches": fine.flatten(2).transpose(1, 2), "level0": fine.tanh()}

    def detect(self, features: Mapping[str, Tensor], prompts: Mapping[str, Tensor]) -> RawOutputs:
        # The batch is read off a feature: a part that asked for the image could not stand alone.
        logits = features["patches"] @ prompts["vectors"].expand(features["level0"].shape[0], -1, -1).transpose(1, 2)
        return RawOutputs(logits, self.head(features["level0"].flatten(2).transpose(1, 2)).sigmoid())


@pytest.fixture(scope="module")
def graph() -> DetectionGraph:
    post = Postprocess(top_k=TOP_K, phrases_at_once=2)
    return DetectionGraph(SmallCore(), INPUTS, Preprocess(size_hw=(SIDE, SIDE), resample="bilinear"), post).eval()


@pytest.fixture(scope="module")
def folder(graph: DetectionGraph, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("parts")
    onnx_in_parts(graph, INPUTS, output_specs(TOP_K), made / "model.onnx", 20, onnx_from_graph)
    model = onnx.load(str(made / "model.onnx"))
    for kind in ("fp16", "bf16"):
        typed = typed_model(model, blocks_of_model(model, BLOCKS), {"backbone": kind})
        write_typed(typed, made / f"model-{kind}.onnx")
    return made


def feeds(images: int, phrases: int) -> dict[str, NDArray[Any]]:
    random = np.random.default_rng(phrases)
    return {
        "image": random.integers(0, 256, (images, SIDE, SIDE, 3), dtype=np.uint8),
        "vectors": random.normal(size=(1, phrases, WIDTH)).astype(np.float32),
        "phrase_to_class": np.eye(phrases, dtype=np.float32),
    }


def run(path: Path, given: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    with OnnxRuntime.open(path, 1) as engine:
        return engine.run(given)


@pytest.mark.parametrize(("images", "phrases"), [(1, 1), (2, 5), (1, 40)])
@pytest.mark.parametrize("typed", ["", "-fp16"])
def test_parts_are_the_whole(folder: Path, graph: DetectionGraph, typed: str, images: int, phrases: int) -> None:
    asked = feeds(images, phrases)
    whole = run(folder / f"model{typed}.onnx", asked)
    features = run(folder / f"image{typed}.onnx", {"image": asked["image"]})
    prompts = {name: array for name, array in asked.items() if name != "image"}
    for name, array in run(folder / f"phrases{typed}.onnx", {**features, **prompts}).items():
        np.testing.assert_allclose(array, whole[name], atol=1e-3 if typed else 1e-6, err_msg=name)
    with torch.no_grad():
        _, scores, *_ = graph(*map(torch.from_numpy, asked.values()))
    np.testing.assert_allclose(whole["scores"], scores, atol=5e-3 if typed else 1e-6)


def test_what_passes_between_is_typed_as_the_model_is(folder: Path) -> None:
    shapes = {spec.name: spec.shape for spec in SmallCore().feature_specs()}
    for typed, dtype in (("", "float32"), ("-fp16", "float16"), ("-bf16", "float32")):  # numpy has no bfloat16
        passing = features_of_part(folder / f"image{typed}.onnx")
        assert {spec.name.partition("/")[0]: spec.shape for spec in passing} == shapes
        assert {spec.dtype for spec in passing} == {dtype}


def test_nodes_of_both_parts_keep_names_of_their_own(folder: Path) -> None:
    nodes = onnx.load(str(folder / "model.onnx")).graph.node
    assert len({node.name for node in nodes}) == len(nodes)
    assert {"core.image", "core.head"} <= {node.name.partition("/")[0] for node in nodes}


def test_a_bundle_without_parts_gets_none(folder: Path, tmp_path: Path) -> None:
    write_typed(onnx.load(str(folder / "model.onnx")), tmp_path / "model-auto.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model-auto.onnx"]


def test_a_heavy_model_is_folded_without_its_large_weights(
    graph: DetectionGraph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_export, "HEAVY_BYTES", 0)
    monkeypatch.setattr(onnx_export, "LARGE", WIDTH)
    seen, slim = list[int](), onnxslim.slim

    def looked_at(model: Any) -> Any:
        seen.extend(int(np.prod(tensor.dims)) for tensor in model.graph.initializer)
        return slim(model)

    monkeypatch.setattr(onnxslim, "slim", looked_at)
    features = graph.core.feature_specs()
    facts = onnx_from_graph(ImagePart(graph), INPUTS[:1], features, tmp_path / "image.onnx")
    assert facts.optimiser.startswith("onnxslim") and max(seen) <= WIDTH
    assert [value.name for value in onnx.load(str(tmp_path / "image.onnx")).graph.input] == ["image"]
    image = feeds(1, 1)["image"]
    with torch.no_grad():
        wanted = ImagePart(graph)(torch.from_numpy(image))
    for array, tensor in zip(run(tmp_path / "image.onnx", {"image": image}).values(), wanted, strict=True):
        np.testing.assert_allclose(array, tensor, atol=1e-6)
