"""OmDet-Turbo: task sentences, caches that must not matter, decoder layers, variants of the config."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from medprompt.core.errors import BankError, CheckpointError, InputError, PromptError
from medprompt.export.checkpoint import family_from_checkpoint
from medprompt.export.embed import bank_from_prompts
from medprompt.export.families.base import RawOutputs
from medprompt.export.families.omdet_turbo import OmDetTurbo
from medprompt.export.graph.detection_graph import Normalise
from medprompt.export.parity.images import drawn_image
from medprompt.images.resize import resize_on_host
from medprompt.prompts.assemble import prompt_inputs
from medprompt.prompts.schema import Prompts
from tests.export.families.cells import all_found
from tests.tiny.omdet import MEAN, SIZE_HW, spread

TEXTS = ("red blood cell", "polyp", "small purple platelet")
TASK = "detect a cell"
MODEL_TYPE = "omdet-turbo"


@pytest.fixture(scope="module")
def family(tiny_checkpoint: Callable[[str], Path]) -> Iterator[OmDetTurbo]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield loaded(tiny_checkpoint)
    torch.set_num_threads(threads)


def loaded(tiny_checkpoint: Callable[[str], Path]) -> OmDetTurbo:
    family = family_from_checkpoint(tiny_checkpoint(MODEL_TYPE))
    assert isinstance(family, OmDetTurbo)
    return family


def prompts_of(*texts: str, task: str | None = None) -> Prompts:
    classes = [{"label": text, "phrases": [text]} for text in texts]
    return Prompts.model_validate({"classes": classes, "task": task})


def feeds_of(family: OmDetTurbo, *texts: str, task: str | None = None) -> dict[str, torch.Tensor]:
    arrays = prompt_inputs(bank_from_prompts(family, prompts_of(*texts, task=task)), family.prompt_specs())
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def pixels_of(family: OmDetTurbo, *seeds: int) -> torch.Tensor:
    images = [resize_on_host(drawn_image((50, 80), seed), family.preprocess()) for seed in seeds]
    return Normalise(family.preprocess())(torch.from_numpy(np.stack(images)))


def inputs_of(family: OmDetTurbo, texts: tuple[str, ...], task: str | None = None) -> Any:
    image = Image.fromarray(drawn_image((50, 80), 1))
    return family.processor(images=image, text=list(texts), task=task, return_tensors="pt")


def answered(family: OmDetTurbo, feeds: dict[str, torch.Tensor]) -> RawOutputs:
    with torch.no_grad():
        answer: RawOutputs = family.core()(pixels_of(family, 1), feeds)
    return answer


def worst(first: RawOutputs, second: RawOutputs) -> float:
    logits = (first.logits - second.logits).abs().max().item()
    return max(logits, (first.boxes_cxcywh - second.boxes_cxcywh).abs().max().item())


def test_what_is_read_from_the_processor(family: OmDetTurbo) -> None:
    spec = family.preprocess()
    assert spec.size_hw == family.image_size.size_hw == SIZE_HW
    assert (spec.resample, spec.pad, spec.rescale_factor, spec.mean) == ("bilinear", "none", 1.0, MEAN)


def test_rescaling_is_read_from_the_processor(tiny_checkpoint: Callable[[str], Path]) -> None:
    family = loaded(tiny_checkpoint)
    family.processor.image_processor.do_rescale = True
    assert family.preprocess().rescale_factor == 1 / 255


@pytest.mark.parametrize("size_hw", [(64, 64), (96, 64), (0, 0)])
def test_another_image_size_is_refused(family: OmDetTurbo, size_hw: tuple[int, int]) -> None:
    assert OmDetTurbo(family.model, family.processor, SIZE_HW).image_size.size_hw == SIZE_HW
    with pytest.raises(InputError, match="one image size") as caught:
        OmDetTurbo(family.model, family.processor, size_hw)
    assert caught.value.expected == "64x96"


def test_a_size_by_edges_is_refused(tiny_checkpoint: Callable[[str], Path]) -> None:
    family = loaded(tiny_checkpoint)
    size = family.processor.image_processor.size
    family.processor.image_processor.size = type(size)(shortest_edge=64, longest_edge=96)
    with pytest.raises(CheckpointError, match="size is of a kind") as caught:
        OmDetTurbo(family.model, family.processor)
    assert caught.value.got == "longest_edge: 96, shortest_edge: 64"


@pytest.mark.parametrize("texts", [TEXTS[:1], TEXTS, TEXTS * 12])
@pytest.mark.parametrize("task", [None, "", TASK])
def test_language_features_equal_transformers(family: OmDetTurbo, texts: tuple[str, ...], task: str | None) -> None:
    """Its default sentence included, which it cuts where it is longer than the context (the third list)."""
    inputs = inputs_of(family, texts, task)
    with torch.no_grad():
        language = {name: inputs[name] for name in inputs if name.startswith(("classes", "tasks"))}
        classes, tokens, mask = family.model.get_language_embedding(**language)
        encoded = family.encode(texts, task).tensors
    family._forget()
    torch.testing.assert_close(encoded["class_features"], classes[:, 0], rtol=0, atol=1e-5)
    torch.testing.assert_close(encoded["task_features"], tokens[:, 0], rtol=0, atol=1e-5)
    assert encoded["task_mask"].tolist() == mask[0].tolist() == [1.0] * len(tokens)


def test_the_third_list_of_the_test_above_is_cut(family: OmDetTurbo) -> None:
    length, most = family.phrase_length(f"Detect {', '.join(TEXTS * 12)}.")
    assert most == 77 < length
    assert len(family.encode(TEXTS * 12).tensors["task_mask"]) == 77


@pytest.mark.parametrize(("words", "fits"), [(75, True), (76, False)])
def test_an_over_long_task_is_refused(family: OmDetTurbo, words: int, fits: bool) -> None:
    task = " ".join(["cell"] * words)
    if fits:
        assert len(family.encode(TEXTS, task).tensors["task_features"]) == 77
        return
    with pytest.raises(PromptError, match="task sentence is longer") as caught:
        family.encode(TEXTS, task)
    assert (caught.value.expected, caught.value.got) == ("at most 77 tokens", "78 tokens")


def test_the_task_matters(family: OmDetTurbo) -> None:
    answers = [answered(family, feeds_of(family, *TEXTS, task=task)) for task in (TASK, "small polyp")]
    assert worst(*answers) > 0.05


def test_masked_task_tokens_do_not_count(family: OmDetTurbo) -> None:
    feeds = feeds_of(family, *TEXTS, task=TASK)
    rest = torch.randn(1, 4, feeds["task_features"].shape[2], generator=torch.Generator().manual_seed(0))
    padded = {**feeds, "task_features": torch.cat([feeds["task_features"], rest], dim=1)}
    unmasked = {**padded, "task_mask": torch.ones(padded["task_features"].shape[:2])}
    masked = {**padded, "task_mask": torch.cat([feeds["task_mask"], torch.zeros(1, 4)], dim=1)}
    plain = answered(family, feeds)
    assert worst(answered(family, masked), plain) < 2e-5
    assert worst(answered(family, unmasked), plain) > 0.01


def test_banks_of_unlike_default_tasks_do_not_merge(family: OmDetTurbo) -> None:
    first, second = (bank_from_prompts(family, prompts_of(text)) for text in TEXTS[:2])
    with pytest.raises(BankError, match="different task sentences"):
        first.merge(second)


def test_order_of_calls_does_not_matter(family: OmDetTurbo) -> None:
    image = drawn_image((50, 80), 1)
    first = family.reference(image, TEXTS, TASK)
    family.reference(image, TEXTS[::-1], "small polyp")
    family.reference(drawn_image((50, 80), 2), TEXTS * 12)
    assert worst(family.reference(image, TEXTS, TASK), first) == 0.0
    caches = (family.model.language_cache_class, family.model.language_cache_prompt)
    assert [len(cache.cache) for cache in caches] == [0, 0]


def test_a_full_cache_of_others_does_not_matter(tiny_checkpoint: Callable[[str], Path]) -> None:
    family, image = loaded(tiny_checkpoint), drawn_image((50, 80), 1)
    wanted = family.reference(image, TEXTS, TASK)
    # What a caller of the model alone leaves behind: the right keys, features of other weights.
    with torch.no_grad():
        family.model(**inputs_of(family, TEXTS, TASK))
        for cache in (family.model.language_cache_class, family.model.language_cache_prompt):
            for key, value in cache.cache.items():
                cache.cache[key] = (value[0] + 1, value[1]) if isinstance(value, tuple) else value + 1
        spoilt = family.model(**inputs_of(family, TEXTS, TASK))
    assert (spoilt.decoder_class_logits - wanted.logits).abs().max() > 0.1
    assert worst(family.reference(image, TEXTS, TASK), wanted) == 0.0


def test_training_never_sees_features_of_old_weights(tiny_checkpoint: Callable[[str], Path]) -> None:
    family = loaded(tiny_checkpoint)
    before = family.encode(TEXTS, TASK).tensors
    assert before["class_features"].requires_grad
    assert before["task_features"].requires_grad
    with torch.no_grad():
        family.model.language_backbone.text_projection.mul_(2)
    after = family.encode(TEXTS, TASK).tensors
    torch.testing.assert_close(after["class_features"], 2 * before["class_features"])


def test_anchors_are_not_kept_between_calls(family: OmDetTurbo) -> None:
    cache = type(family.model.decoder).generate_anchors
    cache.cache_clear()
    answered(family, feeds_of(family, "polyp"))
    assert cache.cache_info().currsize == 0


def transformers_layers(family: OmDetTurbo, texts: tuple[str, ...]) -> list[RawOutputs]:
    """Proposals and every decoder layer, as transformers' decoder gives them when it trains."""
    decoder, seen = family.model.decoder, []
    hook = decoder.register_forward_hook(lambda _, __, output: seen.append(output))
    decoder.training = True  # the flag of this module alone: norms stay in evaluation mode
    try:
        with torch.no_grad():
            family.model(**inputs_of(family, texts))
    finally:
        decoder.training = False
        hook.remove()
        family._forget()
    (whole,) = seen
    first = RawOutputs(whole.encoder_class_logits, whole.encoder_coord_logits)
    layers = zip(whole.decoder_classes, whole.decoder_coords, strict=True)
    return [first, *(RawOutputs(*layer) for layer in layers)]


