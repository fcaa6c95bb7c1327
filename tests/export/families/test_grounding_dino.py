"""Grounding DINO and MM-Grounding DINO: composed captions, lean core, sizes, refusals, on tiny models."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from medprompt.core.errors import BankError, CheckpointError, InputError, PromptError
from medprompt.core.manifest import Postprocess
from medprompt.export.checkpoint import family_from_checkpoint
from medprompt.export.embed import bank_from_prompts, phrase_warnings
from medprompt.export.families.base import RawOutputs
from medprompt.export.families.grounding_core import phrase_logits
from medprompt.export.families.grounding_dino import GroundingDino
from medprompt.export.families.grounding_layers import fused
from medprompt.export.families.swin import least_pixels, swin_feature_maps
from medprompt.export.graph.detection_graph import DetectionGraph, Normalise, input_specs, output_specs
from medprompt.export.graph.onnx_export import onnx_from_graph
from medprompt.images.resize import model_hw, resize_on_host
from medprompt.prompts.assemble import MASKED, prompt_inputs
from medprompt.prompts.bank import PromptBank
from medprompt.prompts.schema import Prompts
from tests.export.families.cells import all_found
from tests.tiny.grounding import tiny_grounding_dino, tiny_mm_grounding_dino

MAKERS = {"grounding-dino": tiny_grounding_dino, "mm-grounding-dino": tiny_mm_grounding_dino}
SIZE_HW = (64, 96)
CAPTIONS = [
    ("polyp",),
    ("Red blood cell", "polyp"),
    ("polyp", "Red blood cell"),
    ("small purple platelets.", "a", "White Cell", "nucleus"),
    ("nucleus", "White Cell", "a", "small purple platelets."),
]


@pytest.fixture(scope="module", params=list(MAKERS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(request.param)
    MAKERS[request.param](path)
    return path


@pytest.fixture(scope="module")
def family(folder: Path) -> Iterator[GroundingDino]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    loaded = family_from_checkpoint(folder, SIZE_HW)
    assert isinstance(loaded, GroundingDino)
    yield loaded
    torch.set_num_threads(threads)


def prompts_of(*texts: str) -> Prompts:
    return Prompts.model_validate({"classes": [{"label": text, "phrases": [text]} for text in texts]})


def bank_of(family: GroundingDino, *texts: str) -> PromptBank:
    return bank_from_prompts(family, prompts_of(*texts))


def feeds_of(family: GroundingDino, *texts: str) -> dict[str, torch.Tensor]:
    arrays = prompt_inputs(bank_of(family, *texts), family.prompt_specs())
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def image_of(seed: int, size_hw: tuple[int, int] = SIZE_HW) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size_hw, 3), dtype=np.uint8)


def pixels_of(family: GroundingDino, *images: np.ndarray) -> torch.Tensor:
    """As the runtime does: the resize of the processor in use, then the graph's normalisation."""
    spec = family.preprocess()
    return Normalise(spec)(torch.from_numpy(np.stack([resize_on_host(image, spec) for image in images])))


def encoder_call(family: GroundingDino, texts: tuple[str, ...]) -> dict[str, Any]:
    """What transformers' own forward hands to its encoder for the whole caption."""
    seen: dict[str, Any] = {}
    encoder = family.model.model.encoder
    hook = encoder.register_forward_pre_hook(lambda _, __, kwargs: seen.update(kwargs), with_kwargs=True)
    try:
        family.reference(image_of(0), texts)
    finally:
        hook.remove()
    return seen


def worst(first: RawOutputs, second: RawOutputs) -> tuple[float, float]:
    logits = (first.logits - second.logits).abs().max().item()
    return logits, (first.boxes_cxcywh - second.boxes_cxcywh).abs().max().item()


