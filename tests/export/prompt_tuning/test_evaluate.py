"""Measuring and calibrating: what the rows say, what is refused, and that an ensembled bank needs no export."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from medprompt.core.errors import BankError, DataError, MedpromptError, PromptError
from medprompt.data import DetectionSet, read_detection_set
from medprompt.export.bundle import ExportReport, bundle_from_checkpoint
from medprompt.export.checkpoint import family_from_checkpoint
from medprompt.export.checkpoint_files import checkpoint_sha256
from medprompt.export.embed import bank_from_prompts
from medprompt.export.evaluation.evaluator import PromptEvaluator
from medprompt.export.evaluation.features import FeatureSet
from medprompt.export.parity.images import drawn_image
from medprompt.export.prompt_tuning.calibrate import CalibrationRules, calibrated_prompts, class_points, phrase_points
from medprompt.export.prompt_tuning.evaluate import PromptEvalReport, evaluate_prompts
from medprompt.generation.calibration import NEAR_BEST, hits_of_image
from medprompt.prompts.bank import save_bank
from medprompt.prompts.ensemble import ensembled_bank
from medprompt.prompts.file import prompts_from_yaml, save_prompts
from medprompt.prompts.schema import Prompts
from medprompt.runtime.detector import Detector
from tests.export.exported import loaded
from tests.shared import Cli
from tests.tiny import EACH

PHRASES: dict[str, list[str]] = {"disc": ["red cell", "round disc", "pale disc"], "spot": ["polyp", "small spot"]}
NO_ONE_VECTOR = (
    *("GroundingDinoForObjectDetection", "MMGroundingDinoForObjectDetection", "GlipForObjectDetection"),
    *("Sam3Model", "Sam3LiteTextModel"),
)


def prompts(**more: Any) -> Prompts:
    classes = [{"label": label, "phrases": texts} for label, texts in PHRASES.items()]
    return Prompts.model_validate({"classes": classes, "task": "Detect cells.", **more})


def write_set(folder: Path, checkpoint: Path, seeds: range, name: str) -> Path:
    """Drawn images, labelled by what OWL-ViT itself answers to the first phrases: so AP is not nought everywhere."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    family = family_from_checkpoint(checkpoint)
    bank = bank_from_prompts(family, prompts())
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, seed in enumerate(seeds):
        path = folder / "images" / f"{seed}.png"
        Image.fromarray(drawn_image((60, 80), seed)).save(path)
        images.append({"id": number, "file_name": path.name, "height": 60, "width": 80})
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 5, "name": "Disc"}, {"id": 6, "name": "spot"}],
    }
    (folder / name).write_text(json.dumps(content))
    found = PromptEvaluator(FeatureSet(family, read_detection_set(str(folder / name), allow=["no_box"]))).detections(
        bank
    )
    for number, detections in enumerate(found):
        for class_id in (0, 1):
            for box in detections.boxes_xyxy[detections.class_ids == class_id][:6].clip(0, [80, 60, 80, 60]).tolist():
                bbox = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
                annotations.append(
                    {"id": len(annotations), "image_id": number, "category_id": 5 + class_id, "bbox": bbox}
                )
    (folder / name).write_text(json.dumps(content))
    return folder / name


@pytest.fixture(scope="module")
def owlvit(tiny_checkpoint: Callable[[str], Path]) -> Path:
    return tiny_checkpoint("owlvit")


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory, owlvit: Path) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sets")
    return {
        "train": write_set(folder, owlvit, range(4), "train.json"),
        "val": write_set(folder, owlvit, range(4, 7), "val.json"),
    }


@pytest.fixture(scope="module")
def val(sets: dict[str, Path]) -> DetectionSet:
    return read_detection_set(str(sets["val"]))


@pytest.fixture(scope="module", params=EACH)
def judge(request: pytest.FixtureRequest, tiny_checkpoint: Callable[[str], Path], val: DetectionSet) -> PromptEvaluator:
    return PromptEvaluator(FeatureSet(loaded(tiny_checkpoint(request.param)), val))


@pytest.fixture(scope="module")
def owl_judge(owlvit: Path, val: DetectionSet) -> PromptEvaluator:
    return PromptEvaluator(FeatureSet(loaded(owlvit), val))


@pytest.fixture(scope="module")
def train_judge(owlvit: Path, sets: dict[str, Path]) -> PromptEvaluator:
    return PromptEvaluator(FeatureSet(loaded(owlvit), read_detection_set(str(sets["train"]))))


