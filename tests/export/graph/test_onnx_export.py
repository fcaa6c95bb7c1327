"""The exported file: dynamic axes, equal bytes, nothing of the machine, the same numbers as torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from medprompt.core.errors import InputError, MedpromptError
from medprompt.core.manifest import Postprocess
from medprompt.export.families.base import Core
from medprompt.export.graph import onnx_export
from medprompt.export.graph.detection_graph import OUTPUT_NAMES, DetectionGraph, input_specs, output_specs
from medprompt.export.graph.onnx_export import data_file, onnx_from_graph
from tests.export.exported import EACH, TOP_K, Exported, exported, feeds_of


@pytest.fixture(scope="session", params=EACH)
def tiny(request: pytest.FixtureRequest, tiny_export: Callable[[str], Exported]) -> Exported:
    return tiny_export(request.param)


@pytest.fixture(scope="session")
def owl(tiny_export: Callable[[str], Exported]) -> Exported:
    return tiny_export("owlvit")


@pytest.mark.parametrize(("phrases", "classes", "batch"), [(1, 1, 1), (2, 1, 2), (3, 3, 1), (6, 2, 3)])
def test_equals_torch_at_every_axis_length(tiny: Exported, phrases: int, classes: int, batch: int) -> None:
    feeds = feeds_of(tiny.family, phrases, classes, batch)
    specs = input_specs(tiny.family)
    with torch.no_grad():
        wanted = tiny.graph(*(torch.from_numpy(feeds[spec.name]) for spec in specs))
    session = onnxruntime.InferenceSession(str(tiny.path), providers=["CPUExecutionProvider"])
    for name, want, got in zip(OUTPUT_NAMES, wanted, session.run(OUTPUT_NAMES, feeds), strict=True):
        assert got.shape == tuple(want.shape), name
        np.testing.assert_allclose(got, want.numpy(), atol=2e-4, err_msg=name)


def test_declares_the_axes_of_its_specs(tiny: Exported) -> None:
    graph = onnx.load(str(tiny.path)).graph
    specs = (*input_specs(tiny.family), *output_specs(TOP_K))
    for spec, value in zip(specs, [*graph.input, *graph.output], strict=True):
        dims = value.type.tensor_type.shape.dim
        assert value.name == spec.name
        assert tuple(dim.dim_param or dim.dim_value for dim in dims) == spec.shape


def test_holds_nothing_of_this_machine(tiny: Exported) -> None:
    content = tiny.path.read_bytes()
    for trace in (b".py", b"stack_trace", b"pkg.torch", str(Path.cwd()).encode(), str(Path.home()).encode()):
        assert trace not in content


def test_names_nodes_by_module(owl: Exported) -> None:
    names = [node.name for node in onnx.load(str(owl.path)).graph.node]
    assert len(set(names)) == len(names)
    assert any(name.startswith("core.model.class_head") for name in names)
    assert any(name.startswith("select/TopK") for name in names)


def test_slims(owl: Exported) -> None:
    assert owl.facts.nodes == len(onnx.load(str(owl.path)).graph.node) < owl.facts.nodes_traced
    assert owl.facts.optimiser.startswith("onnxslim")
    assert owl.facts.bytes == owl.path.stat().st_size


def test_equal_input_gives_equal_bytes(owl: Exported, tiny_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    again = exported(tiny_checkpoint("owlvit"), tmp_path / "model.onnx")
    assert again.facts.sha256 == owl.facts.sha256


def test_opset_18_works_too(tiny_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    made = exported(tiny_checkpoint("owlvit"), tmp_path / "model.onnx", opset=18)
    assert onnx.load(str(made.path)).opset_import[0].version == made.facts.opset == 18


@pytest.mark.parametrize("opset", [17, 21, 23, 0, -1])
def test_other_opsets_are_refused(owl: Exported, tmp_path: Path, opset: int) -> None:
    with pytest.raises(InputError, match="18, 19, 20"):
        onnx_from_graph(owl.graph, input_specs(owl.family), output_specs(TOP_K), tmp_path / "m.onnx", opset)
    assert list(tmp_path.iterdir()) == []


def test_large_weights_lie_beside_the_file(owl: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = onnx.load(str(owl.path))
    monkeypatch.setattr(onnx_export, "EXTERNAL_OVER_BYTES", 1000)
    path = tmp_path / "model.onnx"
    data_file(path).write_bytes(b"left over from an earlier run")
    onnx_export.write_onnx(model, path)
    locations = {
        entry.value
        for tensor in onnx.load(str(path), load_external_data=False).graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    assert locations == {"model.onnx.data"}
    assert path.stat().st_size + data_file(path).stat().st_size < 1.1 * owl.path.stat().st_size
    kept = [onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer]  # needs no file
    wanted = [onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(str(owl.path)).graph.initializer]
    assert all(np.array_equal(*pair) for pair in zip(kept, wanted, strict=True))
    feeds = feeds_of(owl.family, 3, 3, 1)
    runs = [
        onnxruntime.InferenceSession(str(p), providers=["CPUExecutionProvider"]).run(None, feeds)
        for p in (owl.path, path)
    ]
    for one, other in zip(*runs, strict=True):
        np.testing.assert_array_equal(one, other)


class BranchesOnData(Core):
    def image_features(self, pixel_values: torch.Tensor) -> Any:
        if pixel_values.sum() > 0:
            raise ValueError
        return {"pixels": pixel_values}

    def detect(self, features: Any, prompts: Any) -> Any:
        return features["pixels"]


def test_a_graph_that_cannot_be_traced_says_so(owl: Exported, tmp_path: Path) -> None:
    specs = input_specs(owl.family)
    graph = DetectionGraph(BranchesOnData(), specs, owl.family.preprocess(), Postprocess(top_k=TOP_K))
    with pytest.raises(MedpromptError, match="BranchesOnData"):
        onnx_from_graph(graph, specs, output_specs(TOP_K), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []
