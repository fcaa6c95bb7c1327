"""A run that is killed loses little, and one that goes on ends with the same file as one that was left alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medprompt.core.errors import InputError
from medprompt.core.progress import Silent
from medprompt.core.tiling import Tiling
from medprompt.images.sources import Source
from medprompt.results.resume import previous_from_file
from medprompt.results.run import Run, write_results
from medprompt.runtime import Detector
from medprompt.runtime.batch import Saving, infer_images
from medprompt.runtime.strategies import BestPhrases, Prompting
from tests.runtime.bundles import make_bank, make_folder, record


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("made") / "bundle", engines=(record("fake"),))


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Five pictures that answer, one that is none and one that is not there."""
    rng = np.random.default_rng(3)
    paths = []
    for number in range(5):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(rng.integers(100, 256, (40, 60, 3), dtype=np.uint8)).save(paths[-1])
    (tmp_path / "text.png").write_text("no image")
    return [*paths[:2], tmp_path / "text.png", *paths[2:], tmp_path / "absent.png"]


class Seen(Silent):
    """Counts the images that are run."""

    def __init__(self) -> None:
        self.total: int | None = None

    def step(self, name: str, total: int | None = None) -> None:
        self.total = total


def infer(folder: Path, files: list[Path], out: Path, resume: bool = True, **options: Any) -> int | None:
    """Run as the command does; how many images were run."""
    load = {name: options.pop(name) for name in ("threshold", "prompts") if name in options}
    seen, previous = Seen(), previous_from_file(out) if resume else None
    with Detector.load(folder, **load) as detector:
        run = infer_images(detector, files, progress=seen, previous=previous, **options)
    write_results(run, out)
    return seen.total


class Killed(BaseException):
    pass


def killing_after(count: int) -> Iterator[None]:
    yield from [None] * count
    raise Killed


def done_again(count: int) -> tuple[int, int]:
    """Images that are run of seven where ``count`` were begun: the one in flight at the end may have been lost."""
    return 7 - count, min(7, 7 - count + 1)


def infer_until_killed(folder: Path, files: list[Path], out: Path, count: int) -> None:
    """Every image is saved, and the process dies at the one after ``count``."""
    fuse = killing_after(count)

    class Dying(Prompting):
        def steps(self, detector: Detector, path: Path, image_rgb: Any) -> Any:
            next(fuse)
            return super().steps(detector, path, image_rgb)

    saving = Saving(lambda run: write_results(run, out), every_s=0)
    with pytest.raises(Killed), Detector.load(folder) as detector:
        infer_images(detector, files, prompting=Dying(), saving=saving, previous=previous_from_file(out))


@pytest.mark.parametrize("count", [0, 1, 3, 4])
def test_resumed_is_the_same_as_undisturbed(folder: Path, files: list[Path], tmp_path: Path, count: int) -> None:
    undisturbed, disturbed = tmp_path / "u.json", tmp_path / "d.json"
    assert infer(folder, files, undisturbed) == 7
    infer_until_killed(folder, files, disturbed, count)
    assert disturbed.is_file() or count < 2
    if disturbed.is_file():
        assert json.loads(disturbed.read_text())["complete"] is False
    assert infer(folder, files, disturbed) in done_again(count)
    assert disturbed.read_bytes() == undisturbed.read_bytes()


def test_killed_twice(folder: Path, files: list[Path], tmp_path: Path) -> None:
    """The second death, at the first image that is new, loses nothing that the first had left."""
    out = tmp_path / "d.json"
    infer_until_killed(folder, files, out, 3)
    infer_until_killed(folder, files, out, 0)
    assert infer(folder, files, out) in done_again(3)


def test_what_is_done_is_not_done_again(folder: Path, files: list[Path], tmp_path: Path) -> None:
    """But what was rejected or failed is: another decoder may be there now."""
    out = tmp_path / "r.json"
    infer(folder, files, out)
    assert infer(folder, files, out) == 2
    assert infer(folder, files, out, resume=False) == 7