def measured(judge: PromptEvaluator, *files: Path, **more: Any) -> PromptEvalReport:
    return evaluate_prompts(judge, files, checkpoint_sha256="c", **more)


def test_every_family_and_way(judge: PromptEvaluator, tmp_path: Path) -> None:
    save_prompts(prompts(), tmp_path / "p.yaml")
    if "Glip" in judge.features.family.architecture:
        with pytest.raises(BankError, match="cannot be taken apart"):
            measured(judge, tmp_path / "p.yaml", ensembles=["max", "mean"], each=True)
        return
    if judge.features.core.boxes_follow_phrases:
        with pytest.raises(PromptError, match="no mean score"):
            measured(judge, tmp_path / "p.yaml", ensembles=["max", "mean"], each=True)
        return
    report = measured(judge, tmp_path / "p.yaml", ensembles=["max", "mean"], each=True)
    assert [(row.ensemble, row.phrases, row.phrase) for row in report.rows] == [
        ("max", 5, None),
        ("mean", 5, None),
        *(("alone", 1, text) for texts in PHRASES.values() for text in texts),
    ]
    for row, pooling in zip(report.rows, ("max", "mean"), strict=False):
        wanted = judge.accuracy(bank_from_prompts(judge.features.family, prompts(pooling=pooling)))
        assert (row.ap, row.ap50, row.ap_by_label) == (wanted.ap, wanted.ap50, wanted.ap_by_label)
    assert [list(row.ap_by_label) for row in report.rows] == [["Disc", "spot"]] * 2 + [["Disc"]] * 3 + [["spot"]] * 2
    assert {row.ap for row in report.rows[2:]} == {None}
    assert (report.images, report.labels) == (3, ("Disc", "spot"))


def test_embedding_where_a_phrase_is_one_vector(judge: PromptEvaluator, tmp_path: Path) -> None:
    save_prompts(prompts(ensemble="embedding"), tmp_path / "p.yaml")
    family = judge.features.family
    if family.architecture in NO_ONE_VECTOR:
        for ways in ([], ["embedding"]):
            with pytest.raises(PromptError, match="embedding space"):
                measured(judge, tmp_path / "p.yaml", ensembles=ways)
        with pytest.raises(PromptError, match="embedding space"):
            bank_from_prompts(family, prompts(ensemble="embedding"))
        return
    as_written, asked = (measured(judge, tmp_path / "p.yaml", ensembles=ways).rows[0] for ways in ([], ["embedding"]))
    assert as_written == asked
    bank = bank_from_prompts(family, prompts(ensemble="embedding"))
    assert bank.prompts.texts == ("red cell; round disc; pale disc", "polyp; small spot")
    assert judge.accuracy(bank).ap == asked.ap
    plain = bank_from_prompts(family, prompts())
    name = next(name for name, layout in plain.layouts.items() if layout == "phrase")
    lengths = np.linalg.norm(plain.tensors[name], axis=1)
    np.testing.assert_allclose(np.linalg.norm(bank.tensors[name], axis=1)[1], lengths[3:].mean(), rtol=1e-5)


def test_equal_phrases_decide_as_one(owl_judge: PromptEvaluator) -> None:
    family = owl_judge.features.family
    one = bank_from_prompts(family, Prompts.model_validate({"classes": [{"label": "disc", "phrases": ["red cell"]}]}))
    twice = {"classes": [{"label": "disc", "phrases": ["red cell", "other"]}], "ensemble": "embedding"}
    two = bank_from_prompts(family, Prompts.model_validate({**twice, "ensemble": None}))
    same = replace(two, tensors={"query_embeds": np.repeat(one.tensors["query_embeds"], 2, axis=0)})
    for mine, theirs in zip(owl_judge.detections(ensembled_bank(same)), owl_judge.detections(one), strict=True):
        np.testing.assert_allclose(mine.scores, theirs.scores, atol=1e-6)


def test_a_bank_is_measured_as_its_file(owl_judge: PromptEvaluator, tmp_path: Path) -> None:
    save_prompts(prompts(), tmp_path / "p.yaml")
    save_bank(bank_from_prompts(owl_judge.features.family, prompts()), tmp_path / "p.safetensors")
    report = measured(
        owl_judge, tmp_path / "p.yaml", tmp_path / "p.safetensors", ensembles=["max", "mean", "embedding"]
    )
    assert [replace(row, source="") for row in report.rows[:3]] == [replace(row, source="") for row in report.rows[3:]]


