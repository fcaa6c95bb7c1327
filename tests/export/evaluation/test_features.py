"""Features kept on disk answer like the whole model, and a changed image or model is never served from the cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from medprompt.core.errors import DataError
from medprompt.core.manifest import Postprocess
from medprompt.data import DetectionSet
from medprompt.export.embed import bank_from_prompts
from medprompt.export.evaluation import features
from medprompt.export.evaluation.evaluator import MAX_DETECTIONS, PromptEvaluator
from medprompt.export.evaluation.features import FeatureSet, image_fingerprint
from medprompt.export.families.base import Family
from medprompt.export.graph.detection_graph import OUTPUT_NAMES, DetectionGraph, input_specs
from medprompt.export.parity.images import drawn_image
from medprompt.images.resize import resize_on_host
from medprompt.prompts.assemble import prompt_inputs
from medprompt.prompts.schema import Prompts
from medprompt.runtime.decode import decode
from tests.export.exported import loaded
from tests.export.prompt_tuning.sets import drawn_set

PROMPTS = {
    "classes": [{"label": "disc", "phrases": ["red cell", "round disc"]}, {"label": "spot", "phrases": ["polyp"]}]
}


@pytest.fixture
def owlvit(tiny_checkpoint: Callable[[str], Path]) -> Family:
    """A fresh one, to be changed."""
    return loaded(tiny_checkpoint("owlvit"))


@pytest.fixture
def labelled(tmp_path: Path) -> DetectionSet:
    return drawn_set(tmp_path)


@pytest.mark.parametrize("pooling", ["max", "mean"])
def test_a_judge_decides_as_the_graph_does(
    family: Family, labelled: DetectionSet, tmp_path: Path, pooling: str
) -> None:
    if pooling == "mean" and family.core_class.boxes_follow_phrases:
        pytest.skip("no phrase scores another's queries")
    bank = bank_from_prompts(family, Prompts.model_validate({**PROMPTS, "pooling": pooling}))
    specs, spec = input_specs(family), family.preprocess()
    feeds = {name: torch.from_numpy(array) for name, array in prompt_inputs(bank, specs).items()}
    runs = [PromptEvaluator(FeatureSet(family, labelled, tmp_path / "cache")).detections(bank) for _ in range(2)]
    for found in runs:  # computed, then read back: equal but for the last bit, which memory alignment decides
        for entry, detections in zip(labelled.images, found, strict=True):
            source = np.array(Image.open(entry.path).convert("RGB"))
            queries = len(detections)
            post = family.postprocess(
                Postprocess(top_k=queries, pooling=bank.prompts.pooling, labels_per_query=family.labels_per_query)
            )
            post = post.model_copy(update={"top_k": queries, "mask_threshold": None})
            graph = DetectionGraph(family.core(), specs, spec, post).eval()
            with torch.no_grad():
                image = torch.from_numpy(np.array(resize_on_host(source, spec))[None])
                answers = graph(image, *(feeds[s.name] for s in specs[1:]))
            outputs = {name: answer.numpy() for name, answer in zip(OUTPUT_NAMES, answers, strict=True)}
            rules: Any = SimpleNamespace(preprocess=spec, postprocess=post)
            expected = decode(outputs, bank, rules, entry.size_hw)
            assert 0 < queries <= MAX_DETECTIONS
            np.testing.assert_allclose(detections.boxes_xyxy, expected.boxes_xyxy, rtol=0, atol=1e-4)
            np.testing.assert_allclose(detections.scores, expected.scores, rtol=0, atol=1e-6)
            np.testing.assert_array_equal(detections.class_ids, expected.class_ids)
            np.testing.assert_array_equal(detections.phrase_ids, expected.phrase_ids)


def test_only_families_whose_phrases_are_apart_may_say_so(family: Family, labelled: DetectionSet) -> None:
    """``phrases_meet`` False promises that a phrase's logits do not change with its neighbours."""
    images = FeatureSet(family, labelled)
    if images.core.phrases_meet:
        assert family.architecture not in ("OwlViTForObjectDetection", "Owlv2ForObjectDetection")
        return
    specs = input_specs(family)
    answers = []
    for texts in (["red cell"], ["red cell", "round disc", "polyp"]):
        bank = bank_from_prompts(family, Prompts.model_validate({"classes": [{"label": "a", "phrases": texts}]}))
        feeds = {name: torch.from_numpy(array) for name, array in prompt_inputs(bank, specs).items()}
        with torch.no_grad():
            answers.append(images.core.detect(images[0], feeds).logits[..., 0])
    # Where each phrase has queries of its own, its own come first.
    torch.testing.assert_close(answers[0], answers[1][:, : answers[0].shape[1]], rtol=1e-5, atol=1e-5)