def test_training_outputs_equal_transformers_layer_by_layer(family: OmDetTurbo) -> None:
    wanted = transformers_layers(family, TEXTS)
    with torch.no_grad():
        core = family.core()
        outputs = core.training_outputs(core.image_features(pixels_of(family, 1)), feeds_of(family, *TEXTS))
    assert len(outputs) == len(wanted) == 3
    assert all_found(wanted[0], outputs[0])
    for mine, theirs in zip(outputs[1:], wanted[1:], strict=True):
        assert worst(mine, theirs) < 2e-4
    assert min(worst(*pair) for pair in itertools.pairwise(outputs[1:])) > 0.01


def test_every_used_parameter_learns(tiny_checkpoint: Callable[[str], Path]) -> None:
    family = loaded(tiny_checkpoint)
    family.model.train()
    encoded = family.encode(TEXTS, TASK).tensors
    feeds = {name: tensor[None] for name, tensor in encoded.items()}
    core = family.core()
    outputs = core.training_outputs(core.image_features(pixels_of(family, 1, 2)), feeds)
    total = torch.stack([(step.logits**2).sum() + (step.boxes_cxcywh**2).sum() for step in outputs]).sum()
    total.backward()  # type: ignore[no-untyped-call]
    grads = {name: parameter.grad for name, parameter in family.model.named_parameters()}
    untouched = [name for name, grad in grads.items() if grad is None or not grad.isfinite().all()]
    # These have no part in transformers' forward either: an outer norm that is switched off, and Swin's last.
    idle = ("vision_backbone.layer_norms", "vision_backbone.vision_backbone.swin.layernorm")
    assert [name for name in untouched if not name.startswith(idle)] == []


