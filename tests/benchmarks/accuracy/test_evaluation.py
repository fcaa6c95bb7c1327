"""A bundle whose answers are known, measured: figures, thresholds, files that cannot be read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medprompt.benchmarks.accuracy.evaluation import EvaluationReport, evaluate_bundle
from medprompt.benchmarks.accuracy.tables import tables
from medprompt.benchmarks.demo import sample_sets
from medprompt.core.errors import DataError, ImageError, InputError
from medprompt.data import read_detection_set
from tests.benchmarks.conftest import TinyDemo
from tests.benchmarks.fakes import LEVELS, MASKED, fake_bundle, write_set


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_bundle(tmp_path_factory.mktemp("fake") / "bundle")


def evaluate(bundle: Path, labels: Path, **changes: object) -> EvaluationReport:
    return evaluate_bundle(bundle, [read_detection_set(str(labels))], device="fake", resamples=20, **changes)  # type: ignore[arg-type]


def test_right_answers_are_right_in_every_figure(bundle: Path, tmp_path: Path) -> None:
    report = evaluate(bundle, write_set(tmp_path / "set", LEVELS))
    (entry,) = report.sets
    content = json.loads(json.dumps(report.as_json(), allow_nan=False))["sets"][0]
    assert content["images"] == 4
    assert content["boxes"] == 7
    figures = content["bundle"]
    assert figures["coco"]["ap"] == pytest.approx(1.0)
    assert figures["coco"]["ap_large"] is None
    assert figures["estimates"]["ap50"] == pytest.approx({"value": 1.0, "low": 1.0, "high": 1.0})
    assert figures["froc"]["mean_sensitivity"] == 1.0
    # The bundle reports from 0.2: the dark quarters at 0.2 and 0.3 are false positives.
    assert set(figures["thresholds"].values()) == {0.2}
    reported = figures["reported"]
    assert (reported["true_positives"], reported["false_positives"], reported["missed"]) == (7, 2, 0)
    assert figures["reported_box_shift"]["side_px"] == {"median": 0.0, "p95": 0.0}
    assert figures["reported_recall_by_size"]["small"] == {"labelled": 7, "found": 7, "recall": 1.0}
    assert content["reference"] is None
    assert not entry.deltas


def test_swapped_names_are_wrong_in_every_figure(bundle: Path, tmp_path: Path) -> None:
    (entry,) = evaluate(bundle, write_set(tmp_path / "set", LEVELS, names=("WBC", "RBC"))).sets
    assert entry.bundle.coco.overall["ap"] == 0.0
    assert entry.bundle.estimates["sensitivity"].value == 0.0


def test_the_banks_own_thresholds_are_reported_from(tmp_path: Path) -> None:
    from tests.runtime.bundles import make_bank, make_folder, record

    classes = [{"label": "RBC", "phrases": ["a"], "threshold": 0.85}, {"label": "WBC", "phrases": ["b"]}]
    folder = make_folder(tmp_path / "bundle", make_bank(classes), engines=(record("fake"),))
    (entry,) = evaluate(folder, write_set(tmp_path / "set", LEVELS)).sets
    assert entry.bundle.thresholds == (0.85, 0.2)
    assert entry.bundle.as_json()["reported"]["missed"] == 3


def test_a_damaged_image_is_left_out_and_listed_or_stops(bundle: Path, tmp_path: Path) -> None:
    labels = write_set(tmp_path / "set", LEVELS)
    (tmp_path / "set" / "2.png").write_bytes(b"not a picture")
    report = evaluate(bundle, labels)
    assert len(report.sets[0].predictions.labelled.images) == 3
    assert report.unread[0].startswith("2.png: ")
    with pytest.raises(ImageError):
        evaluate(bundle, labels, strict=True)
    for number in (0, 1, 3):
        (tmp_path / "set" / f"{number}.png").write_bytes(b"")
    with pytest.raises(DataError, match="No image of the data set can be read"):
        evaluate(bundle, labels)


def test_a_category_that_no_class_covers_is_named(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no class for: polyp"):
        evaluate(bundle, write_set(tmp_path / "set", LEVELS, names=("RBC", "polyp")))


def test_sets_may_be_files(bundle: Path, tmp_path: Path) -> None:
    labels = write_set(tmp_path / "set", LEVELS)
    read = evaluate(bundle, labels).as_json()["sets"]
    for data in (labels, str(labels), [labels], read_detection_set(str(labels))):
        assert evaluate_bundle(bundle, data, device="fake", resamples=20).as_json()["sets"] == read


def test_against_pytorch_the_differences_are_paired(tiny_demo: TinyDemo) -> None:
    sets = sample_sets(tiny_demo.samples)
    report = evaluate_bundle(
        tiny_demo.report.out / "bundle", sets, checkpoint=tiny_demo.checkpoint, resamples=10, threads=1
    )
    assert not report.failed
    for entry in report.sets:
        assert entry.parity is not None
        assert entry.parity.kept == 1.0
        for name in ("ap50", "sensitivity"):
            delta = entry.deltas[name]
            assert delta.low <= 0.0 <= delta.high
    assert [table.title.partition(": ")[2] for table in tables(report)][3] == "bundle less PyTorch, paired"


def test_another_checkpoint_is_refused(bundle: Path, tiny_demo: TinyDemo, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not made from this checkpoint"):
        evaluate(bundle, write_set(tmp_path / "set", LEVELS), checkpoint=tiny_demo.checkpoint)


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_bundle(tmp_path_factory.mktemp("masked") / "bundle", postprocess=MASKED)


@pytest.mark.parametrize(("part", "ap50"), [(1.0, 1.0), (0.7, 1.0), (0.4, 0.0)])
def test_masks_are_measured_beside_boxes(masked: Path, tmp_path: Path, part: float, ap50: float) -> None:
    """Boxes are right in all cases; of each labelled quarter the upper part is the object's."""
    report = evaluate(masked, write_set(tmp_path / "set", LEVELS, part=part), masks=True)
    content = json.loads(json.dumps(report.as_json(), allow_nan=False))["sets"][0]["bundle"]
    assert content["coco"]["ap"] == pytest.approx(1.0)
    assert content["segm"]["ap50"] == content["estimates"]["segm_ap50"]["value"] == pytest.approx(ap50)
    assert content["segm_by_label"]["WBC"]["ap"] == pytest.approx(content["segm"]["ap"], abs=0.15)
    assert (content["segm"]["ap"] > 0.99) is (part == 1.0)
    values = {name: one["value"] for name, one in content["estimates"].items()}
    # From 0.2 on, the bundle also reports a quarter of RBC beside one that is labelled, and one of WBC where none is.
    # A quarter's mask lacks a few pixels at its inner corner, which the resize rounds.
    assert values["mask_iou/RBC"] == pytest.approx((part + part + part / 2) / 3, abs=0.01)
    assert values["dice/RBC"] == pytest.approx((2 * (2 * part / (1 + part)) + 2 * part / (2 + part)) / 3, abs=0.01)
    assert values["mask_iou/WBC"] == pytest.approx((part + part + 0) / 3, abs=0.01)
    assert [table.title.partition(": ")[2] for table in tables(report)][1] == "masks"


def test_figures_of_boxes_do_not_depend_on_masks(masked: Path, bundle: Path, tmp_path: Path) -> None:
    labels = write_set(tmp_path / "set", LEVELS, part=0.4)
    plain, other = (evaluate(one, labels).as_json()["sets"][0]["bundle"] for one in (bundle, masked))
    assert "segm" not in plain
    added = {"segm", "segm_by_label", "estimates"}
    assert {name: value for name, value in other.items() if name not in added} == {
        name: value for name, value in plain.items() if name not in added
    }
    assert {name: other["estimates"][name] for name in plain["estimates"]} == plain["estimates"]


def test_masks_that_are_demanded_and_not_there(masked: Path, bundle: Path, tmp_path: Path) -> None:
    boxes, outlined = write_set(tmp_path / "boxes", LEVELS), write_set(tmp_path / "set", LEVELS, part=1.0)
    with pytest.raises(InputError, match="bundle makes no masks"):
        evaluate(bundle, outlined, masks=True)
    with pytest.raises(DataError, match="labels have no masks"):
        evaluate(masked, boxes, masks=True)
    assert evaluate(masked, boxes).sets[0].bundle.segm is None