def test_a_file_of_one_class(owl_judge: PromptEvaluator, tmp_path: Path) -> None:
    one = prompts().model_copy(update={"classes": prompts().classes[:1]})
    save_prompts(one, tmp_path / "p.yaml")
    (row,) = measured(owl_judge, tmp_path / "p.yaml").rows
    assert (row.ap, row.ap50, list(row.ap_by_label)) == (None, None, ["Disc"])


def calibrated(judge: PromptEvaluator, made: Prompts | None = None, **rules: Any) -> Any:
    return calibrated_prompts(judge, made or prompts(), CalibrationRules(checkpoint="c", data="train", **rules))


def test_calibrated_phrases_share_one_scale(train_judge: PromptEvaluator) -> None:
    made = calibrated(train_judge, thresholds=True)
    points = phrase_points(train_judge, prompts())
    for entry in made.prompts.classes:
        texts = [phrase.text for phrase in entry.phrases]
        own = [points[entry.label, text] for text in texts]
        good = [point.f1 >= NEAR_BEST * max(p.f1 for p in own) for point in own]
        scaled = [phrase.weight * point.threshold for phrase, point in zip(entry.phrases, own, strict=True)]
        meeting = [score for score, counts in zip(scaled, good, strict=True) if counts]
        assert max(phrase.weight for phrase in entry.phrases) == 1.0
        assert meeting == pytest.approx([min(meeting)] * len(meeting), abs=1e-4)
        assert max(scaled) <= max(meeting) + 1e-4
        assert entry.threshold == pytest.approx(made.classes[entry.label].threshold, abs=1e-4)
    (record,) = made.prompts.calibration
    assert (record.labels, record.images, record.weights, record.thresholds) == (("disc", "spot"), 4, True, True)


def test_a_class_threshold_is_the_best_one(train_judge: PromptEvaluator) -> None:
    """No threshold of a fine grid gives a better F1, counted anew from the detections."""
    points = class_points(train_judge, prompts())
    found = train_judge.detections(bank_from_prompts(train_judge.features.family, prompts()))
    for class_id, label in enumerate(("disc", "spot")):
        scores, hits, boxes = [], [], 0
        for detections, image in zip(found, train_judge.labelled.images, strict=True):
            own = detections[detections.class_ids == class_id]
            truth = image.boxes_xyxy[image.class_ids == class_id]
            scores.extend(own.scores.tolist())
            hits.extend(hits_of_image(own.boxes_xyxy, own.scores, truth).tolist())
            boxes += len(truth)
        ranked, right = np.array(scores), np.array(hits)
        grid = [2 * right[ranked >= t].sum() / ((ranked >= t).sum() + boxes) for t in np.linspace(0, 1, 500)]
        assert points[label].f1 >= max(grid) - 1e-9
        assert points[label].f1 > 0
        assert points[label].boxes == boxes


def test_suppression_counts(train_judge: PromptEvaluator) -> None:
    plain, suppressed = (class_points(train_judge, prompts(), iou) for iou in (None, 0.3))
    assert plain != suppressed


def test_thresholds_alone_leave_weights(train_judge: PromptEvaluator) -> None:
    made = calibrated(train_judge, prompts(pooling="mean"), weights=False, thresholds=True)
    assert {phrase.weight for entry in made.prompts.classes for phrase in entry.phrases} == {1.0}
    assert all(entry.threshold for entry in made.prompts.classes)
    assert made.phrases == {}


def test_records_of_two_runs(train_judge: PromptEvaluator) -> None:
    weighted = calibrated(train_judge).prompts
    both = calibrated(train_judge, weighted, weights=False, thresholds=True).prompts
    assert [(record.weights, record.thresholds) for record in both.calibration or ()] == [(True, False), (False, True)]
    again = calibrated(train_judge, both, thresholds=True).prompts
    assert [(record.weights, record.thresholds) for record in again.calibration or ()] == [(True, True)]


