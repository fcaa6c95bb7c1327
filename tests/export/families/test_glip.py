"""GLIP's own parts: the convolution at moved taps, the caption, the score, the loss; its bank is one text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medprompt.core.errors import BankError, CheckpointError, PromptError
from medprompt.core.manifest import Postprocess
from medprompt.export.checkpoint import family_from_checkpoint
from medprompt.export.embed import bank_from_prompts
from medprompt.export.families.base import RawOutputs
from medprompt.export.families.glip.core import phrase_scores
from medprompt.export.families.glip.deform import deformable_conv, reread
from medprompt.export.families.glip.family import Glip
from medprompt.export.families.glip.loss import Places, assign
from medprompt.export.families.glip.model import DenseOutputs, GlipForObjectDetection
from medprompt.export.graph.detection_graph import SelectTopK, selected_of
from medprompt.prompts.assemble import prompt_inputs
from medprompt.prompts.bank import load_bank, save_bank
from medprompt.prompts.phrase_set import subset_phrases
from medprompt.prompts.schema import Prompts
from tests.tiny.glip import spread, tiny_glip_config

TEXTS = ("red blood cell", "polyp", "small purple platelet")


@pytest.fixture(scope="module")
def glip(tiny_checkpoint: Callable[[str], Path]) -> Glip:
    family = family_from_checkpoint(tiny_checkpoint("glip"), (64, 90))
    assert isinstance(family, Glip)
    return family


def prompts_of(*texts: str) -> Prompts:
    return Prompts.model_validate({"classes": [{"label": text, "phrases": [text]} for text in texts]})


def value_at(plane: Tensor, y: float, x: float) -> float:
    """Bilinear, zeros outside."""
    total = 0.0
    for row in (int(np.floor(y)), int(np.floor(y)) + 1):
        for column in (int(np.floor(x)), int(np.floor(x)) + 1):
            if 0 <= row < plane.shape[0] and 0 <= column < plane.shape[1]:
                total += (1 - abs(y - row)) * (1 - abs(x - column)) * float(plane[row, column])
    return total


@pytest.mark.parametrize(("size_hw", "stride"), [((4, 5), 1), ((5, 3), 2), ((1, 1), 1), ((1, 3), 2)])
def test_the_convolution_reads_each_tap_where_it_was_moved(size_hw: tuple[int, int], stride: int) -> None:
    torch.manual_seed(0)
    height, width = (-(-side // stride) for side in size_hw)
    features, conv = torch.randn(1, 2, *size_hw), nn.Conv2d(2, 2, 3)
    offsets, mask = torch.randn(1, 18, height, width) * 2, torch.rand(1, 9, height, width)
    with torch.no_grad():
        found = deformable_conv(features, conv, offsets, mask, stride)[0]
        wanted = conv.bias[:, None, None].repeat(1, height, width)
        for i, j, tap in np.ndindex(height, width, 9):
            y = i * stride - 1 + tap // 3 + float(offsets[0, 2 * tap, i, j])
            x = j * stride - 1 + tap % 3 + float(offsets[0, 2 * tap + 1, i, j])
            read = torch.tensor([value_at(plane, y, x) for plane in features[0]])
            wanted[:, i, j] += float(mask[0, tap, i, j]) * conv.weight[:, :, tap // 3, tap % 3] @ read
    assert (found - wanted).abs().max() < 1e-5


def test_values_are_read_again_with_the_smaller_maps_strides() -> None:
    values = torch.arange(2 * 3 * 4 * 4.0).view(2, 3, 4, 4)
    assert reread(values, (2, 2))[1].flatten().tolist() == [48.0 + n for n in range(12)]


def test_a_phrase_scores_by_the_mean_over_its_own_tokens() -> None:
    probabilities = torch.tensor([[[0.5, 0.9, 0.3, 0.04, 0.05]]])
    outputs = DenseOutputs(probabilities.logit(), torch.zeros(1, 1, 4), torch.zeros(1, 1), ((1, 1),))
    scores = phrase_scores(outputs, torch.tensor([[0, 1, 2], [1, 2, 1], [3, 3, 3], [0, 0, 0]]), least=0.05)
    wanted = [(1.7 / 3 / 2) ** 0.5, (1.2 / 2 / 2) ** 0.5, 0.0, 0.5]
    np.testing.assert_allclose(scores[0, 0].numpy(), wanted, rtol=1e-6)


def test_each_level_keeps_its_best_pairs_and_fills_up_with_nothing() -> None:
    raw = RawOutputs(
        torch.tensor([[[2.0, 1.0], [0.0, 3.0], [-1.0, -2.0], [9.0, 8.0]]]), torch.rand(1, 4, 4), levels=(3, 1)
    )
    _, scores, class_ids, phrase_ids = selected_of(raw, SelectTopK(3, "max", "many"), torch.eye(2))
    np.testing.assert_allclose(scores[0].numpy(), torch.tensor([3.0, 2, 1, 9, 8, -torch.inf]).sigmoid().numpy())
    assert class_ids[0].tolist()[:5] == phrase_ids[0].tolist()[:5] == [1, 0, 1, 0, 1]


def test_a_bank_is_one_text(glip: Glip, tmp_path: Path) -> None:
    bank = bank_from_prompts(glip, prompts_of(*TEXTS))
    save_bank(bank, tmp_path / "bank.safetensors")
    bank = load_bank(tmp_path / "bank.safetensors")
    assert bank.subset(TEXTS).content_hash() == bank.content_hash()
    other = bank_from_prompts(glip, prompts_of("nucleus"))
    spoken = bank_from_prompts(glip, Prompts.model_validate({"classes": [{"label": "cell", "phrases": [*TEXTS]}]}))
    for part in (
        lambda: bank.subset(TEXTS[:1]),
        lambda: bank.subset(TEXTS[::-1]),
        lambda: bank.merge(other),
        lambda: subset_phrases(spoken, TEXTS[1:]),
    ):
        with pytest.raises(BankError, match="reads all phrases as one text"):
            part()


def test_a_words_features_depend_on_the_other_phrases(glip: Glip) -> None:
    whole, alone = (bank_from_prompts(glip, prompts_of(*texts)) for texts in (TEXTS, TEXTS[:1]))
    mine, own = (bank.tensors["text_features"][:3] for bank in (whole, alone))
    assert np.abs(mine - own).max() > 0.01


def test_the_last_phrase_ends_before_the_last_mark(glip: Glip, monkeypatch: pytest.MonkeyPatch) -> None:
    specs = glip.prompt_specs()
    for closing, tokens in ((False, 9), (True, 10)):
        monkeypatch.setattr(glip, "closing_stop", closing)
        bank = bank_from_prompts(glip, prompts_of(*TEXTS))
        feeds = prompt_inputs(bank, specs)
        assert feeds["phrase_tokens"].tolist() == [[1, 2, 3], [5, 5, 5], [7, 8, 9]]
        assert feeds["text_features"].shape == (1, tokens + 2, 16)


def test_the_project_decides_about_the_full_stop(glip: Glip, monkeypatch: pytest.MonkeyPatch) -> None:
    assert glip.closing_stop is False
    ids = {}
    for stated in (False, True):
        monkeypatch.setattr(glip.model.config, "trained_rules", {"closing_stop": stated}, raising=False)
        ids[stated] = Glip(glip.model, glip.processor, (64, 90)).caption(TEXTS).ids
    stop = glip.processor.tokenizer.convert_tokens_to_ids(".")
    assert (ids[True], stop in ids[False][-2:]) == ((*ids[False][:-1], stop, ids[False][-1]), False)


def test_phrases_that_are_encoded_one_by_one_are_refused(glip: Glip, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(glip.model.config, "parallel_text", "mean", raising=False)
    with pytest.raises(CheckpointError, match="not served in this form") as caught:
        Glip(glip.model, glip.processor, (64, 90))
    assert caught.value.got == "parallel_text: mean"


def test_a_level_may_choose_by_probability_alone() -> None:
    probability, central = torch.tensor([[[0.9, 0.5], [0.6, 0.7], [0.8, 0.2]]]), torch.tensor([[-2.0, 3.0, 1.0]])
    outputs = DenseOutputs(probability.logit(), torch.zeros(1, 3, 4), central, ((1, 2), (1, 1)))
    tokens = torch.tensor([[0], [1]])
    plain, chosen = (phrase_scores(outputs, tokens, 0.05, most) for most in (None, 2))
    assert (plain > 0).all()
    assert ((chosen > 0) == torch.tensor([[[True, False], [False, True], [True, True]]])).all()
    assert torch.equal(chosen[chosen > 0], plain[chosen > 0])


def test_a_separator_of_several_tokens_is_refused(glip: Glip, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(glip.model.config, "separator", " and ")
    with pytest.raises(PromptError, match="mark between them is not one token"):
        glip.caption(["cell", "polyp"])


def test_without_fusion_all_text_is_offline(glip: Glip) -> None:
    torch.manual_seed(0)
    model = GlipForObjectDetection(tiny_glip_config(fused=False)).eval()
    spread(model)
    family = Glip(model, glip.processor, (64, 90))
    bank = bank_from_prompts(family, prompts_of(*TEXTS))
    assert {name.split(".")[0] for name in bank.tensors} == {"token_vectors", "token_bias"}
    image = np.random.default_rng(0).integers(0, 256, (64, 90, 3), dtype=np.uint8)
    wanted = family.reference(image, TEXTS)
    feeds = {name: torch.from_numpy(array) for name, array in prompt_inputs(bank, family.prompt_specs()).items()}
    pixels = family.processor.image_processor(image, size={"height": 64, "width": 90}, return_tensors="pt")
    with torch.no_grad():
        found = family.core()(pixels["pixel_values"], feeds)
    assert (found.logits - wanted.logits).abs().max() < 1e-4
    assert (found.boxes_cxcywh - wanted.boxes_cxcywh).abs().max() < 1e-6


def test_cells_are_assigned_to_the_objects_that_they_fit() -> None:
    y, x = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    cells = torch.stack([x.flatten() * 8 + 3.5, y.flatten() * 8 + 3.5, torch.full((64,), 32.0)], dim=1)
    owner = assign(Places(cells, [64]), torch.tensor([[20.0, 20, 30, 30], [48.0, 44, 30, 34]])).view(8, 8)
    assert owner[2, 2] == 0
    assert owner[5, 5] == 1
    assert owner[0, 7] == owner[7, 0] == -1
    assert assign(Places(cells, [64]), torch.zeros(0, 4)).max() == -1


def test_the_loss_teaches_a_phrase_its_objects(glip: Glip) -> None:
    torch.manual_seed(0)
    model = GlipForObjectDetection(tiny_glip_config())
    spread(model)
    family = Glip(model.train(), glip.processor, (64, 64))
    image = torch.zeros(1, 3, 64, 64)
    image[:, :, 12:36, 20:44] = 2.0
    target = {"boxes": torch.tensor([[0.5, 0.375, 0.375, 0.375]]), "classes": torch.tensor([1])}
    annotated = torch.ones(1, 2, dtype=torch.bool)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(15):
        bank = family.encode(TEXTS[:2])
        tokens = torch.tensor([[1, 2, 3], [5, 5, 5]])
        text = torch.cat([bank.tensors[f"text_features{part}"] for part in (".before", "", ".after")])[None]
        core = family.core()
        prompts = {"text_features": text, "phrase_tokens": tokens}
        loss = core.own_loss(core.image_features(image), prompts, [target], annotated, ())
        assert loss is not None
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 2
    with torch.no_grad():
        raw = family.core()(image, {"text_features": text.detach(), "phrase_tokens": tokens})
    assert raw.logits[0, :, 1].max() > raw.logits[0, :, 0].max()


def test_an_export_keeps_the_models_rules(glip: Glip) -> None:
    post = glip.postprocess(Postprocess(top_k=50, nms_iou=0.5, labels_per_query="many"))
    assert (post.top_k, post.level_top_k, post.nms_iou, post.max_detections) == (120, 40, 0.5, 50)
    assert (post.score_rule, post.least_probability, post.nms_pixels) == ("centerness", 0.05, "inclusive")
    assert glip.postprocess(Postprocess(top_k=300)).nms_iou == 0.6
    assert glip.postprocess(Postprocess(top_k=300)).max_detections == 100
