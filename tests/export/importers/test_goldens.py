"""What other projects' code answered, from their checkpoints through our import, family, graph and rules."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import medprompt
from medprompt.core.boxes import clipped_boxes, nms
from medprompt.core.manifest import Postprocess
from medprompt.export.checkpoint import family_from_checkpoint
from medprompt.export.embed import bank_from_prompts
from medprompt.export.families.base import Family, RawOutputs
from medprompt.export.graph.detection_graph import DetectionGraph, input_specs
from medprompt.export.importers import idea, mapping, sizes
from medprompt.export.importers.mapping import thirds
from medprompt.export.importers.pickles import read_pickle
from medprompt.export.importers.run import write_imported
from medprompt.images.resize import box_scale, resize_on_host
from medprompt.prompts.assemble import prompt_inputs
from medprompt.prompts.schema import Prompts
from tests.export.importers.goldens import IDEA, MMDET, OMDET, Case, cases, options, source

Imported = Callable[[str], Path]
EACH = [
    pytest.param(name, number, marks=[pytest.mark.slow] if number % 2 else [])  # half of them by default
    for name in (IDEA, MMDET, OMDET)
    for number in range(len(cases(name)))
]
FINAL = [one for one in EACH if one.values[0] != IDEA]
LOGITS, BOXES = 1e-4, 1e-5
FIRST = "backbone.patch_embed.projection.weight"


def prompts_of(case: Case) -> Prompts:
    classes = [{"label": f"class {n}", "phrases": [word]} for n, word in enumerate(case.words)]
    return Prompts.model_validate({"classes": classes, "task": case.stated.get("task")})


@cache
def family_of(folder: Path) -> Family:
    return family_from_checkpoint(folder)


def loaded(folder: Path, case: Case) -> Family:
    """A family at a case's size."""
    family = family_of(folder)
    family.image_size = family.choose_size(case.size_hw)
    return family


def raw(family: Family, case: Case) -> RawOutputs:
    """The model's own outputs for a caption as the project wrote it: token logits, or one a phrase."""
    if "input_ids" not in case.answers:
        return family.reference(case.image, case.words, case.stated["task"])
    ids = case.answers["input_ids"]
    pixels = family.processor.image_processor(
        case.image, size=dict(zip(("height", "width"), case.size_hw, strict=True)), return_tensors="pt"
    )
    with torch.no_grad():
        outputs = family.model(
            pixel_values=pixels["pixel_values"],
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            token_type_ids=torch.zeros_like(ids),
        )
    return RawOutputs(outputs.logits[..., : ids.shape[1]], outputs.pred_boxes)


def worst(family: Family, case: Case) -> tuple[float, float]:
    found = raw(family, case)
    logits = (found.logits - case.answers["logits"]).abs().max().item()
    return logits, (found.boxes_cxcywh - case.answers["boxes"]).abs().max().item()


@pytest.mark.parametrize(("name", "number"), EACH)
def test_raw_outputs_are_the_references(name: str, number: int, imported: Imported) -> None:
    case = cases(name)[number]
    logits, boxes = worst(loaded(imported(name), case), case)
    assert logits < LOGITS
    assert boxes < BOXES


@pytest.mark.parametrize("name", [IDEA, MMDET, OMDET])
def test_pixels_are_the_references(name: str, imported: Imported) -> None:
    case = cases(name)[0]
    family = loaded(imported(name), case)
    graph = DetectionGraph(family.core(), input_specs(family), family.preprocess(), Postprocess(top_k=1))
    pixels = graph.normalise(torch.from_numpy(resize_on_host(case.image, family.preprocess()))[None])
    assert (pixels - case.answers["pixel_values"]).abs().max() < 1e-5


def decided(family: Family, case: Case, top_k: int) -> dict[str, NDArray[Any]]:
    """What the exported graph gives for a case, in torch: the same module that becomes ONNX."""
    bank, specs = bank_from_prompts(family, prompts_of(case)), input_specs(family)
    post = Postprocess(top_k=top_k, labels_per_query=family.labels_per_query)
    spec = family.preprocess()
    feeds = {key: torch.from_numpy(array) for key, array in prompt_inputs(bank, specs).items()}
    graph = DetectionGraph(family.core(), specs, spec, post).eval()
    image = torch.from_numpy(resize_on_host(case.image, spec))[None]
    with torch.no_grad():
        boxes, scores, labels, _ = (one[0].numpy() for one in graph(image, *(feeds[s.name] for s in specs[1:])))
    scale = box_scale((case.image.shape[0], case.image.shape[1]), spec)
    height, width = case.image.shape[:2]
    limits = np.array([width, height, width, height], dtype=np.float32)
    found = {"boxes": np.clip(boxes * np.array([*scale, *scale]), 0, limits), "scores": scores, "labels": labels}
    threshold, iou = case.stated.get("score_thresh"), family.rules.nms_iou
    if threshold is not None and iou is not None:
        found = {key: value[scores > threshold] for key, value in found.items()}
        keep = nms(found["boxes"].astype(np.float32), found["scores"], iou, found["labels"])
        found = {key: value[keep] for key, value in found.items()}
    return found


