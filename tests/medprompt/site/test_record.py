"""Records: small, checked when read, of one bundle, and independent of thresholds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medprompt.bundles.attached import attach_report
from medprompt.bundles.load import load_bundle
from medprompt.core.detections import Detections
from medprompt.core.errors import BundleError, InputError
from medprompt.site.detector_statistics import detector_columns, detector_statistics
from medprompt.site.record import MAX_IMAGES, prompts_sha256, read_record, record_of_bundle, write_record
from tests.medprompt.site.records import bundle_with, drawn_record
from tests.runtime.bundles import make_bank, make_folder


def test_a_full_record_is_small_and_comes_back(tmp_path: Path) -> None:
    found = drawn_record(MAX_IMAGES)
    write_record(tmp_path / "site.json", found)
    assert read_record(tmp_path / "site.json") == found
    assert (tmp_path / "site.json").stat().st_size < 100_000


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content.update(rows=[]),
        lambda content: content.update(kind="site"),
        lambda content: content.update(schema_version=2),
        lambda content: content["rows"][3].pop(),
        lambda content: content["rows"][3].__setitem__(0, float("nan")),
        lambda content: content.pop("threshold"),
    ],
)
def test_a_damaged_record_is_refused(tmp_path: Path, damage: Callable[[dict[str, Any]], object]) -> None:
    path = tmp_path / "site.json"
    write_record(path, drawn_record())
    content = json.loads(path.read_text())
    damage(content)
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="no record of images"):
        read_record(path)


def test_the_bundles_own_record_comes_before_an_attached_one(tmp_path: Path) -> None:
    own = bundle_with(tmp_path / "own", drawn_record(40))
    later = drawn_record(30, bundle_sha256=own.sha256)
    write_record(tmp_path / "later.json", later)
    attach_report(own, tmp_path / "later.json")
    assert record_of_bundle(own) == drawn_record(40)


def test_a_record_is_attached_to_a_bundle_without(tmp_path: Path) -> None:
    bundle = load_bundle(make_folder(tmp_path / "bundle"))
    with pytest.raises(BundleError, match=r"--record site\.json, then medprompt bundle attach"):
        record_of_bundle(bundle)
    found = drawn_record(bundle_sha256=bundle.sha256)
    write_record(tmp_path / "site.json", found)
    attach_report(bundle, tmp_path / "site.json")
    assert record_of_bundle(bundle) == found
    shutil.copy(tmp_path / "site.json", tmp_path / "other.json")
    write_record(tmp_path / "other.json", drawn_record(bundle_sha256="0" * 64))
    with pytest.raises(InputError, match="another bundle"):
        attach_report(bundle, tmp_path / "other.json")


def test_prompts_are_the_same_under_other_thresholds_alone() -> None:
    classes: list[dict[str, Any]] = [{"label": "RBC", "phrases": ["a", "b"]}, {"label": "WBC", "phrases": ["c"]}]
    before = prompts_sha256(make_bank(classes))
    assert prompts_sha256(make_bank([{**classes[0], "threshold": 0.7}, classes[1]])) == before
    assert prompts_sha256(make_bank([classes[0], {"label": "WBC", "phrases": ["d"]}])) != before


def found_at(scores: list[float], class_ids: list[int], labels: tuple[str, ...] = ("RBC", "WBC")) -> Detections:
    boxes = np.array([[0, 0, 10 + 10 * i, 10 + 10 * i] for i in range(len(scores))], np.float32).reshape(-1, 4)
    ids = np.array(class_ids, np.int64)
    return Detections(boxes, np.array(scores, np.float32), ids, ids, labels, labels, (50, 60))


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (found_at([0.9, 0.25, 0.12, 0.01], [0, 1, 1, 0]), [0.9, 1.28, 2, 2, 0.575, 15, 1, 1]),
        (found_at([0.1, 0.05], [0, 1]), [0.1, 0.15, 0, 1, 0, 0, 0, 0]),
        (found_at([], []), [0] * 8),
    ],
)
def test_figures_of_detections(found: Detections, expected: list[float]) -> None:
    assert detector_statistics(found, 0.2) == pytest.approx(expected, abs=1e-6)
    assert len(detector_columns(found.labels)) == len(expected)


def test_classes_are_counted_one_by_one_up_to_a_dozen() -> None:
    many = tuple(f"class {number}" for number in range(13))
    for labels, columns in ((many, 6), (many[:12], 18), (many[:1], 6)):
        assert len(detector_columns(labels)) == columns
        assert len(detector_statistics(found_at([0.9], [0], labels), 0.2)) == columns
