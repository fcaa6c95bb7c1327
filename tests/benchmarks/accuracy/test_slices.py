"""Figures by what is known about images: a slice is the set of its images alone, and spacings make millimetres."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medprompt.benchmarks.accuracy.evaluation import EvaluationReport, SetResult, SideResult
from medprompt.benchmarks.accuracy.predictions import Predictions
from medprompt.benchmarks.accuracy.slices import metadata_from_csv, slices_of_report, slices_table
from medprompt.core.detections import Detections
from medprompt.core.errors import DataError
from medprompt.data import DetectionSet, LabelledImage
from medprompt.metrics.bootstrap import MatchedSet, draw_images

BOX = np.array([[10.0, 10.0, 30.0, 30.0]], dtype=np.float32)


def found(shift: float | None) -> Detections:
    """One detection beside the label by so many pixels to the right; none where None."""
    boxes = BOX[:0] if shift is None else BOX + np.array([shift, 0, shift, 0], dtype=np.float32)
    one = np.zeros(len(boxes), dtype=np.int64)
    return Detections(boxes, np.full(len(boxes), 0.9, np.float32), one, one, ("polyp",), ("polyp",), (50, 50))


def report_of(shifts: list[float | None], reference: bool = False) -> EvaluationReport:
    images = tuple(
        LabelledImage(Path(f"{number}.png"), (50, 50), BOX, np.zeros(1, dtype=np.int64))
        for number in range(len(shifts))
    )
    labelled = DetectionSet("colon", ("polyp",), images)
    answers = tuple(map(found, shifts))
    draws = draw_images(len(images), 50, 0)
    matched = MatchedSet(labelled, answers)
    side = SideResult(None, matched.at_half, matched.resample(draws), (0.5,))  # type: ignore[arg-type]
    entry = SetResult(Predictions(labelled, answers, answers if reference else ()), side, side if reference else None)
    return EvaluationReport((entry,), "fake", "", "", 50, 0, {})


def table_of(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "meta.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_each_value_is_measured_alone(tmp_path: Path) -> None:
    metadata = metadata_from_csv(table_of(tmp_path, "file,site\n0.png,A\n1.png,A\n2.png,B\n3.png,\n"))
    parts = slices_of_report(report_of([0.0, 2.0, None, 0.0], reference=True), metadata)
    assert [(part.field, part.value, part.images, part.ap50.value) for part in parts] == [
        ("site", "", 1, pytest.approx(1.0)),
        ("site", "A", 2, pytest.approx(1.0)),
        ("site", "B", 1, pytest.approx(0.0)),
    ]
    assert all(part.delta_ap is not None and part.delta_ap.value == 0 for part in parts)
    assert all(part.centre_mm is None for part in parts)
    assert len(slices_table(parts).rows[0]) == len(slices_table(parts).columns)
    assert parts[1].as_json()["ap50"]["value"] == pytest.approx(1.0)


def test_shifts_are_in_millimetres_of_each_images_own_spacing(tmp_path: Path) -> None:
    metadata = metadata_from_csv(table_of(tmp_path, "file,spacing_mm\n0.png,0.5\n1.png,0.25\n2.png,\n"))
    (whole,) = slices_of_report(report_of([4.0, 4.0, 1.0]), metadata)
    assert (whole.field, whole.images, whole.delta_ap) == ("all", 3, None)
    assert whole.centre_mm == pytest.approx(1.5)  # 4 px at 0.5 and at 0.25; the third has no spacing


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no files"),
        ("name,site\n0.png,A\n", "names no files"),
        ("file,site\n0.png,A\n0.png,B\n", "twice"),
        ("file,spacing_mm\n0.png,wide\n", "spacing is not valid"),
        ("file,spacing_mm\n0.png,0\n", "spacing is not valid"),
        ("file,spacing_mm\n0.png,nan\n", "spacing is not valid"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        metadata_from_csv(table_of(tmp_path, text))


def test_an_image_without_a_row_is_named(tmp_path: Path) -> None:
    metadata = metadata_from_csv(table_of(tmp_path, "file,site\n0.png,A\n"))
    with pytest.raises(DataError, match=r"1: 1\.png"):
        slices_of_report(report_of([0.0, 0.0]), metadata)


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        metadata_from_csv(tmp_path / "absent.csv")
