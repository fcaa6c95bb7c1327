"""What GLIP's own code answered, from its checkpoints through our import, model, graph and rules."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers.core_model_loading import revert_weight_conversion

import medprompt
from medprompt.core.detections import Detections
from medprompt.core.errors import CheckpointError
from medprompt.core.manifest import Manifest, Postprocess
from medprompt.export.checkpoint import family_from_checkpoint
from medprompt.export.embed import bank_from_prompts
from medprompt.export.families.base import Family
from medprompt.export.families.glip import core, tower
from medprompt.export.families.glip.config import GlipConfig
from medprompt.export.families.glip.core import phrase_scores
from medprompt.export.families.glip.model import DenseOutputs, GlipForObjectDetection
from medprompt.export.graph.detection_graph import OUTPUT_NAMES, DetectionGraph, Normalise, input_specs
from medprompt.export.imported import write_checkpoint
from medprompt.export.importers import mapping
from medprompt.export.importers.run import ImportOptions, importer_of, write_imported
from medprompt.images.resize import resize_on_host
from medprompt.prompts.assemble import prompt_inputs
from medprompt.prompts.schema import Prompts
from medprompt.runtime.decode import decode
from tests.export.importers.goldens import BERT, FOLDER, Case, cases
from tests.export.importers.test_keys import converted, foreign
from tests.shared import made_once

GLIP, GLIP_A = "glip", "glip-a"
EACH = [(name, number) for name in (GLIP, GLIP_A) for number in range(4)]
LOGITS, BOXES, SCORES = 1e-4, 1e-5, 1e-5


def options(name: str) -> ImportOptions:
    return ImportOptions(tokenizer=BERT, config=FOLDER / name / "config.yaml")


@pytest.fixture(scope="session")
def glip(run_folder: Path) -> Callable[[str], Path]:
    """``glip(name)``: the folder that a golden checkpoint became; do not write into it."""

    def make(name: str) -> Path:
        source = FOLDER / name / "model_final.pth"
        return made_once(run_folder / "imported" / name, lambda aside: write_checkpoint(source, aside, options(name)))

    return make


@cache
def family_of(folder: Path) -> Family:
    family = family_from_checkpoint(folder)
    family.closing_stop = True  # the golden captions are those of the project's demo
    return family


def sized(folder: Path, case: Case) -> Family:
    family = family_of(folder)
    height, width = case.stated["resized_hw"]
    family.image_size = family.choose_size((height, width))
    return family


def prompts_of(case: Case) -> Prompts:
    return Prompts.model_validate({"classes": [{"label": word, "phrases": [word]} for word in case.words]})


def pixels_of(family: Family, case: Case) -> Tensor:
    spec = family.preprocess()
    return Normalise(spec)(torch.from_numpy(resize_on_host(case.image, spec))[None])


def answer(family: Family, case: Case) -> DenseOutputs:
    """The model's forward on a case's image and tokens."""
    with torch.no_grad():
        outputs: DenseOutputs = family.model(pixels_of(family, case), case.answers["input_ids"])
    return outputs


def worst(outputs: DenseOutputs, case: Case) -> float:
    pairs = zip(
        (outputs.token_logits, outputs.regression, outputs.centerness),
        (case.answers[name] for name in ("token_logits", "regression", "centerness")),
        strict=True,
    )
    return max((mine - theirs).abs().max().item() for mine, theirs in pairs)


def answered_by_the_graph(family: Family, case: Case) -> Detections:
    """The canonical graph in torch, and the runtime's rules."""
    bank, specs, spec = bank_from_prompts(family, prompts_of(case)), input_specs(family), family.preprocess()
    post = family.postprocess(Postprocess(top_k=300, labels_per_query=family.labels_per_query))
    feeds = [torch.from_numpy(array) for array in prompt_inputs(bank, specs).values()]
    with torch.no_grad():
        outputs = DetectionGraph(family.core(), specs, spec, post).eval()(
            torch.from_numpy(resize_on_host(case.image, spec))[None], *feeds
        )
    named = {name: tensor.numpy() for name, tensor in zip(OUTPUT_NAMES, outputs, strict=True)}
    manifest = Manifest.model_construct(preprocess=spec, postprocess=post)
    return decode(named, bank, manifest, (case.image.shape[0], case.image.shape[1]))


def assert_same(found: Detections, case: Case) -> None:
    """Every detection of the project's own post-processing is there, and no other."""
    boxes, scores, labels = (case.answers[f"final.{name}"].numpy() for name in ("boxes_xyxy", "scores", "labels"))
    assert len(found) == len(boxes)
    size = np.array(case.image.shape[1::-1] * 2, dtype=np.float32)
    left = list(range(len(found)))
    for box, score, label in zip(boxes, scores, labels, strict=True):
        near = [
            index
            for index in left
            if found.class_ids[index] == label - 1
            and abs(found.scores[index] - score) < SCORES
            and np.abs((found.boxes_xyxy[index] - box) / size).max() < BOXES
        ]
        assert near, f"{label} {score} {box}"
        left.remove(near[0])


