"""SAM 3: the lean core is transformers' model, phrase by phrase, and what users hand it is refused in words."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AttentionInterface

from medprompt.core.errors import CheckpointError, PromptError
from medprompt.core.manifest import Postprocess, Tolerance
from medprompt.core.masks import Masks
from medprompt.export.checkpoint import family_from_checkpoint
from medprompt.export.checkpoint_files import licence_files
from medprompt.export.embed import bank_from_prompts
from medprompt.export.families import family_class
from medprompt.export.families.base import Family, RawOutputs
from medprompt.export.families.sam3 import core as core_module
from medprompt.export.families.sam3.core import _logit_of_product, outputs_of_phrases
from medprompt.export.families.sam3.family import Sam3
from medprompt.export.graph.detection_graph import DetectionGraph, input_specs
from medprompt.export.parity.images import drawn_image
from medprompt.export.parity.reference import reference_detections
from medprompt.export.parity.stages import stages_of_image
from medprompt.images.resize import resize_on_host
from medprompt.metrics.agreement import check_decisions
from medprompt.prompts.assemble import prompt_inputs
from medprompt.prompts.schema import Prompts
from medprompt.runtime.masks import source_masks
from tests.tiny.sam3 import LICENCE, QUERIES

TEXTS = ("red blood cell", "polyp", "small purple platelet", "nucleus", "round")
POST = Postprocess(top_k=8)


@pytest.fixture(scope="module", params=["sam3", "sam3_lite_text"])
def family(request: pytest.FixtureRequest, tiny_checkpoint: Callable[[str], Path]) -> Family:
    return family_from_checkpoint(tiny_checkpoint(request.param))


@pytest.fixture(scope="module")
def sam3(tiny_checkpoint: Callable[[str], Path]) -> Family:
    return family_from_checkpoint(tiny_checkpoint("sam3"))


def prompts_of(*texts: str, pooling: str = "max") -> Prompts:
    classes = [{"label": text, "phrases": [text]} for text in texts]
    return Prompts.model_validate({"classes": classes, "pooling": pooling})


def answers(family: Family, batch: int, *texts: str) -> list[tuple[Tensor, ...]]:
    """The graph's outputs of each image, in PyTorch."""
    post, bank = family.postprocess(POST), bank_from_prompts(family, prompts_of(*texts))
    graph = DetectionGraph(family.core(), input_specs(family), family.preprocess(), post).eval()
    images = [resize_on_host(drawn_image((50, 80), seed), family.preprocess()) for seed in range(batch)]
    prompts = prompt_inputs(bank, input_specs(family)).values()
    with torch.no_grad():
        outputs = graph(torch.from_numpy(np.stack(images)), *map(torch.from_numpy, prompts))
    return list(zip(*outputs, strict=True))


@pytest.mark.parametrize("phrases", [1, 2, 5])
@pytest.mark.parametrize("batch", [1, 2])
def test_the_graph_is_transformers_own_segmentation(family: Family, phrases: int, batch: int) -> None:
    """Against ``Sam3Model`` and the arithmetic of ``post_process_instance_segmentation``, one phrase at a time."""
    size_hw, model = (50, 80), family.model
    for seed, (boxes, scores, _, phrase_ids, probabilities) in enumerate(answers(family, batch, *TEXTS[:phrases])):
        pixels = family.processor.image_processor(drawn_image(size_hw, seed), return_tensors="pt").pixel_values
        found = []
        for phrase, text in enumerate(TEXTS[:phrases]):
            words = family.processor(text=[text], return_tensors="pt")
            with torch.no_grad():
                own = model(pixel_values=pixels, input_ids=words.input_ids, attention_mask=words.attention_mask)
            own_scores = own.pred_logits[0].sigmoid() * own.presence_logits[0].sigmoid()
            masks = torch.nn.functional.interpolate(own.pred_masks.sigmoid(), size=size_hw, mode="bilinear")[0] > 0.5
            found += zip(own_scores.tolist(), own.pred_boxes[0], masks, [phrase] * QUERIES, strict=True)
        best = sorted(found, key=lambda one: -one[0])[: len(scores)]
        wanted = Masks.of(torch.stack([mask for _, _, mask, _ in best]).numpy())
        got = source_masks(probabilities.numpy(), 0.5, size_hw, family.preprocess())
        np.testing.assert_allclose(scores, [score for score, *_ in best], atol=2e-6)
        np.testing.assert_allclose(boxes, torch.stack([box for _, box, _, _ in best]), atol=2e-5)
        assert phrase_ids.tolist() == [phrase for *_, phrase in best]
        assert min(np.diagonal(wanted.ious(got))) > 0.99


