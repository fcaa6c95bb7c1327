"""Tuning turns a bank's words and nothing else, and never gives back what is worse than the start."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from medprompt.core.errors import BankError, DataError, PromptError
from medprompt.data import DetectionSet, LabelledImage
from medprompt.export.bundle import bundle_from_checkpoint
from medprompt.export.embed import bank_from_prompts
from medprompt.export.evaluation.evaluator import PromptEvaluator
from medprompt.export.evaluation.features import FeatureSet
from medprompt.export.families.base import Family
from medprompt.export.parity.images import drawn_image
from medprompt.export.prompt_tuning.tune import BankTuner, TuneOptions, tuned_bank
from medprompt.export.prompt_tuning.tune_report import FULL_JUDGE, STRICTER, _stricter, tune_prompts
from medprompt.images.read import load_image
from medprompt.metrics.coco import measure_accuracy
from medprompt.prompts.bank import PromptBank, load_bank, save_bank
from medprompt.prompts.diff import diff_prompts
from medprompt.prompts.schema import Prompts
from medprompt.runtime.detector import Detector
from tests.export.exported import loaded

CLASSES = [{"label": "disc", "phrases": ["red cell", "round disc"]}, {"label": "spot", "phrases": ["polyp"]}]
FAST = TuneOptions(steps=8, learning_rate=0.05, anchor=0.1, batch=2, measures=4)


@pytest.fixture(scope="module")
def owlvit(tiny_checkpoint: Callable[[str], Path]) -> Family:
    return loaded(tiny_checkpoint("owlvit"))


def bank_of(family: Family, **changes: Any) -> PromptBank:
    return bank_from_prompts(family, Prompts.model_validate({"classes": CLASSES, **changes}))


def drawn_set(folder: Path, images: int = 6, first: int = 0, name: str = "drawn") -> DetectionSet:
    """Drawn images of two sizes, one box of each class in each."""
    entries = []
    for seed in range(first, first + images):
        size_hw = [(50, 80), (64, 40)][seed % 2]
        path = folder / f"{seed}.png"
        Image.fromarray(drawn_image(size_hw, seed)).save(path)
        boxes = np.array([[2, 3, 20, 30], [10, 10, 30, 25]], dtype=np.float32) + seed % 3
        entries.append(LabelledImage(path, size_hw, boxes, np.array([0, 1])))
    return DetectionSet(name, ("disc", "spot"), tuple(entries))


@pytest.fixture
def data(tmp_path: Path) -> DetectionSet:
    return drawn_set(tmp_path)


def labelled_by(family: Family, bank: PromptBank, data: DetectionSet, most: int) -> DetectionSet:
    """Labels that are the best detections of a bank: what these images show, as its phrases mean it."""
    found = PromptEvaluator(FeatureSet(family, data)).detections(bank)
    images = tuple(
        replace(entry, boxes_xyxy=best.boxes_xyxy[:most], class_ids=best.class_ids[:most])
        for entry, best in zip(data.images, found, strict=True)
    )
    return replace(data, images=images)


def teacher_of(family: Family) -> PromptBank:
    """The same classes under other phrases."""
    classes = [{"label": "disc", "phrases": ["nucleus"]}, {"label": "spot", "phrases": ["white blood cell"]}]
    return bank_of(family, classes=classes)


@pytest.fixture
def taught(owlvit: Family, data: DetectionSet) -> DetectionSet:
    return labelled_by(owlvit, teacher_of(owlvit), data, 12)


def test_the_loss_falls_and_nothing_but_the_words_turns(family: Family, tmp_path: Path) -> None:
    """Two phrases of one class, pooled as a mean, so that all of them learn."""
    if family.core_class.boxes_follow_phrases:
        with pytest.raises(PromptError, match="queries of its own"):
            BankTuner(FeatureSet(family, drawn_set(tmp_path, 2)), bank_of(family), FAST)
        return
    data, start = drawn_set(tmp_path, 2), bank_of(family, pooling="mean")
    before = {name: tensor.clone() for name, tensor in family.model.state_dict().items()}
    learning = [parameter.requires_grad for parameter in family.model.parameters()]
    images = FeatureSet(family, data)
    family.model.requires_grad_(False)
    tuner = BankTuner(images, start, FAST)
    everything = list(range(len(data.images)))
    with torch.no_grad():
        first = float(tuner.loss(everything))
    for _ in range(FAST.steps):
        tuner.learn(everything)
    with torch.no_grad():
        last = float(tuner.loss(everything))
    for parameter, flag in zip(family.model.parameters(), learning, strict=True):
        parameter.requires_grad_(flag)
    assert last < first - 1e-3
    for name, tensor in family.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    _only_words_turned(family, start, tuner.rows.bank_now())


def _only_words_turned(family: Family, start: PromptBank, tuned: PromptBank) -> None:
    assert start.tensors.keys() == tuned.tensors.keys()
    for name, tensor in start.tensors.items():
        now = tuned.tensors[name]
        if name not in family.tunable:
            np.testing.assert_array_equal(now, tensor, err_msg=name)
            continue
        np.testing.assert_allclose(
            np.linalg.norm(now, axis=-1), np.linalg.norm(tensor, axis=-1), rtol=1e-5, err_msg=name
        )
        for was, turned in zip(start.pieces(name), tuned.pieces(name), strict=True):
            separators = start.separator_tokens if start.layouts[name] == "token" else 0
            words = len(was) - separators
            np.testing.assert_array_equal(turned[words:], was[words:], err_msg=name)
            assert (np.abs(turned[:words] - was[:words]).max(axis=-1) > 1e-4).any(), name


def test_weights_learn_again_after_tuning(owlvit: Family, data: DetectionSet) -> None:
    features = FeatureSet(owlvit, data)
    tuned_bank(features, bank_of(owlvit), PromptEvaluator(features), replace(FAST, steps=1))
    assert all(parameter.requires_grad for parameter in owlvit.model.parameters())


def test_a_strong_anchor_holds(owlvit: Family, data: DetectionSet) -> None:
    drifts = []
    for anchor in (0.0, 1000.0):
        tuner = BankTuner(FeatureSet(owlvit, data), bank_of(owlvit), replace(FAST, anchor=anchor, learning_rate=0.01))
        for _ in range(20):
            tuner.learn([0, 1])
        drifts.append(float(tuner.rows.drift().detach()))
    assert drifts[1] < drifts[0] / 5


def test_a_seed_decides_everything(owlvit: Family, data: DetectionSet) -> None:
    runs = [
        tune_prompts(owlvit, bank_of(owlvit), data, shots=3, options=replace(FAST, seed=seed)) for seed in (4, 4, 5)
    ]
    assert runs[0].tuned.losses == runs[1].tuned.losses
    assert runs[0].tuned_on == runs[1].tuned_on
    assert runs[0].tuned.bank.content_hash() == runs[1].tuned.bank.content_hash()
    assert runs[0].tuned.losses != runs[2].tuned.losses


def test_what_is_best_is_kept_and_signed(owlvit: Family, taught: DetectionSet) -> None:
    start, data = bank_of(owlvit), taught
    made = tune_prompts(owlvit, start, data, options=replace(FAST, steps=40), date="2026-01-02")
    assert made.tuned.improved
    assert made.tuned.best.ap > made.tuned.start.ap + 0.05
    held = [place for place, entry in enumerate(data.images) if entry.path.name in made.held_back]
    judge = PromptEvaluator(FeatureSet(owlvit, replace(data, images=tuple(data.images[place] for place in held))))
    assert judge.accuracy(made.tuned.bank) == made.tuned.best
    assert made.tuned.bank.encoder == start.encoder
    assert made.tuned.bank.prompts.texts == start.prompts.texts
    for entry in made.tuned.bank.prompts.classes:
        for phrase in entry.phrases:
            assert phrase.source == "tuned"
            assert phrase.origin is not None
            assert phrase.origin.parent == phrase.text
            assert (phrase.origin.date, phrase.origin.images) == ("2026-01-02", len(made.tuned_on))
    kinds = {change.what for change in diff_prompts(start, made.tuned.bank)}
    assert kinds == {"source", "tensors"}


def test_never_worse_than_the_start(owlvit: Family, data: DetectionSet) -> None:
    """A planted bad step: the rate throws every row about, where the start's AP is 1 and cannot be bettered."""
    start = bank_of(owlvit)
    by_itself = labelled_by(owlvit, start, data, 64)
    made = tune_prompts(owlvit, start, by_itself, options=replace(FAST, learning_rate=5.0))
    assert made.tuned.start.ap == pytest.approx(1.0, abs=1e-6)
    assert made.tuned.steps == FAST.steps
    assert not made.tuned.improved
    assert made.tuned.bank is start
    assert made.tuned.best == made.tuned.start
    assert "the start is kept, unchanged" in made.summary()


