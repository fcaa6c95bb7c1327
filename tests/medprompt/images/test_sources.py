"""A folder: what is analysed, what is passed over and said so, and nothing in it that makes a run hang."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medprompt.core.errors import ImageError
from medprompt.images.read import load_image
from medprompt.images.sources import find_sources
from medprompt.results.schema import Results
from medprompt.runtime.infer import infer
from tests.medprompt.dicom.made import write_dicom
from tests.runtime.bundles import make_folder, record

GREY = np.full((20, 30), 200, np.uint8)
HEADS = {
    "a.heic": b"\0\0\0\x1cftypheic\0\0\0\0mif1heic",
    "b.jxl": b"\xff\x0a",
    "c.mp4": b"\0\0\0\x1cftypisom",
    "clip": b"\x1a\x45\xdf\xa3",
    "d.bin": b"\x01\x02\0",
    "labels.txt": b"0 0.5 0.5 0.1 0.1\n",
    "cut.mov": b"",
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("made") / "bundle", engines=(record("fake"),))


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Images, DICOM under odd names, and much else."""
    folder = tmp_path / "study"
    folder.mkdir()
    for name in ("one.png", "two.gif", "three.jp2", "four.pgm"):
        Image.fromarray(GREY).save(folder / name)
    for name in ("IM0001.v2", "study.1.2.3.MR", "1.2.840.7"):
        write_dicom(folder / name, GREY)
    (folder / "hidden").write_bytes((folder / "one.png").read_bytes())
    for name, head in HEADS.items():
        (folder / name).write_bytes(head)
    (folder / "loop").symlink_to(folder)
    (folder / "gone.png").symlink_to(folder / "nowhere")
    os.mkfifo(folder / "pipe.png")
    return folder


def test_a_folder_is_told_apart(study: Path) -> None:
    passed: dict[str, str] = {}
    found = find_sources([study], passed=lambda path, kind: passed.update({path.name: kind}))
    dicom = ["1.2.840.7", "IM0001.v2", "study.1.2.3.MR"]
    assert sorted(source.path.name for source in found) == sorted(
        [*dicom, "four.pgm", "one.png", "three.jp2", "two.gif"]
    )
    assert sorted(source.path.name for source in found if source.dicom) == dicom
    assert passed == {
        "a.heic": "HEIC",
        "b.jxl": "JPEG XL",
        "c.mp4": "video",
        "clip": "video",
        "cut.mov": "video",
        "d.bin": "other",
        "labels.txt": "text",
        "hidden": "PNG under another name",
        "loop": "link to a folder",
        "gone.png": "pipe, device or broken link",
        "pipe.png": "pipe, device or broken link",
    }


def test_a_run_counts_and_names_what_it_passed_over(bundle: Path, study: Path, tmp_path: Path) -> None:
    for number in range(7):
        (study / f"more{number}.heic").write_bytes(HEADS["a.heic"])
    with pytest.warns(UserWarning, match=r"not analysed: 8 HEIC \(a.heic, more0.heic, .*, …\), .*1 other") as said:
        run = infer(bundle, study, out=tmp_path / "r.json")
    assert "labels.txt" not in str(said[0].message)
    assert Counter(item.status for item in run.items) == {"OK": 7}
    results = Results.model_validate_json((tmp_path / "r.json").read_bytes())
    counts = {one.kind: one.count for one in results.passed_over}
    assert (counts["HEIC"], counts["text"], counts["video"], sum(counts.values())) == (8, 1, 3, 18)
    (heic,) = (one for one in results.passed_over if one.kind == "HEIC")
    assert heic.files == tuple(str(study / name) for name in ("a.heic", *(f"more{one}.heic" for one in range(4))))


