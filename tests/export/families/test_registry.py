"""What every family of the registry must keep, on tiny checkpoints; and what it takes to add a sixth."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from medprompt.core.errors import CheckpointError, PromptError
from medprompt.core.manifest import Postprocess
from medprompt.export.checkpoint import family_from_checkpoint
from medprompt.export.embed import bank_from_prompts
from medprompt.export.families import FAMILIES, family_class
from medprompt.export.families.base import Family, RawOutputs
from medprompt.export.graph.detection_graph import DetectionGraph, Normalise, input_specs, output_specs
from medprompt.export.graph.onnx_export import onnx_from_graph
from medprompt.export.parity.images import drawn_image
from medprompt.images.resize import resize_on_host
from medprompt.prompts.assemble import prompt_inputs
from medprompt.prompts.bank import load_bank, save_bank
from medprompt.prompts.schema import Prompts
from tests.tiny import EACH, TINY

TEXTS = ("red blood cell", "polyp", "small purple platelet")
TASK = "detect a cell"
SOURCES_HW = [(50, 80), (80, 50), (64, 64), (1, 1), (2, 3), (37, 211), (300, 200)]
TOP_K = 16
FREE_SIZES_HW = {"grounding-dino": (64, 96), "mm-grounding-dino": (64, 96), "glip": (64, 90)}
"""Where the size is free: at 64 × 64 their coarsest map has one cell, which torch refuses to norm."""


@pytest.fixture(scope="module", params=EACH)
def family(request: pytest.FixtureRequest, tiny_checkpoint: Callable[[str], Path]) -> Iterator[Family]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield family_from_checkpoint(tiny_checkpoint(request.param), FREE_SIZES_HW.get(request.param))
    torch.set_num_threads(threads)


def prompts_of(*texts: str, task: str | None = TASK) -> Prompts:
    classes = [{"label": text, "phrases": [text]} for text in texts]
    return Prompts.model_validate({"classes": classes, "task": task})


def feeds_of(family: Family, *texts: str, task: str | None = TASK) -> dict[str, torch.Tensor]:
    arrays = prompt_inputs(bank_from_prompts(family, prompts_of(*texts, task=task)), family.prompt_specs())
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def reference_and_pixels(
    family: Family, image: NDArray[np.uint8], *texts: str, task: str | None = TASK
) -> tuple[RawOutputs, torch.Tensor]:
    """transformers' answer, and the pixels that its processor handed to the model."""
    seen: dict[str, Any] = {}
    hook = family.image_module.register_forward_pre_hook(
        lambda _, args, kwargs: seen.update(kwargs | dict(zip(["pixel_values"], args, strict=False))), with_kwargs=True
    )
    try:
        raw = family.reference(image, texts, task)
    finally:
        hook.remove()
    return raw, seen["pixel_values"]


def worst(first: RawOutputs, second: RawOutputs) -> tuple[float, float]:
    logits = (first.logits - second.logits).abs().max().item()
    return logits, (first.boxes_cxcywh - second.boxes_cxcywh).abs().max().item()


def test_every_family_has_a_tiny_checkpoint() -> None:
    assert sorted(TINY) == sorted(FAMILIES)
    assert len(FAMILIES) == 8


@pytest.mark.parametrize("texts", [TEXTS[:1], TEXTS, TEXTS[::-1]])
@pytest.mark.parametrize("task", [None, TASK])
def test_core_equals_transformers(family: Family, texts: tuple[str, ...], task: str | None) -> None:
    reference, pixels = reference_and_pixels(family, drawn_image((50, 80), 1), *texts, task=task)
    with torch.no_grad():
        answer = family.core()(pixels, feeds_of(family, *texts, task=task))
    assert answer.logits.shape[2] == len(texts)
    logits, boxes = worst(answer, reference)
    assert logits < 2e-4
    assert boxes < 2e-5


def test_tiny_weights_make_agreement_mean_something(family: Family) -> None:
    first, second = (family.reference(drawn_image((50, 80), seed), TEXTS, TASK) for seed in (1, 2))
    scores = first.logits.sigmoid()
    low, high = torch.quantile(scores, torch.tensor([0.05, 0.95])).tolist()
    assert low < 0.1
    assert high > 0.25
    assert scores.std(dim=1).min() > 0.05
    assert (scores[..., 0] - scores[..., 1]).abs().max() > 0.05
    assert first.boxes_cxcywh.std(dim=1).min() > 0.01
    assert min(worst(first, second)) > 0.05


