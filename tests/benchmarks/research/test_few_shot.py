"""A small VLM and its closed-set twin from few images: the same pictures and loss; a killed experiment goes on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from medprompt.benchmarks.research import closed_set
from medprompt.benchmarks.research.closed_set import ClosedSetDetector, closed_set_accuracy, train_closed_set
from medprompt.benchmarks.research.few_shot import ALL, FewShotPlan, FewShotRun, rows_of, run_few_shot
from medprompt.data import read_detection_set
from medprompt.export.finetune.recipe import DataEntry, Recipe
from medprompt.export.finetune.small_models import nano_resnet

SIDE = 160
"""As small as 200 queries allow."""


@pytest.fixture(scope="module", autouse=True)
def without_trained_backbone():
    """Its wheel is no part of the tests' environment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nano_resnet, "load_resnet", lambda backbone: None)
        patch.setattr(closed_set, "load_resnet", lambda backbone: None)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sets of blood cells and of nuclei: coloured squares, four images each."""
    folder = tmp_path_factory.mktemp("few")
    for name, labels in (("cells", ("RBC", "WBC", "Platelets")), ("nuclei", ("nucleus",))):
        images, boxes = [], []
        for number in range(1, 5):
            pixels = np.full((80, 80, 3), 230, np.uint8)
            for place, _ in enumerate(labels):
                left = 5 + 25 * place
                pixels[20 : 40 + number, left : left + 20] = (200, 60 + 60 * place, 60)
                box = [left, 20, 20, 20 + number]
                boxes.append({"id": len(boxes) + 1, "image_id": number, "category_id": place + 1, "bbox": box})
            Image.fromarray(pixels).save(folder / f"{name}{number}.png")
            images.append({"id": number, "file_name": f"{name}{number}.png", "height": 80, "width": 80})
        boxes = [{**box, "area": 400, "iscrowd": 0} for box in boxes]
        categories = [{"id": place, "name": label} for place, label in enumerate(labels, start=1)]
        content = {"images": images, "annotations": boxes, "categories": categories}
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def plan() -> FewShotPlan:
    recipe = {"batch": 2, "learning_rate": 1e-3, "warmup_steps": 1, "decay_steps": 1, "threads": 1, "ema": 0.5}
    return FewShotPlan(
        side=SIDE,
        pretrain="nuclei.json",
        pretrain_steps=1,
        train="cells.json",
        val="cells.json",
        steps=1,
        recipe=recipe,
        attributes={"attribute_phrases": 2, "shapes": 2},
    )


def test_both_are_trained_and_what_is_there_is_not_run_again(plan: FewShotPlan, data: Path, tmp_path: Path) -> None:
    seen: list[FewShotRun] = []
    runs = run_few_shot(plan, data, tmp_path, shots=(1, ALL), seeds=(0,), report=seen.append)
    assert [(run.detector, run.shots, run.images) for run in runs] == [
        ("VLM", 1, 1),
        ("supervised", 1, 1),
        ("VLM", ALL, 4),
        ("supervised", ALL, 4),
    ]
    assert seen == runs and all(0 <= run.ap <= run.ap50 <= 1 for run in runs)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}
    assert run_few_shot(plan, data, tmp_path, shots=(1, ALL), seeds=(0,)) == runs
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}


def test_rows_have_mean_and_spread() -> None:
    runs = [
        FewShotRun(name, shots, seed, 1 + seed if shots else 9, ap, 2 * ap)
        for shots in (1, ALL)
        for seed, ap in enumerate((0.1, 0.2, 0.3))
        for name in ("VLM", "supervised")
    ]
    assert rows_of(runs)[0] == ("1", "1–3", "0.200 ± 0.100", "0.400 ± 0.200", "0.200 ± 0.100", "0.400 ± 0.200")
    assert rows_of(runs)[1][:2] == ("all", "9")


class TestTwin:
    def recipe(self, **changes) -> Recipe:
        return Recipe(data=(DataEntry(train="x"),), threads=1, **changes)

    def test_every_cell_is_taught_at_its_own_place(self) -> None:
        model = ClosedSetDetector(("a", "b"), SIDE, self.recipe())
        first, *layers = model.outputs(torch.zeros(1, SIDE, SIDE, 3, dtype=torch.uint8))
        assert first.centres is not None and len(first.centres) == first.logits.shape[1] > 200
        assert (first.boxes_cxcywh[0, :, :2] - first.centres).abs().max() < 0.2
        assert [layer.logits.shape for layer in layers] == [(1, 200, 2)] * 3

    def test_it_learns_what_it_is_shown(self, data: Path, tmp_path: Path) -> None:
        labelled = read_detection_set(str(data / "cells.json"))
        model = train_closed_set(labelled.labels, labelled, self.recipe(steps=2, batch=2), SIDE, tmp_path)
        again = train_closed_set(labelled.labels, labelled, self.recipe(steps=2, batch=2), SIDE, tmp_path / "b")
        for name, tensor in model.detector.state_dict().items():
            assert torch.equal(tensor, again.detector.state_dict()[name]), name
        assert 0 <= closed_set_accuracy(model, labelled).ap <= 1

    def test_another_task_starts_with_all_but_the_class_heads(self) -> None:
        old, new = (ClosedSetDetector(labels, SIDE, self.recipe()) for labels in (("a",), ("a", "b", "c")))
        fresh = {name: tensor.clone() for name, tensor in new.detector.state_dict().items()}
        new.start_from(old.detector.state_dict())
        taken = {name for name, tensor in new.detector.state_dict().items() if not torch.equal(tensor, fresh[name])}
        heads = {name for name, tensor in fresh.items() if tensor.shape != old.detector.state_dict()[name].shape}
        assert heads and all("class_embed" in name or "score_head" in name or "denoising" in name for name in heads)
        assert not taken & heads and len(taken) > 50

    def test_boxes_are_in_source_pixels(self) -> None:
        found = ClosedSetDetector(("a", "b"), SIDE, self.recipe()).eval().detect(np.zeros((60, 120, 3), np.uint8))
        assert found.size_hw == (60, 120) and len(found) == 300
        assert 60 < found.boxes_xyxy[:, 2].max() <= 180 and (np.diff(found.scores) <= 0).all()


def test_the_plan_of_0_1_calls_its_attributes_looks() -> None:
    fields = {"side": 64, "pretrain": "a", "pretrain_steps": 1, "train": "b", "val": "c", "steps": 1, "recipe": {}}
    assert FewShotPlan.model_validate({**fields, "looks": {"shapes": 2}}).attributes == {"shapes": 2}