@pytest.mark.parametrize(("name", "number"), EACH)
def test_raw_outputs_are_the_projects(glip: Callable[[str], Path], name: str, number: int) -> None:
    case = cases(name)[number]
    family = sized(glip(name), case)
    assert list(family.caption(case.words).ids) == case.answers["input_ids"][0].tolist()  # type: ignore[attr-defined]
    assert worst(answer(family, case), case) < LOGITS


@pytest.mark.parametrize(("name", "number"), EACH)
def test_final_detections_are_the_projects(glip: Callable[[str], Path], name: str, number: int) -> None:
    case = cases(name)[number]
    assert_same(answered_by_the_graph(sized(glip(name), case), case), case)


def test_offsets_that_are_resized_and_not_read_again_are_seen(
    glip: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tower, "reread", lambda values, size: functional.interpolate(values, size, mode="bilinear"))
    case = cases(GLIP)[0]
    assert worst(answer(sized(glip(GLIP), case), case), case) > 0.1


def test_channels_that_are_not_turned_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(mapping.OPS, "rgb_from_bgr", lambda tensor, count: [tensor])
    write_imported(FOLDER / GLIP_A / "model_final.pth", tmp_path, options(GLIP_A))
    case = cases(GLIP_A)[0]
    assert worst(answer(sized(tmp_path, case), case), case) > 0.1