@pytest.mark.parametrize("source_hw", SOURCES_HW)
def test_preprocessing_equals_the_processors_pixels(family: Family, source_hw: tuple[int, int]) -> None:
    noise = np.random.default_rng(3).integers(0, 256, (*source_hw, 3), dtype=np.uint8)
    image, spec = noise, family.preprocess()
    _, wanted = reference_and_pixels(family, image, TEXTS[0])
    got = Normalise(spec)(torch.from_numpy(resize_on_host(image, spec))[None])
    std = torch.tensor(spec.std)[:, None, None]
    assert ((got - wanted).abs() * std / spec.rescale_factor).max().item() < 1e-3  # in grey levels


def test_a_bank_on_disk_gives_what_was_encoded(family: Family, tmp_path: Path) -> None:
    bank = bank_from_prompts(family, prompts_of(*TEXTS))
    save_bank(bank, tmp_path / "bank.safetensors")
    loaded = load_bank(tmp_path / "bank.safetensors")
    assert loaded.content_hash() == bank.content_hash()
    with torch.no_grad():
        encoded = family.encode(TEXTS, TASK)
    assert set(encoded.tensors) == set(loaded.tensors)
    for name, tensor in encoded.tensors.items():
        np.testing.assert_array_equal(loaded.tensors[name], tensor.numpy())
    assert loaded.token_counts.tolist() == list(encoded.token_counts)


def test_subset_and_merge_equal_a_fresh_embedding(family: Family) -> None:
    whole = bank_from_prompts(family, prompts_of(*TEXTS))
    if "caption" in whole.layouts.values():
        pytest.skip("its banks cannot be taken apart: tests/export/families/test_glip.py")
    last, first = (bank_from_prompts(family, prompts_of(*texts)) for texts in (TEXTS[2:], TEXTS[:2]))
    for made, fresh in [(whole.subset([TEXTS[2]]), last), (first.merge(last), whole)]:
        mine, theirs = (prompt_inputs(bank, family.prompt_specs()) for bank in (made, fresh))
        for spec in family.prompt_specs():
            np.testing.assert_allclose(mine[spec.name], theirs[spec.name], rtol=0, atol=2e-6)


def test_prompt_inputs_have_the_declared_shapes(family: Family) -> None:
    for texts in (TEXTS[:1], TEXTS):
        axes: dict[str, int] = {}
        for spec, tensor in zip(family.prompt_specs(), feeds_of(family, *texts).values(), strict=True):
            assert str(tensor.dtype) == f"torch.{spec.dtype}"
            for want, got in zip(spec.shape, tensor.shape, strict=True):
                assert (axes.setdefault(want, got) if isinstance(want, str) else want) == got
        assert axes["P"] == len(texts)


def test_phrase_length_border(family: Family) -> None:
    one, most = family.phrase_length("cell")
    fitting = " ".join(["cell"] * (most - one + 1))
    assert family.phrase_length(fitting) == (most, most)
    family.check_phrases([fitting])
    with pytest.raises(PromptError, match="longer than the text encoder reads") as caught:
        family.check_phrases(["cell", f"{fitting} cell"])
    assert caught.value.where == repr(f"{fitting} cell")
    assert (caught.value.expected, caught.value.got) == (f"at most {most} tokens", f"{most + 1} tokens")


def test_gradients_reach_the_text_side(family: Family) -> None:
    encoded = family.encode(TEXTS, TASK)
    sum(tensor.square().sum() * (n + 1) for n, tensor in enumerate(encoded.tensors.values())).backward()
    grads = {name: p.grad for name, p in family.model.named_parameters()}
    family.model.zero_grad()
    touched = [name for name, grad in grads.items() if grad is not None and grad.abs().sum() > 0]
    assert touched
    assert all(name.startswith(family.text_prefixes) for name in touched)
    assert any("token_embedding" in name or "word_embeddings" in name for name in touched)


def test_batch_neighbours_do_not_matter(family: Family) -> None:
    _, first = reference_and_pixels(family, drawn_image((50, 80), 1), *TEXTS)
    _, second = reference_and_pixels(family, drawn_image((50, 80), 2), *TEXTS)
    feeds, core = feeds_of(family, *TEXTS), family.core()
    with torch.no_grad():
        both = core(torch.cat([first, second]), feeds)
        singles = [core(pixels, feeds) for pixels in (first, second)]
    for index, single in enumerate(singles):
        row = RawOutputs(both.logits[index : index + 1], both.boxes_cxcywh[index : index + 1])
        assert max(worst(row, single)) < 5e-5