def test_scores_are_products_of_two_probabilities_even_where_both_saturate() -> None:
    ends = torch.tensor([-60.0, -12.0, -3.0, 0.0, 3.0, 12.0, 60.0])
    first, second = torch.meshgrid(ends, ends, indexing="ij")
    got = _logit_of_product(first, second).sigmoid().double()
    np.testing.assert_allclose(got, first.double().sigmoid() * second.double().sigmoid(), rtol=2e-6, atol=1e-30)


def test_attention_in_slices_is_attention(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = answers(family, 1, *TEXTS[:2])[0]
    monkeypatch.setattr(core_module, "SLICE", 7 * 64)  # seven queries of the 64 patches at a time
    for name, one, other in zip(("boxes", "scores"), whole, answers(family, 1, *TEXTS[:2])[0], strict=False):
        np.testing.assert_allclose(one, other, atol=2e-6, err_msg=name)


def test_attention_of_the_checkpoint_is_left_as_it_was(sam3: Family) -> None:
    config = sam3.model.config
    before = config.detr_encoder_config._attn_implementation
    answers(sam3, 1, TEXTS[0])
    assert config.detr_encoder_config._attn_implementation == before != core_module.SLICED


def test_phrases_never_meet_so_banks_merge_and_part(family: Family) -> None:
    texts = TEXTS[:3]
    features = {}
    pixels = torch.zeros(1, 3, 64, 64)
    for some in (texts, *((text,) for text in texts)):
        bank = bank_from_prompts(family, prompts_of(*some))
        feeds = {name: torch.from_numpy(array) for name, array in prompt_inputs(bank, family.prompt_specs()).items()}
        with torch.no_grad():
            features[some] = family.core()(pixels, feeds)
    together = features[texts]
    for index, text in enumerate(texts):
        rows = slice(index * QUERIES, (index + 1) * QUERIES)
        alone = features[(text,)]
        np.testing.assert_allclose(together.logits[:, rows, index], alone.logits[:, :, 0], atol=2e-5)
        np.testing.assert_allclose(together.boxes_cxcywh[:, rows], alone.boxes_cxcywh, atol=2e-6)
    first, second, third = (bank_from_prompts(family, prompts_of(text)) for text in texts)
    merged = first.merge(second).merge(third)
    whole = bank_from_prompts(family, prompts_of(*texts))
    for name in whole.tensors:
        np.testing.assert_allclose(merged.tensors[name], whole.tensors[name], atol=2e-6)


def test_features_are_as_large_as_the_config_says(family: Family) -> None:
    core = family.core()
    with torch.no_grad():
        made = core.image_features(torch.zeros(2, 3, 64, 64))
    assert {name: ("B", *tensor.shape[1:]) for name, tensor in made.items()} == {
        spec.name: spec.shape for spec in core.feature_specs()
    }


def test_masks_of_chosen_rows_are_those_rows(sam3: Family) -> None:
    raw = sam3.reference(drawn_image((50, 80), 1), TEXTS[:2])
    assert raw.masks is not None
    rows = torch.tensor([[3, 25, 3]])
    every = raw.masks(torch.arange(2 * QUERIES)[None])
    torch.testing.assert_close(raw.masks(rows), every[:, rows[0]])


def test_only_a_phrases_own_queries_score_it() -> None:
    logits = outputs_of_phrases(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]))
    assert logits.sigmoid()[0].count_nonzero(dim=1).tolist() == [1, 1, 1, 1]
    assert logits[0, :2, 0].tolist() == [1, 2]
    assert logits[0, 2:, 1].tolist() == [3, 4]