class Counting:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loads = 0
        load = features.load_image

        def counted(path: Path) -> object:
            self.loads += 1
            return load(path)

        monkeypatch.setattr(features, "load_image", counted)


def test_features_are_computed_once(
    owlvit: Family, labelled: DetectionSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counting = Counting(monkeypatch)
    for _ in range(2):
        images = FeatureSet(owlvit, labelled, tmp_path / "cache")
        images.prepare()
        images.prepare()
    assert counting.loads == len(images) == 2
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 2


@pytest.mark.parametrize(
    ("room", "loads"),
    [(0, 4), (1 << 30, 2)],
    ids=["no memory: computed each time", "kept"],
)
def test_without_a_folder_memory_decides(
    owlvit: Family, labelled: DetectionSet, monkeypatch: pytest.MonkeyPatch, room: int, loads: int
) -> None:
    monkeypatch.setattr(features, "IN_MEMORY", room)
    counting = Counting(monkeypatch)
    images = FeatureSet(owlvit, labelled)
    images.prepare()
    images.prepare()
    assert counting.loads == loads


def test_another_image_side_or_picture_is_computed_anew(
    owlvit: Family, labelled: DetectionSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counting = Counting(monkeypatch)
    FeatureSet(owlvit, labelled, tmp_path / "cache").prepare()
    parameters = dict(owlvit.model.named_parameters())
    text = next(name for name in parameters if name.startswith(owlvit.text_prefixes))
    with torch.no_grad():
        parameters[text].add_(1)
    FeatureSet(owlvit, labelled, tmp_path / "cache").prepare()
    assert counting.loads == 2  # the text side has no part in them
    Image.fromarray(drawn_image((50, 80), 7)).save(labelled.images[0].path)
    FeatureSet(owlvit, labelled, tmp_path / "cache").prepare()
    assert counting.loads == 3
    before = image_fingerprint(owlvit)
    with torch.no_grad():
        parameters["box_head.dense0.weight"].add_(1)
    assert image_fingerprint(owlvit) != before
    FeatureSet(owlvit, labelled, tmp_path / "cache").prepare()
    assert counting.loads == 5


@pytest.mark.parametrize("damage", [b"", b"no features"])
def test_a_damaged_file_is_made_again(owlvit: Family, labelled: DetectionSet, tmp_path: Path, damage: bytes) -> None:
    wanted = FeatureSet(owlvit, labelled, tmp_path / "cache")[0]
    for path in (tmp_path / "cache").rglob("*.safetensors"):
        path.write_bytes(damage)
    again = FeatureSet(owlvit, labelled, tmp_path / "cache")[0]
    assert again.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(again[name], tensor, rtol=0, atol=0)


def test_labels_of_another_size_are_refused(owlvit: Family, labelled: DetectionSet) -> None:
    Image.fromarray(drawn_image((51, 80), 0)).save(labelled.images[0].path)
    with pytest.raises(DataError, match="another size") as caught:
        FeatureSet(owlvit, labelled).prepare()
    assert caught.value.expected == "50x80 (height x width)"
    assert caught.value.got == "51x80"