@pytest.mark.parametrize("texts", CAPTIONS)
def test_composed_phrases_equal_the_whole_caption(family: GroundingDino, texts: tuple[str, ...]) -> None:
    whole = encoder_call(family, texts)
    composed = feeds_of(family, *texts)
    layer = family.model.model.encoder.layers[0]
    position = layer.get_text_position_embeddings(whole["text_features"], None, whole["text_position_ids"])
    # Not to the bit: AVX-512 kernels sum a longer caption's products in another order (1.2e-6 seen).
    torch.testing.assert_close(composed["text_features"], whole["text_features"], rtol=0, atol=4e-6)
    torch.testing.assert_close(composed["text_position_embedding"], position, rtol=0, atol=0)
    # transformers hands the mask over inverted: True where two tokens must not see each other.
    bias = torch.where(whole["text_self_attention_masks"], MASKED, 0.0)
    torch.testing.assert_close(composed["text_self_bias"], bias, rtol=0, atol=0)


def test_subset_and_merge_equal_a_fresh_embedding(family: GroundingDino) -> None:
    whole = bank_of(family, "Red blood cell", "polyp", "small purple platelets.")
    made = [
        (whole.subset(["polyp", "Red blood cell"]), bank_of(family, "polyp", "Red blood cell")),
        (bank_of(family, "Red blood cell").merge(bank_of(family, "polyp", "small purple platelets.")), whole),
    ]
    for bank, fresh in made:
        assert bank.content_hash() == fresh.content_hash()


def test_banks_of_two_machines_merge(family: GroundingDino) -> None:
    mine, theirs = bank_of(family, "Red blood cell"), bank_of(family, "polyp")
    rounded = {name: tensor * np.float32(1 + 1e-6) for name, tensor in theirs.tensors.items()}
    assert mine.merge(replace(theirs, tensors=rounded)).labels == ("Red blood cell", "polyp")
    other_task = {**rounded, "text_features.after": rounded["text_features.after"] + np.float32(0.1)}
    with pytest.raises(BankError, match="task"):
        mine.merge(replace(theirs, tensors=other_task))


def test_training_encodes_one_batch_with_gradients(family: GroundingDino) -> None:
    texts = ("small purple platelets.", "a", "White Cell")
    with torch.no_grad():
        single = family.encode(texts)
    batched = family.encode(texts)
    assert single.token_counts == batched.token_counts == (5, 2, 3)
    assert batched.separator_tokens == 1
    assert set(batched.tensors) == set(single.tensors)
    for name, tensor in batched.tensors.items():
        torch.testing.assert_close(tensor, single.tensors[name], rtol=0, atol=1e-5)
    weights = family.model.model.text_backbone.embeddings.word_embeddings.weight
    (gradient,) = torch.autograd.grad(batched.tensors["text_features"].square().sum(), weights)
    ids = family.processor.tokenizer("white")["input_ids"]
    assert gradient[ids[1]].abs().sum() > 0
    assert gradient[5].abs().sum() == 0


@pytest.mark.parametrize("text", ["red. cell", "polyp?", "is it? cell", "...", "cell.. ", "a . b ."])
def test_phrases_that_transformers_would_split_are_refused(family: GroundingDino, text: str) -> None:
    with pytest.raises(PromptError, match="full stop or question mark") as caught:
        family.check_phrases([text])
    assert caught.value.where == repr(text)
    with pytest.raises(PromptError):
        family.encode([text])


def test_one_closing_full_stop_and_capitals_do_not_matter(family: GroundingDino) -> None:
    plain, other = bank_of(family, "red cell"), bank_of(family, "Red Cell.")
    np.testing.assert_array_equal(plain.tensors["text_features"], other.tensors["text_features"])


@pytest.mark.parametrize(("words", "fits"), [(1, True), (61, True), (62, False)])
def test_phrase_length_border(family: GroundingDino, words: int, fits: bool) -> None:
    text = " ".join(["cell"] * words)
    assert family.phrase_length(text) == (words + 3, 64)
    if fits:
        family.check_phrases([text])
        return
    with pytest.raises(PromptError, match="longer than the text encoder reads"):
        family.check_phrases([text])


def test_reference_refuses_a_caption_that_transformers_would_cut(family: GroundingDino) -> None:
    texts = [f"{letter} cell polyp" for letter in "abcdefghijklmnopq"]
    with pytest.raises(PromptError, match="All phrases together"):
        family.reference(image_of(0), texts)