def test_classes_the_set_lacks_stay(train_judge: PromptEvaluator) -> None:
    other = prompts().classes[0].model_copy(update={"label": "ulcer", "phrases": (prompts().classes[0].phrases[0],)})
    other = other.model_copy(
        update={"phrases": (other.phrases[0].model_copy(update={"text": "wound", "weight": 0.3}),)}
    )
    made = calibrated(train_judge, prompts().model_copy(update={"classes": (other, *prompts().classes)})).prompts
    assert made.classes[0] == other
    assert [entry.label for entry in made.classes] == ["ulcer", "disc", "spot"]


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"pooling": "mean"}, PromptError, "max pooling only"),
        ({"ensemble": "embedding"}, PromptError, "max pooling only"),
        ({"classes": [{"label": "ulcer", "phrases": ["wound"]}]}, DataError, "no class in common"),
    ],
)
def test_what_cannot_be_calibrated(
    train_judge: PromptEvaluator, change: dict[str, Any], error: type[MedpromptError], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        calibrated(train_judge, prompts(**change))
    assert caught.value.exit_code == 2


def test_a_set_without_boxes(train_judge: PromptEvaluator) -> None:
    labelled = train_judge.labelled
    images = tuple(replace(i, boxes_xyxy=i.boxes_xyxy[:0], class_ids=i.class_ids[:0]) for i in labelled.images)
    bare = PromptEvaluator(FeatureSet(train_judge.features.family, replace(labelled, images=images)))
    with pytest.raises(DataError, match="no box of a class"):
        calibrated(bare)


def test_calibrated_is_measured_on_other_images(
    owl_judge: PromptEvaluator, train_judge: PromptEvaluator, tmp_path: Path
) -> None:
    made = calibrated(train_judge).prompts
    save_prompts(made, tmp_path / "q.yaml")
    save_prompts(prompts(), tmp_path / "p.yaml")
    report = measured(owl_judge, tmp_path / "q.yaml", ensembles=["max", "calibrated"])
    plain = measured(owl_judge, tmp_path / "p.yaml", ensembles=["max"])
    assert report.rows[0].ap == plain.rows[0].ap  # max takes the weights off again
    assert report.rows[1].ap == owl_judge.accuracy(bank_from_prompts(owl_judge.features.family, made)).ap
    assert measured(owl_judge, tmp_path / "q.yaml").rows[0].ensemble == "calibrated"
    for ways in ([], ["calibrated"]):
        with pytest.raises(PromptError, match="on images of this set"):
            measured(train_judge, tmp_path / "q.yaml", ensembles=ways)
    with pytest.raises(PromptError, match="no calibrated weights"):
        measured(owl_judge, tmp_path / "p.yaml", ensembles=["calibrated"])
    partly = measured(owl_judge, tmp_path / "p.yaml", ensembles=["max", "calibrated"])
    assert [row.ap for row in partly.rows] == [row.ap for row in plain.rows]
    assert [f"{tmp_path / 'p.yaml'}: calibrated is left out" in text for text in partly.left_out] == [True]
    assert "no calibrated weights" in partly.left_out[0]
    with pytest.raises(PromptError, match="another checkpoint"):
        evaluate_prompts(owl_judge, [tmp_path / "q.yaml"], checkpoint_sha256="d")


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("absent.yaml", None, PromptError),
        ("absent.safetensors", None, PromptError),
        ("other.yaml", "classes: [{label: ulcer, phrases: [wound]}]", DataError),
        ("bad.yaml", "classes: []", PromptError),
        ("bad.safetensors", "no bank", PromptError),
    ],
)
def test_files_that_cannot_be_measured(
    owl_judge: PromptEvaluator, tmp_path: Path, name: str, content: str | None, error: type[MedpromptError]
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(error) as caught:
        measured(owl_judge, tmp_path / name)
    assert caught.value.exit_code == 2


def test_a_bank_of_another_encoder(owl_judge: PromptEvaluator, tmp_path: Path) -> None:
    bank = bank_from_prompts(owl_judge.features.family, prompts())
    save_bank(replace(bank, encoder="f" * 16), tmp_path / "b.safetensors")
    with pytest.raises(BankError, match="another text encoder"):
        measured(owl_judge, tmp_path / "b.safetensors")


@pytest.fixture(scope="module")
def exported(owlvit: Path, tmp_path_factory: pytest.TempPathFactory) -> ExportReport:
    """A bundle that pools by mean; the banks of these tests pool by max."""
    return bundle_from_checkpoint(owlvit, prompts(pooling="mean"), tmp_path_factory.mktemp("bundles") / "mean")


def test_an_ensembled_bank_drops_into_a_bundle_of_the_other_pooling(
    exported: ExportReport, owl_judge: PromptEvaluator, val: DetectionSet
) -> None:
    bank = bank_from_prompts(owl_judge.features.family, prompts(ensemble="embedding"))
    expected = owl_judge.detections(bank)
    assert bank.prompts.pooling != exported.manifest.postprocess.pooling
    with Detector.load(exported.path, device="ort-cpu", prompts=bank, threshold=0.0) as detector:
        for entry, wanted in zip(val.images, expected, strict=True):
            found = detector(np.array(Image.open(entry.path)))
            np.testing.assert_allclose(np.sort(found.scores), np.sort(wanted.scores), atol=1e-5)
            assert set(found.phrases) == {"red cell; round disc; pale disc", "polyp; small spot"}


def test_an_export_is_not_made_of_means(owlvit: Path, tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="proven on phrases") as caught:
        bundle_from_checkpoint(owlvit, prompts(ensemble="embedding"), tmp_path / "b")
    assert "prompts embed" in caught.value.fix
    assert not (tmp_path / "b").exists()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli) -> Callable[..., Any]:
    monkeypatch.chdir(tmp_path)
    save_prompts(prompts(), tmp_path / "p.yaml")

    def call(*words: object) -> tuple[int, str, str]:
        return cli("prompts", *words)

    return call


