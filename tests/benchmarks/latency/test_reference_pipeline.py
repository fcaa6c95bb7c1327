"""The PyTorch contender answers what transformers answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from medprompt.benchmarks.latency import reference_pipeline
from medprompt.benchmarks.latency.measure import pytorch_contenders
from medprompt.benchmarks.latency.reference_pipeline import ReferencePipeline, _batched_nms, reference_family
from medprompt.bundles.load import load_bundle
from medprompt.core.errors import EngineError, InputError
from medprompt.core.manifest import Postprocess
from medprompt.export.checkpoint import family_from_checkpoint
from medprompt.export.parity.reference import reference_detections
from medprompt.prompts.schema import Phrase, PromptClass, Prompts
from tests.benchmarks.conftest import TinyDemo
from tests.tiny import TINY

TEXTS = ("red cell", "white disc")
ONE_VECTOR_A_PHRASE = ("owlvit", "owlv2", "omdet-turbo")
NO_PIPELINE = ("glip", "sam3", "sam3_lite_text")


@pytest.mark.parametrize("model_type", [name for name in TINY if name not in NO_PIPELINE])
def test_answers_are_those_of_the_family_s_own_reference(
    model_type: str, tiny_checkpoint: Callable[[str], Path], picture: np.ndarray
) -> None:
    size_hw = (64, 96) if "grounding" in model_type else None
    family = family_from_checkpoint(tiny_checkpoint(model_type), size_hw)
    scores = torch.sigmoid(family.reference(picture, TEXTS).logits[0])
    per_query = scores.flatten() if family.labels_per_query == "many" else scores.amax(dim=-1)
    ranked = np.sort(per_query.numpy())[::-1]
    threshold = float(ranked[len(ranked) // 4])
    found = ReferencePipeline(family, TEXTS, threshold)(picture)
    got = np.sort(found["scores"].float().numpy())[::-1]
    assert found["boxes"].shape == (len(got), 4)
    if model_type in ONE_VECTOR_A_PHRASE:
        # OmDet-Turbo's post-processing looks at as many candidates as it has queries.
        np.testing.assert_allclose(got, ranked[ranked > threshold][: len(got)], atol=1e-5)
        assert set(found["text_labels"]) <= set(TEXTS)
    # transformers lets [CLS] and [SEP] score for a Grounding DINO box: more may pass, never fewer.
    assert len(got) >= min((ranked > threshold).sum(), family.model.config.num_queries if size_hw else 1)


@pytest.mark.parametrize("model_type", ["glip", "sam3"])
def test_a_model_without_a_pipeline_of_transformers_is_timed_in_the_family_s_own_way(
    model_type: str, tiny_checkpoint: Callable[[str], Path], picture: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = family_from_checkpoint(tiny_checkpoint(model_type))
    monkeypatch.setattr("medprompt.benchmarks.latency.reference_pipeline.reference_family", lambda *_: family)
    classes = (PromptClass(label=text, phrases=(Phrase(text=text),)) for text in TEXTS)
    prompts = Prompts(classes=tuple(classes))
    post = family.postprocess(Postprocess(top_k=50))
    bundle = SimpleNamespace(bank=SimpleNamespace(prompts=prompts), manifest=SimpleNamespace(postprocess=post))
    (contender,) = pytorch_contenders(bundle, Path(model_type), False, 1).values()
    found = contender.call(picture)
    expected = reference_detections(family, picture, prompts, post)
    np.testing.assert_array_equal(found.boxes_xyxy, expected.boxes_xyxy)
    assert len(found) > 0
    with pytest.raises(EngineError, match="float32 alone"):
        pytorch_contenders(bundle, Path("glip"), True, 1)


def test_bf16_autocast_changes_scores_a_little(tiny_checkpoint: Callable[[str], Path], picture: np.ndarray) -> None:
    family = family_from_checkpoint(tiny_checkpoint("owlvit"))
    full, half = (
        ReferencePipeline(family, TEXTS, 0.0, autocast=autocast)(picture)["scores"].float()
        for autocast in (False, True)
    )
    assert len(full) == len(half) > 0
    assert 0 < (full - half).abs().max() < 0.1


@pytest.mark.parametrize("iou, kept", [(1.0, [1, 0, 2]), (0.5, [1, 2]), (0.05, [1, 2])], ids=["off", "usual", "strict"])
def test_nms_stand_in(iou: float, kept: list[int]) -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 10]])
    scores, classes = torch.tensor([0.8, 0.9, 0.7]), torch.tensor([0, 0, 1])
    assert _batched_nms(boxes, scores, classes, iou).tolist() == kept


def test_nms_stand_in_of_nothing() -> None:
    nothing = torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64)
    assert _batched_nms(*nothing, 0.5).tolist() == []


def test_another_checkpoint_is_refused(tiny_demo: TinyDemo, tiny_checkpoint: Callable[[str], Path]) -> None:
    bundle = load_bundle(tiny_demo.report.out / "bundle")
    assert reference_family(bundle, tiny_demo.checkpoint).image_size.size_hw == (64, 64)
    with pytest.raises(InputError, match="not made from this checkpoint"):
        reference_family(bundle, tiny_checkpoint("owlv2"))


def test_pytorch_runs_the_image_processor_that_the_bundle_was_proven_against(
    tiny_demo: TinyDemo, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = load_bundle(tiny_demo.report.out / "bundle").manifest
    spec = manifest.preprocess.model_copy(update={"backend": "torchvision", "pad_value": 127.5})
    asked: list[object] = []
    family = SimpleNamespace(choose_size=lambda size_hw: size_hw, pad_with=asked.append)
    monkeypatch.setattr(
        reference_pipeline, "family_from_checkpoint", lambda _, image_processor: asked.append(image_processor) or family
    )
    bundle = SimpleNamespace(manifest=manifest.model_copy(update={"preprocess": spec}))
    reference_family(bundle, tiny_demo.checkpoint)  # type: ignore[arg-type]
    assert asked == ["torchvision", 0.5]


def test_the_model_gets_its_tensors_on_its_device(tiny_checkpoint: Callable[[str], Path], picture: np.ndarray) -> None:
    """``meta`` stands for a GPU: a tensor that was left behind would be on the CPU."""
    family = family_from_checkpoint(tiny_checkpoint("owlvit"))
    seen: list[torch.device] = []

    def forward(**inputs: torch.Tensor) -> None:
        seen.extend(tensor.device for tensor in inputs.values())

    pipeline = ReferencePipeline(family, TEXTS, forward=forward, device="meta")
    pipeline.forward(pipeline.prepare(picture))
    assert len(seen) > 1
    assert {device.type for device in seen} == {"meta"}


def test_beside_a_gpu_engine_pytorch_computes_on_that_gpu(tiny_demo: TinyDemo, monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[str] = []
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, device: moved.append(device))
    bundle = load_bundle(tiny_demo.report.out / "bundle")
    with pytest.raises(EngineError, match="PyTorch cannot compute on the GPU"):
        pytorch_contenders(bundle, tiny_demo.checkpoint, False, 1, on_gpu=True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "RTX A4000")
    found = pytorch_contenders(bundle, tiny_demo.checkpoint, True, 1, on_gpu=True)
    assert list(found) == ["PyTorch fp32 on RTX A4000", "PyTorch bf16 autocast on RTX A4000"]
    assert {contender.call.device.type for contender in found.values()} == {"cuda"}
    assert "cuda" in moved