@pytest.mark.parametrize("texts", CAPTIONS)
@pytest.mark.parametrize("source_hw", [SIZE_HW, (2, 3), (37, 211)])
def test_core_equals_transformers(family: GroundingDino, texts: tuple[str, ...], source_hw: tuple[int, int]) -> None:
    image = image_of(3, source_hw)
    reference = family.reference(image, texts)
    with torch.no_grad():
        answer = family.core()(pixels_of(family, image), feeds_of(family, *texts))
    assert answer.logits.shape == (1, 20, len(texts))
    logits, boxes = worst(answer, reference)
    assert logits < 2e-4
    assert boxes < 2e-5


@pytest.mark.parametrize("source_hw", [SIZE_HW, (1, 1), (2, 3), (37, 211), (500, 31)])
def test_pixels_equal_transformers(family: GroundingDino, source_hw: tuple[int, int]) -> None:
    image, (height, width) = image_of(3, source_hw), SIZE_HW
    wanted = family.processor.image_processor(
        images=Image.fromarray(image), size={"height": height, "width": width}, return_tensors="pt"
    )
    assert wanted["pixel_mask"].all()
    torch.testing.assert_close(pixels_of(family, image), wanted["pixel_values"], rtol=0, atol=1e-6)


def test_tiny_weights_make_agreement_mean_something(family: GroundingDino) -> None:
    answers = family.reference(image_of(3), CAPTIONS[1]), family.reference(image_of(4), CAPTIONS[1])
    scores = answers[0].logits.sigmoid()
    low, high = torch.quantile(scores, torch.tensor([0.05, 0.95])).tolist()
    assert low < 0.1
    assert high > 0.5
    assert scores.std(dim=1).min() > 0.05
    assert answers[0].boxes_cxcywh.std(dim=1).min() > 0.01
    assert min(worst(*answers)) > 0.05
    assert (scores[..., 0] - scores[..., 1]).abs().max() > 0.05


def test_batch_neighbours_do_not_matter(family: GroundingDino) -> None:
    feeds, core = feeds_of(family, *CAPTIONS[1]), family.core()
    images = image_of(1), image_of(2)
    with torch.no_grad():
        both = core(pixels_of(family, *images), feeds)
        singles = [core(pixels_of(family, image), feeds) for image in images]
    for index, single in enumerate(singles):
        row = RawOutputs(both.logits[index : index + 1], both.boxes_cxcywh[index : index + 1])
        assert max(worst(row, single)) < 2e-5


def transformers_steps(family: GroundingDino, image: np.ndarray, texts: tuple[str, ...]) -> list[RawOutputs]:
    """Proposals and every decoder layer, from what transformers' whole model returns."""
    model, tokens = family.model, feeds_of(family, *texts)["phrase_tokens"]
    caption = [[text.rstrip(".").lower() for text in texts]]
    height, width = SIZE_HW
    inputs = family.processor(
        images=Image.fromarray(image),
        text=caption,
        size={"height": height, "width": width},
        return_tensors="pt",
    )
    with torch.no_grad():
        whole = model.model(**{name: inputs[name] for name in inputs}, return_dict=True)
    best = whole.enc_outputs_class.max(dim=-1).values.topk(20, dim=1).indices[0]
    first = RawOutputs(
        phrase_logits(whole.enc_outputs_class[:, best], tokens),
        whole.enc_outputs_coord_logits[:, best].sigmoid(),
    )
    starts = [whole.init_reference_points, *whole.intermediate_reference_points.unbind(1)]
    steps = [first]
    for level, hidden in enumerate(whole.intermediate_hidden_states.unbind(1)):
        mask = torch.ones(1, whole.encoder_last_hidden_state_text.shape[1], dtype=torch.bool)
        logits = model.class_embed[level](hidden, whole.encoder_last_hidden_state_text, mask)
        boxes = (model.bbox_embed[level](hidden) + torch.special.logit(starts[level], eps=1e-5)).sigmoid()
        steps.append(RawOutputs(phrase_logits(logits, tokens), boxes))
    return steps