def test_content_counts_not_the_name(folder: Path, files: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    infer(folder, files, out)
    files[0].write_bytes(files[1].read_bytes())
    files[4] = files[4].rename(tmp_path / "moved.png")
    Image.new("RGB", (9, 9), "white").save(files[3])
    assert infer(folder, files, out) == 3
    items = json.loads(out.read_text())["items"]
    assert items[0]["detections"] == items[1]["detections"]
    assert (items[3]["size_hw"], items[4]["file"]) == ([9, 9], str(tmp_path / "moved.png"))


def test_means_that_differ_keep_nothing(folder: Path, files: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    infer(folder, files, out)
    assert infer(folder, files, out, threshold=0.5) == 7
    assert infer(folder, files, out, threshold=0.5) == 2
    assert infer(folder, files, out, prompts=make_bank([{"label": "X", "phrases": ["x"]}])) == 7
    assert infer(folder, files, out, prompting=BestPhrases(1)) == 7
    assert infer(folder, files, out, prompting=BestPhrases(1)) == 2


def change(out: Path, **fields: Any) -> None:
    out.write_text(json.dumps(json.loads(out.read_text()) | fields))


@pytest.mark.parametrize(
    ("name", "value"),
    [("bundle_sha256", "0" * 64), ("engine", "ort-cpu"), ("schema_version", 1), ("versions", {"medprompt": "0"})],
)
def test_it_is_told_what_differs(folder: Path, files: list[Path], tmp_path: Path, name: str, value: Any) -> None:
    out = tmp_path / "r.json"
    infer(folder, files, out)
    change(out, **{name: value})
    previous = previous_from_file(out)
    assert previous is not None
    with Detector.load(folder) as detector:
        assert len(infer_images(detector, files, previous=previous).items) == 7
    assert previous.differs == (name,)


def test_a_prompt_map_is_not_resumed(folder: Path, files: list[Path], tmp_path: Path) -> None:
    class Named(Prompting):
        @property
        def name(self) -> str:
            return "map"

    out = tmp_path / "r.json"
    for _ in range(2):
        assert infer(folder, files, out, prompting=Named()) == 7


def test_pictures_that_are_wanted_must_be_there(folder: Path, files: list[Path], tmp_path: Path) -> None:
    out, pictures = tmp_path / "r.json", tmp_path / "pictures"
    infer(folder, files, out)
    assert infer(folder, files, out, overlays=pictures) == 7
    assert infer(folder, files, out, overlays=pictures) == 2
    (pictures / "0.png").unlink()
    assert infer(folder, files, out, overlays=pictures) == 3
    assert (pictures / "0.png").exists()


def test_an_interruption_is_saved_at_once(folder: Path, files: list[Path]) -> None:
    saved: list[Run] = []
    fuse = iter([None, None])

    class Interrupted(Prompting):
        def steps(self, detector: Detector, path: Path, image_rgb: Any) -> Any:
            if next(fuse, "spent"):
                raise KeyboardInterrupt
            return super().steps(detector, path, image_rgb)

    with pytest.raises(KeyboardInterrupt), Detector.load(folder) as detector:
        infer_images(detector, files, prompting=Interrupted(), saving=Saving(saved.append, every_s=3600))
    assert [len(run.items) in (1, 2, 3) for run in saved] == [True]  # the one in flight is not waited for
    assert not saved[0].complete


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"schema_version": 2}',
        '{"schema_version": 2, "items": [{}]}',
        '{"schema_version": 2, "items": 7}',
    ],
)
def test_what_is_no_results_file(tmp_path: Path, content: str) -> None:
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(InputError, match="cannot be read"):
        previous_from_file(tmp_path / "r.json")


def test_no_results_yet_is_a_fresh_start(tmp_path: Path) -> None:
    assert previous_from_file(tmp_path / "r.json") is None


def test_a_file_of_an_earlier_version_is_continued() -> None:
    """``earlier.json`` was written by commit b235739; what is taken over of it must be written again to the letter."""
    path = Path(__file__).with_name("earlier.json")
    written, previous = json.loads(path.read_text()), previous_from_file(path)
    assert previous is not None
    run = Run(
        (),
        tuple(entry["label"] for entry in written["classes"]),
        written["bundle_sha256"],
        written["bank_sha256"],
        written["engine"],
        written["engine_reason"],
        thresholds=tuple(entry["threshold"] for entry in written["classes"]),
        tiling=Tiling(160),
        versions=tuple(written["versions"].items()),
    )
    assert previous.fits(run) and previous.differs == ()
    for row in written["items"]:
        item = previous.item(Source(Path(row["file"])), row["sha256"], None)
        taken = None if item is None else json.dumps(item.as_json())
        assert taken == (json.dumps(row) if row["status"] == "OK" else None)
    assert not previous.fits(replace(run, tiling=None)) and previous.differs == ("tiling",)