@pytest.mark.parametrize(("share", "improved"), [(0.99, True), (1.01, False)])
def test_a_gain_must_be_large_enough(owlvit: Family, taught: DetectionSet, share: float, improved: bool) -> None:
    start = bank_of(owlvit)
    gain = tune_prompts(owlvit, start, taught, options=FAST).tuned.gain
    few = math.sqrt(FULL_JUDGE / len(tune_prompts(owlvit, start, taught, options=FAST).held_back))
    made = tune_prompts(owlvit, start, taught, options=replace(FAST, min_gain=gain * share / few))
    assert made.options.min_gain == pytest.approx(gain * share)
    assert made.tuned.improved is improved
    assert made.tuned.gain == gain
    assert (made.tuned.bank is start) is not improved


@pytest.mark.parametrize(("held_back", "factor"), [(0, STRICTER), (1, 40**0.5), (10, 2.0), (40, 1.0), (90, 1.0)])
def test_a_weak_judge_must_see_more(held_back: int, factor: float) -> None:
    asked = _stricter(FAST, held_back)
    assert asked.min_gain == pytest.approx(FAST.min_gain * factor)
    assert asked.anchor == FAST.anchor * (1.0 if held_back else STRICTER)


def test_a_diverging_step_ends_the_run(owlvit: Family, data: DetectionSet) -> None:
    start = bank_of(owlvit)
    made = tune_prompts(owlvit, start, data, options=replace(FAST, learning_rate=float("inf")))
    assert made.tuned.steps <= 2
    assert made.tuned.bank is start