def test_training_outputs_equal_transformers_layer_by_layer(family: GroundingDino) -> None:
    texts = CAPTIONS[3]
    wanted = transformers_steps(family, image_of(5), texts)
    pixels, feeds = pixels_of(family, image_of(5)), feeds_of(family, *texts)
    with torch.no_grad():
        core = family.core()
        outputs = core.training_outputs(core.image_features(pixels), feeds)
        final = core(pixels, feeds)
    assert len(outputs) == len(wanted) == 3
    assert all_found(wanted[0], outputs[0])
    for mine, theirs in zip(outputs[1:], wanted[1:], strict=True):
        assert max(worst(mine, theirs)) < 2e-4
    assert worst(outputs[-1], final) == (0.0, 0.0)


def test_every_used_parameter_learns(folder: Path) -> None:
    family = family_from_checkpoint(folder, SIZE_HW)
    family.model.train()
    texts = CAPTIONS[3]
    feeds = feeds_of(family, *texts)  # type: ignore[arg-type] # the folder holds one of this file's families
    encoded = family.encode(texts).tensors
    for name in family.layouts:
        feeds[name] = torch.cat([encoded[f"{name}.before"], encoded[name], encoded[f"{name}.after"]])[None]
    core = family.core()
    features = core.image_features(pixels_of(family, image_of(1), image_of(2)))  # type: ignore[arg-type]
    outputs = core.training_outputs(features, feeds)
    sum(step.logits.square().sum() + step.boxes_cxcywh.square().sum() for step in outputs).backward()  # type: ignore[union-attr]
    untouched = [
        name
        for name, parameter in family.model.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.isfinite().all())
    ]
    # Backbone norms of stages that are not read have no part in transformers' forward either.
    assert [name for name in untouched if "hidden_states_norms" not in name and "swin.layernorm" not in name] == []


@pytest.mark.parametrize(
    ("tokens", "wanted"),
    [([[1]], [[5.0]]), ([[1, 1], [2, 3]], [[5.0, 7.0]]), ([[0, 3]], [[7.0]])],
)
def test_phrase_logits_take_the_best_token(tokens: list[list[int]], wanted: list[list[float]]) -> None:
    logits = torch.tensor([[[-1.0, 5.0, 2.0, 7.0]]])
    assert phrase_logits(logits, torch.tensor(tokens))[0].tolist() == wanted


@pytest.mark.parametrize(("batch", "tokens"), [(1, 1), (1, 7), (2, 3)])
def test_fusion_equals_transformers_layer(family: GroundingDino, batch: int, tokens: int) -> None:
    layer = family.model.model.encoder.layers[0].fusion_layer
    generator = torch.Generator().manual_seed(0)
    vision = torch.randn(batch, 50, 32, generator=generator)
    text = torch.randn(batch, tokens, 32, generator=generator)
    with torch.no_grad():
        mine = fused(layer, vision, text)
        theirs = layer(vision, text)
    torch.testing.assert_close(mine[0], theirs[0][0], rtol=0, atol=1e-5)
    torch.testing.assert_close(mine[1], theirs[1][0], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("own", "chosen", "size_hw", "warning", "sizes"),
    [
        ({"height": 48, "width": 80}, None, (48, 80), "", "one"),
        ({"height": 48, "width": 80}, (48, 80), (48, 80), "", "one"),
        ({"height": 48, "width": 80}, (64, 64), (64, 64), "resizes to 48x80, not to 64x64", "one"),
        ({"shortest_edge": 64, "longest_edge": 128}, None, (64, 64), "", "own"),
        ({"shortest_edge": 64, "longest_edge": 128}, (64, 85), (64, 85), "", "one"),
        ({"max_height": 64, "max_width": 128}, None, (64, 64), "", "own"),
        ({"longest_edge": 128}, (64, 85), (64, 85), "longest_edge: 128.* is not served", "one"),
    ],
)
def test_image_size(
    folder: Path,
    own: dict[str, int],
    chosen: tuple[int, int] | None,
    size_hw: tuple[int, int],
    warning: str,
    sizes: str,
) -> None:
    family = with_size(folder, own, chosen)
    assert family.image_size.size_hw == family.preprocess().size_hw == size_hw
    assert family.preprocess().sizes == sizes
    assert re.fullmatch(f".*{warning}.*" if warning else "", family.image_size.warning)


