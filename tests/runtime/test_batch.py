"""Many files: what cannot be read is reported, the rest goes on, and pictures never overwrite each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medprompt.core.errors import InputError
from medprompt.core.progress import Silent
from medprompt.results.run import Run
from medprompt.runtime import Detector
from medprompt.runtime.batch import infer_images
from tests.runtime.bundles import make_folder, record


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("made") / "bundle", engines=(record("fake"),))


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (30, 20), "white").save(tmp_path / "a" / "one.png")
    (tmp_path / "a" / "torn.png").write_bytes((tmp_path / "a" / "one.png").read_bytes()[:40])
    Image.new("RGB", (30, 20), "black").save(tmp_path / "b" / "one.png")
    return [
        tmp_path / "a" / "one.png",
        tmp_path / "a" / "torn.png",
        tmp_path / "b" / "one.png",
        tmp_path / "absent.png",
    ]


class Counting(Silent):
    def __init__(self) -> None:
        self.seen: list[object] = []

    def step(self, name: str, total: int | None = None) -> None:
        self.seen.append((name, total))

    def advance(self, count: int = 1) -> None:
        self.seen.append(count)


def infer(folder: Path, files: list[Path], overlays: Path | None = None) -> Run:
    with Detector.load(folder) as detector:
        return infer_images(detector, files, overlays)


def test_a_bad_file_does_not_end_the_run(folder: Path, files: list[Path]) -> None:
    run = infer(folder, files)
    assert [item.status for item in run.items] == ["OK_WITH_WARNINGS", "REJECTED", "OK_WITH_WARNINGS", "ERROR"]
    assert [item.counts() for item in run.items] == ["2 RBC, 2 WBC", "not known", "none", "not known"]
    assert [item.path for item in run.failed] == [files[1], files[3]]
    assert "cannot be read" in run.failed[0].error
    assert [item.code for item in run.failed] == ["damaged", None]
    assert [len(item.sha256) for item in run.items] == [64, 64, 64, 0]
    assert (run.engine, run.labels, run.thresholds) == ("fake", ("RBC", "WBC"), pytest.approx((0.2, 0.2)))
    assert len(run.bundle_sha256) == len(run.bank_sha256) == 64
    assert run.intended_use == "Research use only, not for diagnosis."


def test_progress_is_told(folder: Path, files: list[Path]) -> None:
    progress = Counting()
    with Detector.load(folder) as detector:
        infer_images(detector, files, progress=progress)
    assert progress.seen == [("detect", 4), 1, 1, 1, 1]


def test_no_files_are_an_empty_run(folder: Path) -> None:
    assert infer(folder, []).items == ()


def test_overlays_of_one_name_do_not_overwrite_each_other(folder: Path, files: list[Path], tmp_path: Path) -> None:
    run = infer(folder, files, tmp_path / "out")
    assert [item.overlay and item.overlay.name for item in run.items] == ["one.png", None, "one-2.png", None]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["one-2.png", "one.png"]
    with Image.open(tmp_path / "out" / "one-2.png") as dark:
        assert np.asarray(dark).max() == 0


def test_an_unwritable_overlay_ends_the_run(folder: Path, files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        infer(folder, files, tmp_path / "file")


def test_nan_on_one_image_is_reported_for_that_image(
    folder: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from medprompt.runtime.engines.fake import Fake

    whole = Fake.run

    def broken(self: Fake, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = whole(self, feeds)
        if feeds["image"].max() == 0:
            outputs["scores"][:] = np.nan
        return outputs

    monkeypatch.setattr(Fake, "run", broken)
    run = infer(folder, [files[0], files[2]])
    assert [item.status for item in run.items] == ["OK_WITH_WARNINGS", "ERROR"]
    assert "NaN" in run.failed[0].error
