"""An output never replaces an input, another output, or a file that is did not write it."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import medprompt
from medprompt.core.errors import InputError
from tests.runtime.bundles import make_folder, record


@pytest.fixture
def study(tmp_path: Path) -> Path:
    make_folder(tmp_path / "bundle", engines=(record("fake"),))
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.png", "c.jpg"):
        Image.fromarray(np.full((20, 30, 3), 200, np.uint8)).save(tmp_path / "in" / name)
    (tmp_path / "thesis.txt").write_text("years of work")
    (tmp_path / "film.mp4").write_bytes(b"frames")
    (tmp_path / "table.csv").write_text("file,frame,label\na.png,1,mine\n")
    (tmp_path / "labels.json").write_text('[{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 1}]')
    (tmp_path / "theirs").mkdir()
    shutil.copy(tmp_path / "in" / "a.png", tmp_path / "theirs" / "b.png")
    (tmp_path / "hard.png").hardlink_to(tmp_path / "in" / "a.png")
    (tmp_path / "soft.png").symlink_to(tmp_path / "in" / "a.png")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    return tmp_path


def files_of(folder: Path) -> dict[str, str]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


@pytest.mark.parametrize(
    ("images", "options", "said"),
    [
        (["in"], {"overlays": "in"}, "would replace inputs"),
        (["in/a.png"], {"overlays": "in"}, "would replace inputs"),
        (["in"], {"sr": "in"}, "would replace inputs|none of these is one"),
        (["in"], {"out": "in/a.png"}, "would replace inputs"),
        (["in"], {"csv": "in/../in/b.png"}, "would replace inputs"),
        (["in/b.png", "in/c.jpg"], {"out": "in/a.png"}, "did not write it"),  # what a shell makes of --out in/*.png
        (["in"], {"out": "thesis.txt"}, "did not write it"),
        (["in"], {"csv": "thesis.txt"}, "did not write it"),
        (["in"], {"coco": "thesis.txt"}, "did not write it"),
        (["in"], {"overlays": "in/deep/er"}, "would replace inputs"),
        (["in"], {"overlays": "link/pictures"}, "would replace inputs"),
        (["in"], {"overlays": "."}, "would replace inputs"),
        (["in"], {"out": "in/new.png"}, "would replace inputs"),
        (["in"], {"out": "in"}, "would replace inputs"),
        (["in"], {"csv": "hard.png"}, "would replace inputs"),
        (["in"], {"csv": "soft.png"}, "would replace inputs"),
        (["in"], {"out": "bundle/r.json"}, "would replace inputs"),
        (["in"], {"out": "bundle/manifest.json"}, "would replace inputs"),
        (["in"], {"out": "/dev/null"}, "did not write it"),
        (["in"], {"out": "film.mp4"}, "did not write it"),
        (["in"], {"overlays": "thesis.txt"}, "did not write it"),
        (["in"], {"overlays": "theirs"}, "did not write it"),
        (["in"], {"csv": "table.csv"}, "did not write it"),
        (["in"], {"coco": "labels.json"}, "did not write it"),
        (["in"], {"overlays": "p", "out": "p/a.png"}, "Two outputs are one"),
        (["in"], {"out": "r.json", "csv": "r.json"}, "Two outputs are one"),
        (["in"], {"out": "r.json", "coco": "./r.json"}, "Two outputs are one"),
    ],
)
def test_nothing_of_the_users_is_replaced(
    study: Path, monkeypatch: pytest.MonkeyPatch, images: list[str], options: dict[str, str], said: str
) -> None:
    monkeypatch.chdir(study)
    before = files_of(study)
    for leave in ({}, {"force": True}, {"force": True, "resume": "out" in options}):
        with pytest.raises(InputError, match=said):
            medprompt.infer("bundle", images, device="fake", **options, **leave)  # type: ignore[arg-type]
    assert files_of(study) == before


OUTPUTS = {"out": "in/r.json", "coco": "coco.json", "csv": "t.csv", "overlays": "pictures"}


def test_what_we_wrote_is_replaced_with_leave(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(study)
    run = medprompt.infer("bundle", ["in"], device="fake", **OUTPUTS)  # type: ignore[arg-type]
    (study / "pictures" / "note.txt").write_text("theirs")
    before = files_of(study)
    for name, path in OUTPUTS.items():
        with pytest.raises(InputError, match="exists already"):
            medprompt.infer("bundle", ["in"], device="fake", **{name: path})  # type: ignore[arg-type]
    assert files_of(study) == before
    again = medprompt.infer("bundle", ["in"], device="fake", force=True, **OUTPUTS)  # type: ignore[arg-type]
    assert [item.status for item in again.items] == [item.status for item in run.items] == ["OK", "OK", "OK"]
    assert files_of(study) == before


def test_resume_is_leave_for_its_own_run_alone(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(study)
    outputs = {"out": "r.json", "overlays": "pictures"}
    medprompt.infer("bundle", ["in"], device="fake", csv="t.csv", **outputs)  # type: ignore[arg-type]
    before = files_of(study)
    medprompt.infer("bundle", ["in"], device="fake", resume=True, **outputs)  # type: ignore[arg-type]
    assert files_of(study) == before
    with pytest.raises(InputError, match="exists already"):
        medprompt.infer("bundle", ["in"], device="fake", resume=True, csv="t.csv", **outputs)  # type: ignore[arg-type]


def test_resume_keeps_to_the_images_of_its_run(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(study)
    medprompt.infer("bundle", ["in"], device="fake", out="r.json")
    (study / "other").mkdir()
    one = next(path for path in (study / "in").iterdir() if path.suffix == ".png")
    shutil.copy(one, study / "other" / "x.png")
    before = (study / "r.json").read_bytes()
    with pytest.raises(InputError, match="of other images too"):
        medprompt.infer("bundle", ["other"], device="fake", out="r.json", resume=True)
    assert (study / "r.json").read_bytes() == before
    one.unlink()
    assert len(medprompt.infer("bundle", ["in"], device="fake", out="r.json", resume=True).items) == 2
    again = medprompt.infer("bundle", ["other"], device="fake", out="r.json", resume=True, force=True)
    assert len(again.items) == 1


def test_a_link_stays_one(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(study)
    (study / "r.json").symlink_to("elsewhere.json")
    medprompt.infer("bundle", ["in"], device="fake", out="r.json")
    assert (study / "r.json").is_symlink() and (study / "elsewhere.json").stat().st_size


def test_an_absent_image_among_others_is_an_error_of_its_own(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(study)
    run = medprompt.infer("bundle", ["in/a.png", "in/gone.png", "gone"], device="fake")
    assert [item.status for item in run.items] == ["OK", "ERROR", "ERROR"]
    with pytest.raises(InputError, match="does not exist"):
        medprompt.infer("bundle", ["in/gone.png", "gone"], device="fake")


def test_a_bundle_in_the_place_of_images_is_named(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(study)
    with pytest.raises(InputError, match="This is a bundle"):
        medprompt.infer("in", ["bundle"], device="fake")


def test_a_video_of_another_is_not_replaced(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    from medprompt.video.read import Frame
    from medprompt.video.write import ANNOTATED, AnnotatedVideo

    for suffix in (".mp4", ".webm"):
        ours, theirs = tmp_path / f"ours{suffix}", tmp_path / f"theirs{suffix}"
        with AnnotatedVideo(ours, 25.0) as video:
            video.add(Frame(1, 0.0, np.zeros((16, 16, 3), np.uint8)), None)
        with av.open(str(theirs), "w") as container:
            stream = container.add_stream("mpeg4" if suffix == ".mp4" else "libvpx", rate=25)
            stream.width = stream.height = 16
            stream.pix_fmt = "yuv420p"
            frame = av.VideoFrame(16, 16, "yuv420p")
            container.mux([*stream.encode(frame), *stream.encode(None)])
        assert (ANNOTATED.foreign(ours), ANNOTATED.foreign(theirs)) == ("", str(theirs))


def test_places_are_told_apart_where_case_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from medprompt.core import outputs

    assert outputs.place_of(tmp_path / "R.json") != outputs.place_of(tmp_path / "r.json")
    monkeypatch.setattr(outputs, "_ignores_case", lambda folder: True)
    assert outputs.place_of(tmp_path / "R.json") == outputs.place_of(tmp_path / "x" / ".." / "r.json")
    assert outputs.place_of(tmp_path / "\u00e9") == outputs.place_of(tmp_path / "e\u0301")
