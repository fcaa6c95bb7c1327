"""One graph for images of any size: at sizes that its trace never saw, in both engines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from medprompt.core.manifest import Postprocess
from medprompt.core.progress import Silent
from medprompt.export.bundle import ExportOptions, bundle_from_checkpoint
from medprompt.export.checkpoint import family_from_checkpoint
from medprompt.export.compile.axes import axes_of_bundle
from medprompt.export.compile.builder import engine_from_onnx
from medprompt.export.compile.options import CompileOptions
from medprompt.export.embed import bank_from_prompts
from medprompt.export.families.base import Family
from medprompt.export.graph.detection_graph import OUTPUT_NAMES, DetectionGraph, input_specs, output_specs
from medprompt.export.graph.onnx_export import EXAMPLE_SIZES, example_feeds, exporting, slimmed
from medprompt.export.graph.script_trace import exported_by_script
from medprompt.export.parity.check import ParityCheck
from medprompt.export.parity.images import ParityImages, drawn_image
from medprompt.export.parity.reference import reference_detections
from medprompt.export.parity.stretch import cost_of_one_size, stretch_warning
from medprompt.export.precision.blocks import FIXED, blocks_of_model
from medprompt.export.precision.cast import check_strongly_typed, typed_model
from medprompt.export.precision.flops import flops_of_nodes
from medprompt.metrics.agreement import check_decisions
from medprompt.prompts.assemble import prompt_inputs
from medprompt.runtime import Detector
from medprompt.runtime.engines.openvino import shared_core
from tests.export.exported import TOP_K, prompts
from tests.runtime.bundles import make_manifest

UNSEEN_HW = [(96, 96), (97, 131), (31, 190), (192, 61), (129, 128)]
MIXED_HW = [
    (240, 320),
    (320, 240),
    (256, 256),
    (199, 301),
    (100, 400),
    (400, 100),
    (97, 131),
    (333, 500),
    (61, 60),
    (480, 641),
]


BOTH = ["grounding-dino", "glip"]


@pytest.fixture(scope="module")
def family(request: pytest.FixtureRequest, tiny_checkpoint: Callable[[str], Path]) -> Family:
    return family_from_checkpoint(tiny_checkpoint(getattr(request, "param", BOTH[0])))


@pytest.fixture(scope="module")
def graph(family: Family) -> DetectionGraph:
    post = family.postprocess(Postprocess(top_k=TOP_K, labels_per_query=family.labels_per_query))
    return DetectionGraph(family.core(), input_specs(family), family.preprocess(), post).eval()


@pytest.fixture(scope="module")
def model(family: Family, graph: DetectionGraph) -> onnx.ModelProto:
    """As it is traced, for slimming it takes longer than all else here."""
    specs = input_specs(family)
    with exporting():
        return exported_by_script(
            graph, example_feeds(specs), specs, output_specs(family.postprocess(Postprocess(top_k=TOP_K)).top_k), 20
        )


@pytest.mark.parametrize("family", BOTH, indirect=True)
def test_sizes_that_the_trace_did_not_see(
    family: Family, graph: DetectionGraph, model: onnx.ModelProto, tmp_path: Path
) -> None:
    path = str(tmp_path / "model.onnx")
    onnx.save(model, path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    compiled = shared_core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    specs = input_specs(family)
    feeds = prompt_inputs(bank_from_prompts(family, prompts(3, 2)), specs)
    for batch, size_hw in enumerate(UNSEEN_HW, start=1):
        assert size_hw != (EXAMPLE_SIZES["h"], EXAMPLE_SIZES["w"])
        image = np.random.default_rng(batch).integers(0, 256, (1 + batch % 2, *size_hw, 3), dtype=np.uint8)
        named = {"image": image, **feeds}
        with torch.no_grad():
            wanted = graph(*(torch.from_numpy(named[spec.name]) for spec in specs))
        for got in (session.run(list(OUTPUT_NAMES), named), [compiled(named)[name] for name in OUTPUT_NAMES]):
            there = wanted[1].numpy() > 0  # a level of GLIP's fills up with nothing
            assert there.any(axis=1).all()
            for mine, theirs in zip(got, wanted, strict=True):
                np.testing.assert_allclose(mine[there], theirs.numpy()[there], rtol=0, atol=1e-4)


def test_the_traced_image_has_a_cell_for_each_query(
    tiny_checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the published 900 of them need, of which the image of a tiny model has too few."""
    family = family_from_checkpoint(tiny_checkpoint("grounding-dino"))
    queries = family.model.model.query_position_embeddings
    monkeypatch.setattr(family.model.config, "num_queries", 1200)
    monkeypatch.setattr(queries, "weight", torch.nn.Parameter(queries.weight.mean(0).repeat(1200, 1)))
    specs = input_specs(family)
    graph = DetectionGraph(family.core(), specs, family.preprocess(), Postprocess(top_k=TOP_K)).eval()
    feeds = example_feeds(specs, graph.least_pixels)
    with torch.no_grad():
        boxes, *_ = graph(*feeds)
    assert boxes.shape == (2, TOP_K, 4)
    assert feeds[0].shape[1] > EXAMPLE_SIZES["h"]