def test_one_shot_holds_nothing_back_and_says_so(owlvit: Family, data: DetectionSet) -> None:
    made = tune_prompts(owlvit, bank_of(owlvit), data, shots=1, options=FAST)
    assert (len(made.tuned_on), len(made.held_back)) == (1, 0)
    assert made.options.anchor == FAST.anchor * STRICTER
    assert made.options.min_gain == FAST.min_gain * STRICTER
    assert "too few to hold any back" in made.summary()
    assert made.stopped_by.images == 1


def test_a_finished_bundle_answers_the_tuned_bank(
    owlvit: Family, tiny_checkpoint: Callable[[str], Path], taught: DetectionSet, tmp_path: Path
) -> None:
    """No export after tuning: the bundle was made of other phrases, and gives exactly the tuned AP."""
    folder = tmp_path / "report"
    folder.mkdir()
    report = labelled_by(owlvit, teacher_of(owlvit), drawn_set(folder, 5, first=100, name="report"), 12)
    made = tune_prompts(owlvit, bank_of(owlvit), taught, report, options=replace(FAST, steps=40))
    assert made.report is not None
    assert made.tuned.improved
    assert made.report.tuned != made.report.start
    save_bank(made.tuned.bank, tmp_path / "tuned.safetensors")
    other = Prompts.model_validate({"classes": [{"label": "cell", "phrases": ["nucleus"]}]})
    exported = bundle_from_checkpoint(tiny_checkpoint("owlvit"), other, tmp_path / "bundle")
    bank = tmp_path / "tuned.safetensors"
    with Detector.load(exported.path, "ort-cpu", prompts=bank, threshold=0.0, threads=1) as detector:
        found = [detector(load_image(entry.path)) for entry in report.images]
    served = measure_accuracy(report, found)
    assert served.ap == pytest.approx(made.report.tuned.ap, abs=1e-6)
    assert served.ap50_by_label == pytest.approx(made.report.tuned.ap50_by_label, abs=1e-6)


def test_bad_input_is_refused(owlvit: Family, data: DetectionSet, tmp_path: Path) -> None:
    start = bank_of(owlvit)
    with pytest.raises(BankError, match="another text encoder"):
        tune_prompts(owlvit, replace(start, encoder="0" * 16), data)
    with pytest.raises(DataError, match="no box in the data") as caught:
        tune_prompts(owlvit, start, replace(data, labels=("disc", "other")))
    assert "labels=" in caught.value.fix
    with pytest.raises(DataError, match="fewer images than shots"):
        tune_prompts(owlvit, start, data, shots=7)
    with pytest.raises(DataError, match="share images"):
        tune_prompts(owlvit, start, data, replace(data, name="report"))
    with pytest.raises(BankError, match="lacks a tensor"):
        tune_prompts(owlvit, replace(start, tensors={}, layouts={}), data)


def test_nan_in_a_bank_is_refused(owlvit: Family, tmp_path: Path) -> None:
    start = bank_of(owlvit)
    broken = start.tensors["query_embeds"].copy()
    broken[0, 0] = np.nan
    object.__setattr__(start, "tensors", {"query_embeds": broken})  # as a damaged file would hold it
    save_bank(start, tmp_path / "nan.safetensors")
    with pytest.raises(BankError, match="NaN"):
        load_bank(tmp_path / "nan.safetensors")