def unmatched(found: dict[str, NDArray[Any]], case: Case) -> int:
    """How many final boxes of the project have no box of ours with their label, place (0.01 px) and score (1e-5)."""
    lost = 0
    finals = (case.answers[f"final.{key}"].numpy() for key in ("boxes_xyxy", "scores", "labels"))
    for box, score, label in zip(*finals, strict=True):
        near = np.abs(found["boxes"] - box).max(axis=1) < 0.01
        lost += not (near & (np.abs(found["scores"] - score) < 1e-5) & (found["labels"] == label)).any()
    return lost


@pytest.mark.parametrize(("name", "number"), FINAL)
def test_decisions_are_the_projects_own(name: str, number: int, imported: Imported) -> None:
    case = cases(name)[number]
    family = loaded(imported(name), case)
    wanted = len(case.answers["final.scores"])
    found = decided(family, case, top_k=wanted if name == MMDET else 30)
    assert len(found["scores"]) == wanted
    assert unmatched(found, case) == 0


def test_the_best_token_is_not_the_mean(imported: Imported, monkeypatch: pytest.MonkeyPatch) -> None:
    case = cases(MMDET)[0]
    family = loaded(imported(MMDET), case)
    monkeypatch.setattr(family, "token_rule", "max")
    assert unmatched(decided(family, case, top_k=25), case) > 0


# Planted mistakes: each must show.


def broken(monkeypatch: pytest.MonkeyPatch, name: str, tmp_path: Path, fault: Callable[[Any], None]) -> float:
    fault(monkeypatch)
    write_imported(source(name), tmp_path, options(name, tmp_path / "tokenizer"))
    case = cases(name)[0]
    return worst(loaded(tmp_path, case), case)[0]


def in_their_own_order(patch: Any) -> None:
    """Patch merging left as ``nn.Unfold`` has it."""
    patch.setitem(mapping.OPS, "swapped", mapping.OPS["copy"])


def query_and_key_swapped(patch: Any) -> None:
    patch.setattr(sizes, "thirds", lambda query, key, value: thirds(key, query, value))


def norms_in_order(patch: Any) -> None:
    """IDEA's decoder norms taken as they are numbered."""
    first, second = (
        "model.decoder.layers.{i}.encoder_attn_layer_norm.{w}",
        "model.decoder.layers.{i}.self_attn_layer_norm.{w}",
    )
    own = idea.IdeaGroundingDino.rules
    swap = {first: second, second: first}
    patch.setattr(
        idea.IdeaGroundingDino,
        "rules",
        lambda self, foreign: {
            key: swap.get(to, to) if isinstance(to, str) else to for key, to in own(self, foreign).items()
        },
    )


@pytest.mark.parametrize(
    ("name", "fault", "least"),
    [
        (MMDET, in_their_own_order, 1.0),
        (OMDET, query_and_key_swapped, 1.0),
        (IDEA, norms_in_order, 1.0),
    ],
)
def test_a_wrong_rule_shows(
    name: str, fault: Callable[[Any], None], least: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert broken(monkeypatch, name, tmp_path, fault) > least


def exchanged(text: str, *pairs: tuple[str, str]) -> str:
    for one, other in pairs:
        text = text.replace(one, "@").replace(other, one).replace("@", other)
    return text


def trained_on_bgr(folder: Path) -> Path:
    """The golden checkpoint as a training on blue, green, red would have saved it: the same answers for an image."""
    content = read_pickle(source(MMDET))
    weights, cfg = dict(content["state_dict"]), content["meta"]["cfg"]
    weights[FIRST] = weights[FIRST].flip(1)
    cfg = exchanged(cfg, ("123.675", "103.53"), ("58.395", "57.375")).replace("bgr_to_rgb=True", "bgr_to_rgb=False")
    torch.save({"state_dict": weights, "meta": {"cfg": cfg}}, folder / "bgr.pth")
    return folder / "bgr.pth"


@pytest.mark.parametrize("forgotten", [False, True])
def test_a_model_of_bgr_sees_rgb(forgotten: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if forgotten:
        monkeypatch.setitem(mapping.OPS, "rgb_from_bgr", mapping.OPS["copy"])
    (tmp_path / "out").mkdir()
    write_imported(trained_on_bgr(tmp_path), tmp_path / "out", options(MMDET, tmp_path))
    case = cases(MMDET)[0]
    logits, boxes = worst(loaded(tmp_path / "out", case), case)
    assert (logits < LOGITS and boxes < BOXES) is not forgotten


# The whole way, on engines.


@pytest.mark.slow  # an export of some 20 s each
@pytest.mark.parametrize(("name", "number"), FINAL)
def test_bundles_decide_as_the_project_did(name: str, number: int, tmp_path: Path) -> None:
    case = cases(name)[number]
    given = options(name, tmp_path / "tokenizer")
    wanted = len(case.answers["final.scores"])
    medprompt.export_bundle(
        source(name),
        prompts_of(case),
        tmp_path / "bundle",
        tokenizer=given.tokenizer,
        config=given.config,
        image_size=case.size_hw,
        top_k=wanted if name == MMDET else 300,
    )
    threshold = case.stated.get("score_thresh", 0.0)
    for device in ("ort-cpu", "openvino"):
        with medprompt.Detector.load(tmp_path / "bundle", device=device, threshold=threshold) as detector:
            found = detector(case.image)
        boxes = clipped_boxes(found.boxes_xyxy, found.size_hw)  # the project clips, a bundle does not
        assert unmatched({"boxes": boxes, "scores": found.scores, "labels": found.class_ids}, case) == 0
        assert len(found) == wanted