def test_nothing_is_said_where_nothing_is_passed_over(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.fromarray(GREY).save(tmp_path / "in" / "x.png")
    (tmp_path / "in" / "notes.txt").write_text("text is not said")
    run = infer(bundle, tmp_path / "in")
    assert run.as_json()["passed_over"] == [{"kind": "text", "count": 1, "files": [str(tmp_path / "in" / "notes.txt")]}]
    assert infer(bundle, tmp_path / "in" / "x.png").as_json()["passed_over"] == []


def test_a_folder_without_images_says_what_it_holds(tmp_path: Path) -> None:
    for name in ("a.heic", "c.mp4"):
        (tmp_path / name).write_bytes(HEADS[name])
    with pytest.raises(ImageError) as caught:
        find_sources([tmp_path])
    assert caught.value.got == "1 HEIC, 1 video"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_said(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "x.png")
    (tmp_path / "closed").mkdir(mode=0)
    passed = {}
    find_sources([tmp_path], passed=lambda path, kind: passed.update({path.name: kind}))
    (tmp_path / "closed").chmod(0o700)
    assert passed == {"closed": "unreadable"}


def test_a_video_of_any_name_is_one(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "clip.bin").write_bytes(HEADS["c.mp4"] + bytes(100))
    (source,) = find_sources([tmp_path / "clip.bin"])
    assert source.video
    with pytest.raises(ImageError, match="The video cannot be read"):
        infer(bundle, tmp_path / "clip.bin")
    with pytest.raises(ImageError, match="The image cannot be read") as caught:
        load_image(tmp_path / "clip.bin")
    assert (caught.value.code, caught.value.got) == ("not_an_image", "video")


@pytest.mark.parametrize("name", ["pipe", "/dev/zero"])
def test_a_pipe_or_device_does_not_hang(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "pipe":
        os.mkfifo(path)
    with pytest.raises(ImageError, match="not a regular file") as caught:
        load_image(path)
    assert caught.value.code is None


def test_a_name_that_is_no_text_does_not_end_the_run(bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    Image.fromarray(GREY).save(tmp_path / "x.png")
    (tmp_path / "x.png").rename(os.fsdecode(os.fsencode(folder) + b"/odd\xff.png"))
    words = ["infer", str(bundle), str(folder), "--out", str(tmp_path / "r.json"), "--csv", str(tmp_path / "r.csv")]
    words += ["--coco", str(tmp_path / "c.json")]
    done = subprocess.run([sys.executable, "-m", "medprompt", *words], capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "r.json").read_text())["items"][0]["file"] == str(folder) + "/odd\\udcff.png"
    assert Results.model_validate_json((tmp_path / "r.json").read_bytes()).items[0].status == "OK"
    assert "odd\\udcff.png" in (tmp_path / "r.csv").read_text()


def test_postscript_of_any_name_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called = tmp_path / "called"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "gs").write_text(f"#!/bin/sh\ntouch {called}\n")
    (tmp_path / "bin" / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    path = tmp_path / "x.jpg"
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n{ } loop\n")
    with pytest.raises(ImageError) as caught:
        load_image(path)
    assert (caught.value.code, caught.value.got) == ("not_an_image", "PostScript")
    assert not called.exists()


def test_a_circle_of_links_and_a_long_name_do_not_end_the_run(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "in" / f"{'x' * 250}.png")
    (tmp_path / "in" / "loop.png").symlink_to("loop.png")
    with pytest.warns(UserWarning, match="broken link"):
        run = infer(bundle, tmp_path / "in", out=tmp_path / "r.json", overlays=tmp_path / "seen")
    assert [item.status for item in run.items] == ["OK_WITH_WARNINGS"]
    assert run.items[0].overlay
    assert run.items[0].overlay.is_file()


@pytest.mark.parametrize(
    "words", [["infer", "BUNDLE", f"{'x' * 300}.png"], ["verify", "x" * 300], ["import", "x" * 300]]
)
def test_a_path_that_the_system_refuses_is_an_error_of_ours(
    words: list[str], bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from medprompt.cli import main

    given = [str(bundle) if word == "BUNDLE" else word for word in words]
    monkeypatch.setattr(
        sys, "argv", ["medprompt", *given, *(["--out", str(tmp_path / "o")] if words[0] == "import" else [])]
    )
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "too long" in capsys.readouterr().err
