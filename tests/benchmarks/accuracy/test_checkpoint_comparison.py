"""AP and decisions of a bundle against PyTorch."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from medprompt.benchmarks.accuracy.checkpoint_comparison import COLUMNS, AccuracyReport, compare_accuracy, short_name
from medprompt.benchmarks.demo import sample_sets
from medprompt.core.errors import DataError
from tests.benchmarks.conftest import TinyDemo


def test_every_set_is_asked_for_its_own_classes(tiny_demo: TinyDemo) -> None:
    report = tiny_demo.report.accuracy
    assert [(entry.labels, entry.images, entry.boxes) for entry in report.sets] == [
        (("RBC", "WBC"), 2, 4),
        (("nucleus",), 1, 1),
    ]
    assert report.passed
    for entry in report.sets:
        assert entry.parity.decisions > 0
        assert entry.parity.kept == 1.0
        assert abs(entry.delta_ap) <= 0.001
        assert len(entry.row()) == len(COLUMNS)
    assert json.loads(json.dumps(report.as_json()))["passed"] is True


def test_one_failed_set_fails_the_report(tiny_demo: TinyDemo) -> None:
    report = tiny_demo.report.accuracy
    first = report.sets[0]
    failed = replace(first, parity=first.parity.model_copy(update={"passed": False}))
    changed: AccuracyReport = replace(report, sets=(failed, *report.sets[1:]))
    assert not changed.passed
    assert failed.row()[-1] == "FAILED"


def test_a_category_without_a_class_is_refused(tiny_demo: TinyDemo) -> None:
    (smear, _) = sample_sets(tiny_demo.samples)
    odd = replace(smear, labels=("RBC", "polyp"))
    with pytest.raises(DataError, match="no class of the prompts covers"):
        compare_accuracy(tiny_demo.report.out / "bundle", tiny_demo.checkpoint, [odd])


@pytest.mark.parametrize(
    "name, short",
    [
        ("/a/b/nuclei/val.json", "nuclei/val"),
        ("data/bccd:val", "data/bccd:val"),
        ("labels.json", "labels"),
    ],
)
def test_short_name(name: str, short: str) -> None:
    assert short_name(name) == short
