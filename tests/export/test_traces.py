"""The double of the exporter that keeps what it traced: an equal graph is traced once, any other anew."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from medprompt.core.manifest import Postprocess
from medprompt.export.graph import onnx_export
from medprompt.export.graph.detection_graph import DetectionGraph, input_specs, output_specs
from medprompt.export.graph.onnx_export import OnnxFacts, data_file
from tests.export import traces
from tests.export.exported import Exported, loaded
from tests.tiny import TINY


def graph_of(folder: Path, **post: Any) -> tuple[DetectionGraph, Any]:
    family = loaded(folder)
    specs = input_specs(family)
    return DetectionGraph(family.core(), specs, family.preprocess(), Postprocess(**post)).eval(), specs


@pytest.mark.parametrize("model_type", TINY)
def test_a_checkpoint_loaded_twice_is_one_graph(model_type: str, tiny_checkpoint: Callable[[str], Path]) -> None:
    one, other = (graph_of(tiny_checkpoint(model_type), top_k=8) for _ in range(2))
    assert traces.fingerprint(*one, output_specs(8), 20) == traces.fingerprint(*other, output_specs(8), 20)


def test_its_folder_is_no_part_of_a_graph(tiny_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    folders = (tiny_checkpoint("owlvit"), Path(shutil.copytree(tiny_checkpoint("owlvit"), tmp_path / "copy")))
    one, other = (graph_of(folder, top_k=8) for folder in folders)
    assert traces.fingerprint(*one, output_specs(8), 20) == traces.fingerprint(*other, output_specs(8), 20)


def other_weight(graph: DetectionGraph) -> None:
    next(graph.parameters()).data.view(-1)[0] += 1


def other_scale(graph: DetectionGraph) -> None:
    next(graph.normalise.buffers()).view(-1)[0] += 1


def no_mean(graph: DetectionGraph) -> None:
    graph.select.pooling = "mean"


def other_activation(graph: DetectionGraph) -> None:
    next(m for m in graph.modules() if hasattr(m, "activation_fn")).activation_fn = torch.nn.Tanh()


@pytest.mark.parametrize("change", [other_weight, other_scale, no_mean, other_activation])
def test_whatever_a_graph_holds_makes_it_another(
    change: Callable[[DetectionGraph], None], tiny_checkpoint: Callable[[str], Path]
) -> None:
    graph, specs = graph_of(tiny_checkpoint("owlvit"), top_k=8)
    first = traces.fingerprint(graph, specs, output_specs(8), 20)
    change(graph)
    assert traces.fingerprint(graph, specs, output_specs(8), 20) != first


def test_a_method_put_in_place_makes_it_another(
    tiny_checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, specs = graph_of(tiny_checkpoint("owlvit"), top_k=8)
    first = traces.fingerprint(graph, specs, output_specs(8), 20)
    monkeypatch.setattr(type(graph.core), "forward", lambda *_: None)
    assert traces.fingerprint(graph, specs, output_specs(8), 20) != first


def test_what_is_kept_is_written_again_byte_for_byte(
    tiny_export: Callable[[str], Exported], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tiny_export("owlvit")
    calls: list[int] = []

    def traced(graph: Any, inputs: Any, outputs: Any, path: Path, opset: int) -> OnnxFacts:
        calls.append(opset)
        path.write_bytes(made.path.read_bytes())
        return made.facts

    monkeypatch.setattr(traces, "onnx_from_graph", traced)
    export = traces.keeping_traces(tmp_path / "kept")
    asked = (made.graph, input_specs(made.family), output_specs(8))
    paths = [tmp_path / f"{number}.onnx" for number in range(4)]
    facts = [export(*asked, path, opset) for path, opset in zip(paths[:3], (20, 20, 18), strict=True)]
    assert calls == [20, 18]
    assert facts == [made.facts] * 3
    assert {path.read_bytes() for path in paths[:3]} == {made.path.read_bytes()}
    monkeypatch.setattr(onnx_export, "EXTERNAL_OVER_BYTES", 1000)
    assert export(*asked, paths[3]).bytes == paths[3].stat().st_size + data_file(paths[3]).stat().st_size