def test_nodes_are_named_after_their_modules(model: onnx.ModelProto, graph: DetectionGraph) -> None:
    paths = {path for path, _ in graph.named_modules()} | {"graph"}
    assert {node.name.partition("/")[0] for node in model.graph.node} <= paths
    named = [node.name for node in model.graph.node if node.op_type == "MatMul"]
    assert any(name.startswith("core.model.model.decoder.layers.1.fc1/") for name in named)
    assert any(name.startswith("core.model.model.backbone.conv_encoder.model.swin.encoder.layers.3.") for name in named)


def test_the_trace_leaves_the_modules_as_they_were(model: onnx.ModelProto, graph: DetectionGraph) -> None:
    hooks = [
        hook for part in graph.modules() for hook in (*part._forward_hooks.values(), *part._forward_pre_hooks.values())
    ]
    assert not [hook for hook in hooks if hook.__module__.startswith("torch.onnx")]


@pytest.mark.parametrize("model_type", BOTH)
def test_one_size_is_compared_with_the_own_processor(model_type: str, tiny_checkpoint: Callable[[str], Path]) -> None:
    family = family_from_checkpoint(tiny_checkpoint(model_type), (96, 96))
    images = ParityImages(
        tuple(drawn_image(hw, seed) for seed, hw in enumerate([(96, 96), (90, 150), (40, 4000)])), "drawn"
    )
    post, read = Postprocess(top_k=TOP_K), prompts(3, 2)
    references = [reference_detections(family, image, read, post) for image in images]
    cost = cost_of_one_size(ParityCheck(family, Path(), images, references, 0.2, Silent()), read, post)
    assert cost is not None
    assert cost.images == (
        2 if model_type == "glip" else 1
    )  # the square one is seen alike, and the thin one transformers itself does not run
    assert cost.kept < 0.5
    assert f"keeps {cost.kept:.1%} of the {cost.decisions} decisions" in stretch_warning(cost)[0]
    assert not family.image_size.follows


def test_own_sizes_cost_nothing(family: Family) -> None:
    images = ParityImages((drawn_image((90, 150), 0),), "drawn")
    check = ParityCheck(family, Path(), images, [], 0.2, Silent())
    assert cost_of_one_size(check, prompts(1, 1), Postprocess(top_k=TOP_K)) is None
    assert stretch_warning(None) == ()


@pytest.mark.slow
@pytest.mark.parametrize("max_batch", [1, 4])
def test_tensorrt_rtx_compiles_it(max_batch: int, family: Family, model: onnx.ModelProto, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed: pip install 'medprompt[trt-rtx]'")
    specs, bank = input_specs(family), bank_from_prompts(family, prompts(3, 2))
    manifest = make_manifest(inputs=specs, preprocess=family.preprocess())
    asked = CompileOptions("trt-rtx", "fp32", ("sm86",), max_batch=max_batch)
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    built = engine_from_onnx(path, specs, axes_of_bundle(manifest, bank, asked), asked)
    assert built.gpus == ("sm86",)


def test_it_is_typed_and_priced_as_other_graphs_are(family: Family, model: onnx.ModelProto) -> None:
    slim, _ = slimmed(model)
    blocks = blocks_of_model(slim, family.blocks)
    for kind in ("fp16", "bf16"):
        types = dict.fromkeys(blocks.free, kind)
        check_strongly_typed(typed_model(slim, blocks, types))
        check_strongly_typed(typed_model(slim, blocks, types, keep_fp32=False))
    work = flops_of_nodes(slim)
    named = sum(flops for place, flops in work.items() if blocks.of_node[place] not in FIXED)
    assert named >= 0.99 * sum(work.values()) > 0


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["grounding-dino", "mm-grounding-dino", "glip"])
def test_mixed_sizes_decide_as_the_own_processor(
    model_type: str, tiny_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """40 images of ten shapes, those of the parity check not among them."""
    read, checkpoint = prompts(3, 2), tiny_checkpoint(model_type)
    report = bundle_from_checkpoint(checkpoint, read, tmp_path / "b", ExportOptions())
    family = family_from_checkpoint(checkpoint)
    images = [drawn_image(hw, 100 + 10 * turn + place) for turn in range(4) for place, hw in enumerate(MIXED_HW)]
    references = [reference_detections(family, image, read, report.manifest.postprocess) for image in images]
    for device in ("ort-cpu", "openvino"):
        with Detector.load(report.path, device, threshold=0.0) as detector:
            pairs = list(zip(references, detector(images), strict=True))
        parity = check_decisions(
            pairs, 0.2, family.tolerances["fp32"], "40 images of 10 shapes", detector.manifest.postprocess.top_k
        )
        assert parity.passed, parity
