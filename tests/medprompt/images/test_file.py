"""A file is opened once to be looked into and once to be analysed; its hash is of the bytes that were decoded."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.uid import MultiFrameGrayscaleByteSecondaryCaptureImageStorage

from medprompt.core.errors import ImageError
from medprompt.images import file as module
from medprompt.images.file import ImageFile
from medprompt.images.read import load_image
from medprompt.runtime import Detector
from medprompt.runtime.batch import infer_images
from tests.medprompt.dicom.made import write_dicom
from tests.runtime.bundles import make_folder, record

GREY = np.full((20, 30), 240, np.uint8)
UIDS = {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.4"}
CINE = {**UIDS, "SOPClassUID": MultiFrameGrayscaleByteSecondaryCaptureImageStorage, "NumberOfFrames": 3}

COUNTED = """
import sys
def hook(event, args):
    if event == "open" and str(args[0]).startswith({folder!r}):
        print("opened", args[0], file=sys.stderr)
sys.addaudithook(hook)
from medprompt.cli import main
sys.argv = ["medprompt", "infer", *{words!r}]
main()
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("made") / "bundle", engines=(record("fake"),))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two JPEG files, a PNG and three DICOM files: one of three frames, one without a suffix."""
    folder = tmp_path_factory.mktemp("study")
    for name in ("a.jpg", "b.jpeg", "c.png"):
        Image.new("RGB", (30, 20), "white").save(folder / name)
    write_dicom(folder / "cine.dcm", np.stack([GREY] * 3), **CINE)
    write_dicom(folder / "still.dcm", GREY, **UIDS)
    write_dicom(folder / "IM0001", GREY, **UIDS)
    return folder


@pytest.mark.parametrize("reports", [False, True], ids=["plain", "reports"])
@pytest.mark.parametrize("given", ["the folder", "its files"])
def test_the_command_opens_each_file_twice(
    bundle: Path, study: Path, tmp_path: Path, given: str, reports: bool
) -> None:
    paths = [study] if given == "the folder" else sorted(study.iterdir())
    words = [str(bundle), *map(str, paths), "--out", str(tmp_path / "r.json"), "--overlays", str(tmp_path / "o")]
    words += ["--sr", str(tmp_path / "sr")] if reports else []
    code = COUNTED.format(folder=str(study) + "/", words=words)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    opened = Counter(line.split()[-1] for line in done.stderr.splitlines() if line.startswith("opened "))
    assert opened == {str(path): 2 for path in study.iterdir()}
    items = json.loads((tmp_path / "r.json").read_text())["items"]
    assert len(items) == 8
    assert all(item["sha256"] == hashlib.sha256(Path(item["file"]).read_bytes()).hexdigest() for item in items)
    assert not reports or len(list((tmp_path / "sr").iterdir())) == 5


def test_the_hash_is_of_the_bytes_that_were_decoded(bundle: Path, study: Path, tmp_path: Path) -> None:
    """Also where the file is overwritten in place right after it was read."""
    path = tmp_path / "x.dcm"
    content = (study / "cine.dcm").read_bytes()
    path.write_bytes(content)
    with Detector.load(bundle) as detector:
        run = infer_images(detector, [path], on_file=lambda file: file.path.write_bytes(b"other"))
    assert [item.status for item in run.items] == ["OK"]
    assert run.items[0].sha256 == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("most", [0, module.MAX_HELD], ids=["on the disk", "in memory"])
@pytest.mark.parametrize("name", ["a.jpg", "c.png", "cine.dcm"])
def test_a_large_file_is_read_where_it_lies(study: Path, monkeypatch: pytest.MonkeyPatch, name: str, most: int) -> None:
    monkeypatch.setattr(module, "MAX_HELD", most)
    path = study / name
    with ImageFile(path, hold=True) as file:
        assert (file.is_dicom, file.frames) == ((True, 3) if name == "cine.dcm" else (False, 1))
        assert file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        for frame in range(1, file.frames + 1):
            np.testing.assert_array_equal(file.picture(frame).pixels, load_image(path))
    assert file.stream.closed


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.png"):
        with pytest.raises(ImageError) as caught:
            ImageFile(path)
        assert (caught.value.code, caught.value.where) == (None, str(path))