def test_training_outputs_end_with_the_final_one(family: Family) -> None:
    _, pixels = reference_and_pixels(family, drawn_image((50, 80), 1), *TEXTS)
    feeds, core = feeds_of(family, *TEXTS), family.core()
    with torch.no_grad():
        *_, last = core.training_outputs(core.image_features(pixels), feeds)
        final = core(pixels, feeds)
    assert worst(last, final) == (0.0, 0.0)


def test_fingerprint_covers_the_text_side_alone(family: Family, tiny_checkpoint: Callable[[str], Path]) -> None:
    loaded = family_from_checkpoint(tiny_checkpoint(family.model.config.model_type))
    fingerprint = loaded.encoder_fingerprint()
    # A call leaves its padding and truncation in a fast tokenizer; they must not count.
    loaded.encode(TEXTS)
    loaded.phrase_length(TEXTS[0])
    assert loaded.encoder_fingerprint() == family.encoder_fingerprint() == fingerprint
    parameters = dict(loaded.model.named_parameters())
    text = next(name for name in parameters if name.startswith(loaded.text_prefixes))
    vision = next(name for name in parameters if not name.startswith(loaded.text_prefixes))
    with torch.no_grad():
        parameters[vision].add_(1)
        assert loaded.encoder_fingerprint() == fingerprint
        parameters[text].add_(1)
    assert loaded.encoder_fingerprint() != fingerprint


@pytest.mark.slow
def test_onnx_runtime_equals_torch(family: Family, tmp_path: Path) -> None:
    specs, spec = input_specs(family), family.preprocess()
    post = Postprocess(top_k=TOP_K, labels_per_query=family.labels_per_query)
    graph = DetectionGraph(family.core(), specs, spec, post).eval()
    onnx_from_graph(graph, specs, output_specs(TOP_K), tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    for batch, texts in [(1, TEXTS), (3, TEXTS[1:]), (2, (*TEXTS, "white cell"))]:
        images = [resize_on_host(drawn_image((50, 80), seed), spec) for seed in range(batch)]
        arrays = prompt_inputs(bank_from_prompts(family, prompts_of(*texts)), specs)
        feeds = {"image": np.stack(images), **arrays}
        boxes, scores, *ids = session.run(None, feeds)
        with torch.no_grad():
            wanted = graph(*(torch.from_numpy(feeds[entry.name]) for entry in specs))
        np.testing.assert_allclose(boxes, wanted[0].numpy(), rtol=0, atol=2e-5)
        np.testing.assert_allclose(scores, wanted[1].numpy(), rtol=0, atol=2e-5)
        for got, want in zip(ids, wanted[2:], strict=True):
            np.testing.assert_array_equal(got, want.numpy())


SIXTH = """
from medprompt.export.families.owlvit import OwlCore, OwlViT
from medprompt.export.families.base import RawOutputs


class MirrorCore(OwlCore):
    def detect(self, features, prompts):
        raw = super().detect(features, prompts)
        return RawOutputs(-raw.logits, raw.boxes_cxcywh)


class Sixth(OwlViT):
    def core(self):
        return MirrorCore(self.model)
"""


def test_a_sixth_family_is_one_file_and_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_checkpoint: Callable[[str], Path]
) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint("owlvit"), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "sixth"}))
    with pytest.raises(CheckpointError, match="family that is not served") as caught:
        family_from_checkpoint(folder)
    assert caught.value.expected == f"model_type: {', '.join(FAMILIES)}"

    (tmp_path / "sixth_family.py").write_text(SIXTH)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(FAMILIES, "sixth", "sixth_family:Sixth")

    sixth, first = family_from_checkpoint(folder), family_from_checkpoint(tiny_checkpoint("owlvit"))
    assert type(sixth) is family_class("sixth")
    feeds = prompt_inputs(bank_from_prompts(sixth, prompts_of(*TEXTS)), input_specs(sixth))
    image = resize_on_host(drawn_image((50, 80), 1), sixth.preprocess())
    tensors = [torch.from_numpy(array) for array in (image[None], *feeds.values())]
    answers = []
    for member in (sixth, first):
        post = Postprocess(top_k=64)
        graph = DetectionGraph(member.core(), input_specs(member), member.preprocess(), post).eval()
        with torch.no_grad():
            answers.append(graph(*tensors))
    assert [tuple(output.shape) for output in answers[0]] == [(1, 64, 4), (1, 64), (1, 64), (1, 64)]
    # Mirrored logits: its best score is 1 - the other's worst phrase score.
    assert answers[0][1].max() > 0.9
    assert not torch.equal(answers[0][1], answers[1][1])
