"""Items of results, and the reports that are made of them: shared by the tests of reports."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset

from medprompt.core.detections import Detections
from medprompt.core.masks import Masks
from medprompt.prompts.schema import Code
from medprompt.reports.files import write_reports
from medprompt.reports.source import report_source
from medprompt.results.run import Item, Run

WHEN = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
LATER = datetime(2026, 3, 4, 5, 6, 8, tzinfo=UTC)
BRIGHT = np.full((20, 30), 250, np.uint8)
UIDS = {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.4"}
PATIENT = {"PatientName": "Zzyzx^Quimby", "PatientID": "ZZYZX-1", "PatientBirthDate": "19700102", "PatientSex": "O"}
STUDY = {"StudyDate": "20260301", "StudyTime": "101112", "StudyID": "S1", "AccessionNumber": "A1"}
WHOLE = {**UIDS, **PATIENT, **STUDY, "ReferringPhysicianName": "Doe^Jo", "InstanceNumber": 7}
BLOOD_CELL = Code(scheme="SCT", value="41898006", meaning="Erythrocyte")
WSI = "1.2.840.10008.5.1.4.1.1.77.1.6"
LABELS = ("RBC", "cellule à étudier")


def found(boxes: list[list[float]], size_hw: tuple[int, int] = (20, 30)) -> Detections:
    """Detections of the two classes in turn."""
    count = len(boxes)
    ids = np.arange(count, dtype=np.int64) % 2
    scores = np.linspace(0.9, 0.123456, count, dtype=np.float32)
    array = np.array(boxes, dtype=np.float32).reshape(count, 4)
    return Detections(array, scores, ids, ids, LABELS, ("red cell", "white cell"), size_hw)


def run_of(*items: Item, **changes: Any) -> Run:
    run = Run(items, LABELS, "b" * 64, "c" * 64, "fake", "asked for", thresholds=(0.2, 0.05))
    run = replace(run, intended_use="Research use only.", codes=(BLOOD_CELL, None), versions=(("medprompt", "1.2"),))
    return replace(run, **changes)


def item_of(path: Path, detections: Detections | None, **changes: Any) -> Item:
    return replace(Item(path, detections, sha256=report_source(path).sha256, dicom={"frame": 1}), **changes)


def written(item: Item, folder: Path, when: datetime = WHEN, **changes: Any) -> Path:
    (path,) = write_reports(run_of(item, **changes), folder, when=when).written
    return path


def texts(path: Path) -> list[str]:
    """All text values of the content tree."""

    def walk(node: Dataset) -> list[str]:
        inner = [text for child in node.get("ContentSequence", []) for text in walk(child)]
        return [*([node.TextValue] if "TextValue" in node else []), *inner]

    return walk(dcmread(path))


def masked(count: int, size_hw: tuple[int, int] = (20, 30), seed: int = 0) -> Detections:
    """Detections whose masks are noise, so that they overlap, and no bit can be moved without being seen."""
    noise = np.random.default_rng(seed).random((count, *size_hw)) > 0.6
    return replace(found([[1, 2, 11, 12]] * count, size_hw), masks=Masks.of(noise))
