"""Names of sets, and the classes that a bank has for them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from medprompt.benchmarks.accuracy.predictions import own_labels, short_name
from medprompt.benchmarks.demo import sample_sets
from medprompt.bundles.load import load_bundle
from medprompt.core.errors import DataError
from tests.benchmarks.conftest import TinyDemo


def test_a_category_without_a_class_is_refused(tiny_demo: TinyDemo) -> None:
    (smear, _) = sample_sets(tiny_demo.samples)
    bank = load_bundle(tiny_demo.report.out / "bundle").bank
    assert own_labels(bank, replace(smear, labels=("wbc", "rbc"))) == ["RBC", "WBC"]
    with pytest.raises(DataError, match="no class of the prompts covers"):
        own_labels(bank, replace(smear, labels=("RBC", "polyp")))


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