def test_a_backbone_with_one_size_gets_a_square_and_says_so(folder: Path) -> None:
    loaded = family_from_checkpoint(folder)
    loaded.model.config.position_embedding_type = "learned"
    family = type(loaded)(loaded.model, loaded.processor)
    assert (family.preprocess().sizes, family.image_size.size_hw) == ("one", (96, 96))
    assert re.search("aspect ratio .* as HEIGHTxWIDTH", family.image_size.warning)
    family.follow_own_size()  # the reference can do what the graph cannot
    assert family.preprocess().sizes == "own"


@pytest.mark.parametrize("source_hw", [(480, 640), (97, 211), (500, 125), (64, 64)])
def test_the_reference_has_the_processors_own_size(folder: Path, source_hw: tuple[int, int]) -> None:
    family = family_from_checkpoint(folder)
    seen: list[tuple[int, ...]] = []
    hook = family.model.register_forward_pre_hook(
        lambda _, __, kwargs: seen.append(tuple(kwargs["pixel_values"].shape[2:])), with_kwargs=True
    )
    try:
        family.reference(image_of(1, source_hw), ("polyp",))
    finally:
        hook.remove()
    assert seen == [model_hw(source_hw, family.preprocess())]


SIDES = [(64, 64), (61, 103), (4, 190), (190, 3), (1, 33), (97, 128)]