def test_stages_agree_and_another_mask_is_seen(sam3: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    image, prompts = drawn_image((50, 80), 3), prompts_of(*TEXTS[:2])
    post = sam3.postprocess(POST)
    wanted = reference_detections(sam3, image, prompts, post)
    stages = stages_of_image(sam3, bank_from_prompts(sam3, prompts), post, image)
    tolerance = Tolerance()
    good = check_decisions([(wanted, stages.graph)], 0.0, tolerance, "one", post.top_k)
    assert good.passed
    assert good.min_mask_iou is not None
    assert good.min_mask_iou >= 0.98

    reference = sam3.reference

    def eroded(*asked: Any) -> RawOutputs:
        raw = reference(*asked)
        assert raw.masks is not None
        made = raw.masks
        return RawOutputs(raw.logits, raw.boxes_cxcywh, masks=lambda rows: made(rows) - 2.0)

    monkeypatch.setattr(sam3, "reference", eroded)
    other = reference_detections(sam3, image, prompts, post)
    assert not check_decisions([(other, stages.graph)], 0.0, tolerance, "one", post.top_k).passed


def test_a_score_collapse_of_fused_attention_is_seen(sam3: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine whose attention overflows or scales wrongly gave 0.045 for 0.933: no such engine may pass."""
    image, prompts = drawn_image((50, 80), 3), prompts_of(*TEXTS[:2])
    post = sam3.postprocess(POST)
    wanted = reference_detections(sam3, image, prompts, post)
    sliced = core_module._sliced_attention

    def wrongly_scaled(module: Any, query: Tensor, *rest: Any, **options: Any) -> Any:
        return sliced(module, query * 0.05, *rest, **options)

    monkeypatch.setitem(AttentionInterface._global_mapping, core_module.SLICED, wrongly_scaled)
    broken = stages_of_image(sam3, bank_from_prompts(sam3, prompts), post, image).graph
    record = check_decisions([(wanted, broken)], 0.0, Tolerance(), "one", post.top_k)
    assert not record.passed
    assert record.kept < 0.5


@pytest.mark.parametrize(("name", "written"), [("LICENSE", True), ("licence.md", True), ("NOTICE", False)])
def test_the_weights_licence_lies_beside_them(sam3: Family, tmp_path: Path, name: str, written: bool) -> None:
    (tmp_path / name).write_text(LICENCE, encoding="utf-8")
    if written:
        assert [path.name for path in licence_files(tmp_path, type(sam3))] == [name]
        return
    with pytest.raises(CheckpointError, match="licence of the weights"):
        licence_files(tmp_path, type(sam3))
    assert licence_files(tmp_path, family_class("owlvit")) == []


def test_what_it_cannot_take_is_refused(sam3: Family) -> None:
    with pytest.raises(PromptError, match="at most 32 tokens"):
        bank_from_prompts(sam3, prompts_of(" ".join(["cell"] * 40)))
    with pytest.raises(PromptError, match="no mean score"):
        bank_from_prompts(sam3, prompts_of("cell", pooling="mean"))
    with pytest.raises(PromptError, match="cannot be ensembled"):
        bank_from_prompts(
            sam3,
            Prompts.model_validate(
                {"classes": [{"label": "a", "phrases": ["red cell", "cell"]}], "ensemble": "embedding"}
            ),
        )


def test_without_torchvision_pillow_resizes_and_the_bundle_says_so(sam3: Family, tiny_checkpoint: Any) -> None:
    assert any("Pillow" in text for text in sam3.warnings(POST)) == (sam3.processor.image_processor.backend == "pil")
    assert Sam3.load_processor(tiny_checkpoint("sam3")).image_processor.size["height"] == 64


def test_a_processor_of_another_size_is_refused(tiny_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "other"
    shutil.copytree(tiny_checkpoint("sam3"), folder)
    path = folder / "processor_config.json"
    path.write_text(path.read_text().replace('"height": 64', '"height": 80'))
    with pytest.raises(CheckpointError, match="does not fit the model"):
        family_from_checkpoint(folder).preprocess()


def test_rows_are_within_one_phrases_queries(sam3: Family) -> None:
    assert sam3.postprocess(Postprocess(top_k=300)).top_k == QUERIES
    assert SimpleNamespace(**sam3.postprocess(POST).model_dump()).mask_threshold == 0.5


def test_the_published_folder_holds_a_tracker_too(tiny_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """``facebook/sam3`` is a ``sam3_video`` whose detector is the model; what else is left over is refused."""
    folder = tmp_path / "published"
    shutil.copytree(tiny_checkpoint("sam3"), folder)
    detector = json.loads((folder / "config.json").read_text())
    stated = {"model_type": "sam3_video", "architectures": ["Sam3VideoModel"], "detector_config": detector}
    (folder / "config.json").write_text(json.dumps(stated))
    own = load_file(folder / "model.safetensors")
    beside = {"tracker_model.memory.weight": torch.ones(2), "tracker_neck.0.weight": torch.ones(2)}
    table = {f"detector_model.{name}": tensor for name, tensor in own.items()} | beside
    save_file(table, folder / "model.safetensors", metadata={"format": "pt"})
    loaded, plain = family_from_checkpoint(folder), family_from_checkpoint(tiny_checkpoint("sam3"))
    assert loaded.encoder_fingerprint() == plain.encoder_fingerprint()
    assert loaded.model.config.model_type == "sam3"
    save_file(table | {"detector_model.extra": torch.ones(3)}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"detector_model\.extra"):
        family_from_checkpoint(folder)