def test_a_maximum_in_place_of_the_mean_is_seen(glip: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def by_best(outputs: DenseOutputs, phrase_tokens: Tensor, *rules: Any) -> Tensor:
        alone = phrase_scores(outputs, phrase_tokens.flatten()[:, None], *rules)
        return alone.unflatten(2, phrase_tokens.shape).amax(dim=3)

    monkeypatch.setattr(core, "phrase_scores", by_best)
    case = cases(GLIP)[0]
    found = answered_by_the_graph(sized(glip(GLIP), case), case)
    with pytest.raises(AssertionError):
        assert_same(found, case)


# mmdetection's GLIP: the same outputs, other rules.

MMDET_RULES = {
    "ranked_by": "probability",
    "limits_shrinking": True,
    "nms_pixels": "exclusive",
    "min_side": 0.0,
    "end_pixels": 1.0,
}


def mmdetections_own(case: Case, spans: Any, most: int, shown: int) -> tuple[list[Any], ...]:
    """Boxes, scores and labels as mmdetection 3.3 makes them of the raw outputs: written from its rules, box by box."""
    raw = {name: case.answers[name][0].double().numpy() for name in ("token_logits", "regression", "centerness")}
    height, width = case.stated["resized_hw"]
    rows, columns = (-(-side // 32) * 32 for side in (height, width))
    found, start = [], 0
    for stride in (8, 16, 32, 64, 128):
        tall, wide = -(-rows // stride), -(-columns // stride)
        level = []
        for cell, word in np.ndindex(tall * wide, len(spans)):
            probability = (1 / (1 + np.exp(-raw["token_logits"][start + cell, slice(*spans[word])]))).mean()
            if probability > 0.05:
                level.append((probability, start + cell, cell, word))
        for probability, at, cell, word in sorted(level, reverse=True)[:most]:
            x, y = (place * stride + (stride - 1) / 2 for place in (cell % wide, cell // wide))
            moves = raw["regression"][at] / [10, 10, 5, 5]
            half = (8 * stride * np.exp(np.clip(moves[2:], -np.log(62.5), np.log(62.5))) - 1) / 2
            centre = np.array([x, y]) + 8 * stride * moves[:2]
            box = np.clip([*(centre - half), *(centre + half)], 0, [width - 1, height - 1] * 2)
            box *= np.array(case.image.shape[1::-1] * 2) / [width, height, width, height]
            score = np.sqrt(probability / (1 + np.exp(-raw["centerness"][at])))
            if (box[2:] > box[:2]).all():
                found.append((score, word, box))
        start += tall * wide
    kept: list[Any] = []
    for score, word, box in sorted(found, key=lambda one: -one[0]):
        if all(word != other or overlap(box, better) <= 0.6 for _, other, better in kept):
            kept.append((score, word, box))
    best = kept[:shown]
    return [np.add(box, [0, 0, 1, 1]) for _, _, box in best], [one[0] for one in best], [one[1] for one in best]


def overlap(one: Any, other: Any) -> float:
    sides = np.clip(np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2]), 0, None)
    areas = [np.prod(box[2:] - box[:2]) for box in (one, other)]
    return float(sides.prod() / (sum(areas) - sides.prod()))


def differing(found: Detections, wanted: tuple[list[Any], ...]) -> int:
    """How many detections of either have no equal in the other."""
    mine = list(zip(found.boxes_xyxy, found.scores, found.class_ids, strict=True))
    missed = 0
    for box, score, label in zip(*wanted, strict=True):
        near = [
            index
            for index, (own, held, named) in enumerate(mine)
            if named == label and abs(held - score) < SCORES and np.abs(own - box).max() < 0.01
        ]
        missed += not near
        if near:
            del mine[near[0]]
    return missed + len(mine)


@pytest.mark.parametrize("number", [0, 1])
def test_mmdetections_rules_are_reproduced(
    glip: Callable[[str], Path], number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With few candidates a level, that which of them is chosen shows; with GLIP's own rules the answers are others."""
    case = cases(GLIP)[number]
    family = sized(glip(GLIP), case)
    monkeypatch.setattr(family.model.config, "level_top_k", 40)
    wanted = mmdetections_own(case, family.caption(case.words).spans, 40, 100)  # type: ignore[attr-defined]
    assert len(wanted[0]) > 20
    assert differing(answered_by_the_graph(family, case), wanted) > 0
    for name, value in MMDET_RULES.items():
        monkeypatch.setattr(family.model.config, name, value)
    found = answered_by_the_graph(family, case)
    assert differing(found, wanted) == 0
    for name, value in [("ranked_by", "score"), ("end_pixels", 0.0)]:
        with monkeypatch.context() as patch:
            patch.setattr(family.model.config, name, value)
            assert differing(answered_by_the_graph(family, case), wanted) > 0


def test_an_import_from_mmdetection_has_its_rules() -> None:
    source = foreign("mmdet-glip-swin-t-b", {"model": {"test_cfg": {"min_bbox_size": 0, "nms_pre": 900}}})
    importer = importer_of(source)
    config = importer.config(source, converted(source, importer))
    assert {name: config[name] for name in MMDET_RULES} == MMDET_RULES
    assert config["level_top_k"] == 900
    # GLIP.to_plain_text_prompts puts the mark between names only.
    assert importer.trained_rules(source).closing_stop is False
    assert importer.warnings(source) == ()
    silent = foreign("mmdet-glip-swin-t-b", {})
    assert importer.config(silent, converted(silent, importer))["min_side"] is None


def test_the_caption_of_an_import_is_that_of_the_projects_evaluation(glip: Callable[[str], Path]) -> None:
    family = family_from_checkpoint(glip(GLIP))
    caption = family.caption(["red blood cell", "platelets", "white_blood (WBC) cell"])  # type: ignore[attr-defined]
    assert caption.ids == (101, 24, 34, 32, 1012, 36, 1012, 27, 34, 32, 102)
    assert caption.spans == ((1, 4), (5, 6), (7, 10))


@pytest.mark.parametrize(
    ("keys", "name", "layers", "fused"),
    [
        ("glip_Swin_T_O365_GoldG", "glip", 6, True),
        ("glip_A_Swin_T_O365", "glip", 6, False),
        ("glip_Swin_L", "glip", 8, True),
        ("mmdet-glip-swin-t-b", "mmdet-glip", 6, True),
    ],
)
def test_every_name_has_its_place(keys: str, name: str, layers: int, fused: bool) -> None:
    source = foreign(keys, {})
    importer = importer_of(source)
    weights = converted(source, importer)
    config = importer.config(source, weights)
    assert (importer.name, config["tower_layers"], config["fused"]) == (name, layers, fused)
    with torch.device("meta"):
        model = GlipForObjectDetection(GlipConfig.from_dict(config))
    wanted = revert_weight_conversion(model, dict(model.state_dict()))
    assert {key: tensor.shape for key, tensor in weights.tensors.items()} == {k: t.shape for k, t in wanted.items()}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("MODEL.DYHEAD.SCORE_AGG", "MAX"),
        ("MODEL.DYHEAD.FUSE_CONFIG.TYPE", "FILM"),
        ("MODEL.DYHEAD.FUSE_CONFIG.EARLY_FUSE_ON", False),
        ("MODEL.DYHEAD.NUM_CONVS", 5),
        ("GLIPKNOW.PARALLEL_LANGUAGE_INPUT", True),
    ],
)
def test_a_config_of_another_form_is_refused(path: str, value: object) -> None:
    for part in reversed(path.split(".")):
        value = {part: value}
    assert isinstance(value, dict)
    source = foreign("glip_Swin_T_O365_GoldG", value)
    importer = importer_of(source)
    with pytest.raises(CheckpointError) as caught:
        importer.config(source, converted(source, importer))
    assert path in str(caught.value.where)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "number"), [(GLIP, 1), (GLIP_A, 0)])
def test_the_bundle_decides_as_the_project(
    glip: Callable[[str], Path], tmp_path: Path, name: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = cases(name)[number]
    family = sized(glip(name), case)
    config = family.model.config
    monkeypatch.setattr(config, "trained_rules", {**config.trained_rules, "closing_stop": True})
    for part in (family.model, family.processor):
        part.save_pretrained(tmp_path / "folder")
    size_hw = tuple(case.stated["resized_hw"])
    medprompt.export_bundle(tmp_path / "folder", prompts_of(case), tmp_path / "bundle", image_size=size_hw)
    for device in ("ort-cpu", "openvino"):
        with medprompt.Detector.load(tmp_path / "bundle", device=device, threshold=0.0) as detector:
            assert_same(detector(case.image), case)