@pytest.mark.parametrize("size_hw", SIDES)
def test_the_swin_without_branches_is_transformers(family: GroundingDino, size_hw: tuple[int, int]) -> None:
    backbone = family.model.model.backbone.conv_encoder.model
    pixels = torch.randn(2, 3, *size_hw, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for mine, theirs in zip(swin_feature_maps(backbone, pixels), backbone(pixels).feature_maps, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)
            assert mine.is_contiguous() and theirs.is_contiguous()  # by this PyTorch chooses how a GroupNorm sums


@pytest.mark.parametrize("size_hw", SIDES)
def test_images_of_least_pixels_have_a_cell_for_each_query(family: GroundingDino, size_hw: tuple[int, int]) -> None:
    backbone = family.model.model.backbone.conv_encoder.model
    with torch.no_grad():
        maps = swin_feature_maps(backbone, torch.zeros(1, 3, *size_hw))
    shapes = [tuple(level.shape[2:]) for level in maps]
    shapes += [tuple(-(-side // 2) for side in shapes[-1])]
    cells = sum(height * width for height, width in shapes)
    assert least_pixels(backbone, len(shapes), cells) >= size_hw[0] * size_hw[1]


def with_size(folder: Path, own: dict[str, int], chosen: tuple[int, int] | None) -> GroundingDino:
    loaded = family_from_checkpoint(folder)
    loaded.processor.image_processor.size = type(loaded.processor.image_processor.size)(**own)
    return type(loaded)(loaded.model, loaded.processor, chosen)  # type: ignore[return-value]


@pytest.mark.parametrize("source_hw", [(480, 640), (640, 480), (64, 64), (100, 500), (500, 100), (3, 7)])
@pytest.mark.parametrize("own", [{"shortest_edge": 96, "longest_edge": 192}, {"max_height": 96, "max_width": 160}])
def test_size_for_image_is_the_processors_own(folder: Path, source_hw: tuple[int, int], own: dict[str, int]) -> None:
    family = with_size(folder, own, None)
    image = Image.fromarray(image_of(0, source_hw))
    pixels = family.processor.image_processor(images=image, return_tensors="np")["pixel_values"]
    assert family.size_for_image(source_hw) == model_hw(source_hw, family.preprocess()) == pixels.shape[2:]


def test_size_for_image_of_a_fixed_processor(folder: Path) -> None:
    assert with_size(folder, {"height": 48, "width": 80}, None).size_for_image((480, 640)) == (48, 80)


def test_unknown_kind_of_size_is_refused(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="size is of a kind") as caught:
        with_size(folder, {"longest_edge": 64}, None)
    assert caught.value.got == "longest_edge: 64"


def test_preprocess_is_read_from_the_processor(family: GroundingDino) -> None:
    preprocess, own = family.preprocess(), family.processor.image_processor
    assert preprocess.mean == tuple(own.image_mean)
    assert preprocess.std == tuple(own.image_std)
    assert (preprocess.resample, preprocess.rescale_factor, preprocess.pad) == ("bilinear", 1 / 255, "none")


def test_one_stage_models_are_refused(family: GroundingDino, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(family.model.config, "two_stage", False)
    with pytest.raises(CheckpointError, match="two_stage"):
        type(family)(family.model, family.processor, SIZE_HW)


def test_a_caption_without_its_last_full_stop_is_refused(
    family: GroundingDino, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stated in (True, None):
        monkeypatch.setattr(family.model.config, "trained_rules", {"closing_stop": stated}, raising=False)
        type(family)(family.model, family.processor, SIZE_HW)
    monkeypatch.setattr(family.model.config, "trained_rules", {"closing_stop": False})
    with pytest.raises(CheckpointError, match="ends every phrase with a full stop") as caught:
        type(family)(family.model, family.processor, SIZE_HW)
    assert caught.value.where == "config.json: trained_rules"


def test_training_may_choose_the_size(folder: Path) -> None:
    family = family_from_checkpoint(folder)
    family.resize_images(64)
    assert (family.preprocess().sizes, family.preprocess().size_hw) == ("one", (64, 64))
    family.model.config.position_embedding_type = "learned"
    with pytest.raises(CheckpointError, match="cannot be trained at another image size"):
        family.resize_images(96)


def test_fewer_cells_than_queries_are_refused(family: GroundingDino, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(family.model.config, "num_queries", 129)
    with pytest.raises(InputError, match="too small") as caught:
        family.core()(pixels_of(family, image_of(0)), feeds_of(family, "cell"))
    assert caught.value.got == "128 cells"  # 8 · 12 + 4 · 6 + 2 · 3 + 1 · 2


@pytest.mark.slow
def test_onnx_runtime_equals_torch(family: GroundingDino, tmp_path: Path) -> None:
    specs = input_specs(family)
    graph = DetectionGraph(family.core(), specs, family.preprocess(), Postprocess(top_k=20)).eval()
    onnx_from_graph(graph, specs, output_specs(20), tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    for batch, texts in [(1, CAPTIONS[0]), (2, CAPTIONS[3])]:
        arrays = prompt_inputs(bank_of(family, *texts), specs)
        image = np.stack([image_of(index) for index in range(batch)])
        with torch.no_grad():
            prompts = [torch.from_numpy(arrays[spec.name]) for spec in specs[1:]]
            wanted = graph(torch.from_numpy(image), *prompts)
        got = session.run(None, {"image": image, **arrays})
        for ours, theirs in zip(wanted, got, strict=True):
            np.testing.assert_allclose(ours.numpy(), theirs, rtol=0, atol=2e-5)


@pytest.mark.parametrize("text", ["憩室", "😀", "μ, 憩室", "憩室 -", "[UNK]", "[SEP] [CLS]"])
def test_a_phrase_without_a_known_word_is_refused(family: GroundingDino, text: str) -> None:
    with pytest.raises(PromptError, match="knows no word of a phrase") as caught:
        family.check_phrases(["red cell", text])
    assert caught.value.where == repr(text)


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("red cell", ()),
        ("憩室 cell", ("憩", "室")),
        ("😀 cell", ("😀",)),
        ("pólyp", ()),
        ("red [SEP] cell", ("[SEP]",)),
    ],
)
def test_words_that_the_tokenizer_does_not_know(family: GroundingDino, text: str, unknown: tuple[str, ...]) -> None:
    assert family.unknown_words(text) == unknown
    warnings = phrase_warnings(family, ["red cell", text])
    assert [warning.partition(":")[0] for warning in warnings] == ([repr(text)] if unknown else [])


@pytest.mark.parametrize(
    ("first", "second"),
    [("polyp", "pólyp"), ("😀 cell", "憩 cell"), ("red cell", "Red  cell."), ("red-cell", "red - cell")],
)
def test_phrases_of_the_same_tokens_are_refused(family: GroundingDino, first: str, second: str) -> None:
    family.check_phrases([first])
    with pytest.raises(PromptError, match="the same to the checkpoint's tokenizer") as caught:
        family.check_phrases([first, "white cell", second])
    assert caught.value.where == f"{first!r} and {second!r}"