@pytest.mark.parametrize(
    "changes",
    [
        {"class_distance_type": "dot"},
        {"learn_initial_query": True},
        {"eval_size": 64},
        {"encoder_layers": 2, "decoder_num_layers": 1},
    ],
)
def test_variants_of_the_config_equal_transformers(family: OmDetTurbo, changes: dict[str, Any]) -> None:
    torch.manual_seed(1)
    config = type(family.model.config).from_dict({**family.model.config.to_dict(), **changes})
    model = type(family.model)(config).eval()
    spread(model)
    variant = OmDetTurbo(model, family.processor)
    wanted = variant.reference(drawn_image((50, 80), 1), TEXTS)
    assert worst(answered(variant, feeds_of(variant, *TEXTS)), wanted) < 5e-4


def test_a_part_of_a_bank_keeps_the_task_that_it_was_encoded_with(family: OmDetTurbo) -> None:
    # Without that, PyTorch is asked "Detect polyp." about a bank that serves the sentence of all three.
    classes = [{"label": text, "phrases": [text]} for text in TEXTS]
    bank = bank_from_prompts(family, Prompts.model_validate({"classes": classes}))
    part = bank.subset([TEXTS[1]])
    assert part.prompts.task == f"Detect {', '.join(TEXTS)}."
    again = bank_from_prompts(family, part.prompts)
    assert np.array_equal(again.tensors["task_features"], part.tensors["task_features"])
    assert np.allclose(again.tensors["class_features"], part.tensors["class_features"], atol=1e-6)


def test_a_task_that_transformers_cuts_is_not_stated(family: OmDetTurbo) -> None:
    texts = tuple(
        f"{word} cell of blood" for word in itertools.islice(map("".join, itertools.permutations("abcd")), 20)
    )
    assert family.task_of(texts, None) is None
    assert family.task_of(TEXTS, TASK) == TASK
