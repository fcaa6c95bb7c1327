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
from tests.benchmarks.fakes import LEVELS, fake_bundle, write_set


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
