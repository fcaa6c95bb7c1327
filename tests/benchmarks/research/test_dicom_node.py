"""The trial of the DICOM node: what it counts as lost, twice or faulty, and that it goes on where it was stopped."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from medprompt.benchmarks.research import dicom_node
from medprompt.benchmarks.research.dicom_node import PROGRAMS, Progress, judged, trial
from medprompt.bundles.load import Bundle
from tests.runtime.serving.conftest import bundle as serving_bundle

bundle = serving_bundle  # a fixture

SR, SC = "Comprehensive SR Storage", "Secondary Capture Image Storage"


def rows(*objects: tuple[str, str]) -> list[dict[str, str]]:
    return [
        {"study": study, "class": kind, "sop": str(index), "file": f"{kind}{index}"}
        for index, (study, kind) in enumerate(objects)
    ]


GOOD = rows(("a", SR), ("a", SC), ("b", SR), ("b", SC))


@pytest.mark.parametrize(
    ("archive", "faulty", "passed"),
    [
        (GOOD, "", True),
        (GOOD[:2], "", False),  # a study is lost
        (GOOD[:3], "", False),  # a picture is lost
        ([*GOOD, *rows(("b", SR))], "", False),  # a report twice
        ([*GOOD, *rows(("c", SR), ("c", SC))], "", False),  # of a study that nobody sent
        (GOOD, SC, False),
    ],
)
def test_what_passes(archive: Any, faulty: str, passed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicom_node, "faults", lambda file: ["Error - x"] if faulty and file.startswith(faulty) else [])
    assert judged(archive, 2)["passed"] is passed


def test_a_folder_of_anything_else_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(SystemExit, match="no trial"):
        Progress.of(tmp_path, 2, 0)
    assert [one.name for one in tmp_path.iterdir()] == ["mine.txt"]


def test_another_trial_is_not_gone_on_with(tmp_path: Path) -> None:
    Progress(Progress.of(tmp_path, 5, 1).file, 5, 1, pushed=3).save()
    assert Progress.of(tmp_path, 5, 1).pushed == 3
    with pytest.raises(SystemExit, match="5 studies"):
        Progress.of(tmp_path, 6, 1)


@pytest.mark.slow
@pytest.mark.skipif(not all(map(shutil.which, PROGRAMS)), reason=f"needs {', '.join(PROGRAMS)}")
def test_each_study_has_its_objects_once_though_node_and_trial_are_stopped(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dicom_node, "KILL_EVERY", 2)
    (tmp_path / "images").mkdir()
    Image.new("RGB", (60, 40), (90, 60, 80)).save(tmp_path / "images/a.png")
    given = (bundle.path, tmp_path / "images", tmp_path / "work", 4, 1)
    assert trial(*given, seconds=0.1) is None
    result = trial(*given)
    assert result
    assert (result["passed"], result["killed"], result["objects"]) == (True, 1, 12)
