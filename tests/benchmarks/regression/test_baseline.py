"""Baselines and limits as files: exact on the way back, and clear about what is wrong with them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medprompt.benchmarks.regression.baseline import (
    Baseline,
    BaselineLatency,
    BaselineSet,
    current_environment,
    detections_of_baseline,
    hash_of_set,
    read_baseline,
    set_for_baseline,
    write_baseline,
)
from medprompt.benchmarks.regression.limits import Limits, read_limits
from medprompt.benchmarks.regression.reference_workload import REFERENCE_WORKLOAD
from medprompt.core.errors import InputError
from medprompt.core.masks import Masks
from tests.medprompt.metrics.cases import random_set


def baseline() -> Baseline:
    truth, answers = random_set(1)
    return Baseline(
        created="2026-01-31T00:00:00Z",
        reason="first",
        environment=current_environment("fake", 1),
        bundle_sha256="0" * 64,
        bank_sha256="1" * 64,
        bundle_bytes=10,
        peak_mib=100.0,
        min_score=0.05,
        sets=(set_for_baseline(truth, answers),),
        latency=BaselineLatency(reference=REFERENCE_WORKLOAD, repeats=3, ratios=(0.5, 0.6)),
    )


def test_detections_come_back_to_the_last_bit(tmp_path: Path) -> None:
    truth, answers = random_set(1)
    write_baseline(baseline(), tmp_path / "b.json")
    again = read_baseline(tmp_path / "b.json")
    assert again == baseline()
    for before, after in zip(answers, detections_of_baseline(again.sets[0], truth), strict=True):
        assert np.array_equal(before.boxes_xyxy, after.boxes_xyxy)
        assert np.array_equal(before.scores, after.scores)
        assert np.array_equal(before.class_ids, after.class_ids)
        assert (before.labels, before.size_hw) == (after.labels, after.size_hw)


def test_a_baseline_with_the_keys_of_0_1_is_read(tmp_path: Path) -> None:
    text = baseline().model_dump_json()
    for old, new in (("place", "environment"), ("least_score", "min_score"), ("rival", "reference")):
        assert f'"{new}":' in text
        text = text.replace(f'"{new}":', f'"{old}":')
    (tmp_path / "b.json").write_text(text.replace("reference workload", "yardstick"))
    assert read_baseline(tmp_path / "b.json") == baseline()


def test_changed_data_is_refused() -> None:
    truth, _ = random_set(1)
    for changed in (
        replace(truth, labels=("WBC", "RBC")),
        replace(truth, images=truth.images[:-1]),
        replace(truth, images=tuple(replace(one, boxes_xyxy=one.boxes_xyxy + 1) for one in truth.images)),
    ):
        assert hash_of_set(changed) != hash_of_set(truth)
        with pytest.raises(InputError, match="not the one that the baseline was measured on"):
            detections_of_baseline(baseline().sets[0], changed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[: len(text) // 2], "cannot be read"),
        (lambda text: "", "cannot be read"),
        (lambda text: "[]", "damaged"),
        (lambda text: text.replace('"schema_version": 2', '"schema_version": 1'), "schema version 1, expected 2"),
        (lambda text: text.replace('"bundle_bytes"', '"bytes"'), "damaged"),
        (lambda text: text.replace('"latency"', '"latency_of_old"'), "damaged"),
        (lambda text: text.replace('"peak_mib": 100.0,', ""), "damaged"),
        (lambda text: text.replace('"repeats": 3', '"repeats": null'), "damaged"),
    ],
)
def test_a_damaged_baseline_is_told(change: object, message: str, tmp_path: Path) -> None:
    write_baseline(baseline(), tmp_path / "b.json")
    (tmp_path / "b.json").write_text(change((tmp_path / "b.json").read_text()))  # type: ignore[operator]
    with pytest.raises(InputError, match=message):
        read_baseline(tmp_path / "b.json")


def test_a_missing_baseline_says_how_to_write_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--update-baseline"):
        read_baseline(tmp_path / "none.json")


def test_boxes_that_are_no_detections_are_told() -> None:
    truth, _ = random_set(1)
    kept = baseline().sets[0]
    index = next(n for n, one in enumerate(kept.images) if one.scores)
    images = list(kept.images)
    images[index] = images[index].model_copy(update={"class_ids": (9,) * len(images[index].scores)})
    with pytest.raises(InputError, match="damaged"):
        detections_of_baseline(kept.model_copy(update={"images": tuple(images)}), truth)


def test_versions_that_changed_are_listed() -> None:
    here = current_environment("fake", 1)
    then = here.model_copy(update={"libraries": {**here.libraries, "numpy": "1.0"}})
    assert then.changed_libraries(here) == (f"numpy 1.0 → {np.__version__}",)
    assert json.loads(here.model_dump_json())["device"] == "fake"


def test_limits(tmp_path: Path) -> None:
    path = tmp_path / "limits.toml"
    assert read_limits(None) == Limits()
    path.write_text("ap50_drop = 0.02\n")
    assert read_limits(path) == Limits(ap50_drop=0.02)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ap50 = 0.1", "ap50"),
        ("ap50_drop = 2", "ap50_drop"),
        ("latency_ratio = 0.9", "latency_ratio"),
        ("latency_ratio = nan", "latency_ratio"),
        ("ap50_drop =", "cannot be read"),
    ],
)
def test_limits_that_cannot_be_used(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "limits.toml").write_text(text)
    with pytest.raises(InputError, match=message):
        read_limits(tmp_path / "limits.toml")
    with pytest.raises(InputError, match="cannot be read"):
        read_limits(tmp_path / "none.toml")


def test_masks_come_back_and_damaged_ones_are_told() -> None:
    truth, answers = random_set(1, images=2, most=3)
    pixels = np.arange(400 * 400).reshape(400, 400) % 7 == 0
    answers = [replace(one, masks=Masks.of(np.repeat(pixels[None], len(one), axis=0))) for one in answers]
    kept = set_for_baseline(truth, answers)
    again = detections_of_baseline(BaselineSet.model_validate_json(kept.model_dump_json()), truth)
    assert [one.masks for one in again] == [one.masks for one in answers]
    assert all(one.masks is None for one in baseline().sets[0].images)
    damaged = [one.model_copy(update={"masks": ("04",) * len(one.scores)}) for one in kept.images]
    with pytest.raises(InputError, match="damaged"):
        detections_of_baseline(kept.model_copy(update={"images": tuple(damaged)}), truth)