def test_the_commands(run: Callable[..., Any], owlvit: Path, sets: dict[str, Path], tmp_path: Path) -> None:
    words = ("--data", sets["train"], "--out", "q.yaml", "--cache", "cache")
    code, out, _ = run("calibrate", owlvit, "--prompts", "p.yaml", *words, "--thresholds")
    assert code == 0
    assert "best threshold" in out
    made = prompts_from_yaml(tmp_path / "q.yaml")
    assert made.calibration is not None
    assert made.calibration[0].checkpoint == checkpoint_sha256(owlvit)
    assert made.calibration[0].data == f"{sets['train'].parent.name}/train.json"
    assert run("calibrate", owlvit, "--prompts", "p.yaml", *words)[0] == 2  # q.yaml exists
    code, out, _ = run(
        "eval", owlvit, "--prompts", "q.yaml", "--data", sets["val"], "--ensembles", "calibrated,max", "--json"
    )
    assert code == 0
    report = json.loads(out)
    assert [row["ensemble"] for row in report["rows"]] == ["max", "calibrated"]
    assert report["checkpoint_sha256"] == checkpoint_sha256(owlvit)
    code, out, _ = run("eval", owlvit, "--prompts", "p.yaml", "--data", sets["val"], "--each")
    assert code == 0
    assert "round disc" in out
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["eval", "CK", "--prompts", "p.yaml", "--data", "VAL", "--ensembles", "max,median"], "no such ensemble"),
        (["eval", "CK", "--prompts", "p.yaml", "--data", "absent.json"], "cannot be read"),
        (["eval", "absent", "--prompts", "p.yaml", "--data", "VAL"], "absent"),
        (["calibrate", "CK", "--prompts", "p.yaml", "--data", "VAL", "--out", "q", "--no-weights"], "nothing to"),
        (["calibrate", "CK", "--prompts", "absent.yaml", "--data", "VAL", "--out", "q"], "cannot be read"),
    ],
)
def test_bad_usage(
    run: Callable[..., Any], owlvit: Path, sets: dict[str, Path], tmp_path: Path, words: list[str], message: str
) -> None:
    named = {"CK": owlvit, "VAL": sets["val"]}
    code, _, err = run(*(named.get(word, word) for word in words))
    assert code == 2
    assert message in err
    assert not (tmp_path / "q").exists()


def test_a_phrase_that_finds_nothing_is_left_out(train_judge: PromptEvaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its logits are sunk: no query of it can be among the hits."""
    core = train_judge.features.core
    place: int | slice = 1
    detect = core.detect

    def sunk(features: Any, feeds: Any) -> Any:
        raw = detect(features, feeds)
        if raw.logits.shape[-1] == 5:
            raw.logits[..., place] = -torch.inf
        return raw

    monkeypatch.setattr(core, "detect", sunk)
    made = calibrated(train_judge)
    assert made.dropped == (("disc", "round disc"),)
    assert [phrase.text for phrase in made.prompts.classes[0].phrases] == ["red cell", "pale disc"]
    place = slice(3, 5)
    with pytest.raises(PromptError, match="single box") as caught:
        calibrated(train_judge)
    assert caught.value.where == "spot"
