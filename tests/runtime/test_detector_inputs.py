"""What a detector takes: paths, pictures, arrays, lists of them; DICOM frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medprompt.bundles.load import Bundle
from medprompt.core.errors import BankError, ImageError, InputError
from medprompt.runtime import Detector
from tests.medprompt.dicom.made import write_dicom
from tests.runtime.bundles import make_bundle, record
from tests.runtime.scripted import detector, image, script


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("made") / "bundle", engines=(record("fake"),))


def test_it_takes_what_is_an_image(bundle: Bundle, tmp_path: Path) -> None:
    pixels = image(20, 40, 200)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    with Detector.load(bundle) as detect:
        expected = detect(pixels)
        several = [tmp_path / "x.png", str(tmp_path / "x.png"), Image.fromarray(pixels), pixels]
        assert [detect(one) for one in several] == [expected] * 4
        assert detect(several) == [expected] * 4
        assert detect(tuple(several[:1])) == [expected]
        assert detect([]) == []
        assert detect(several, ["red cell", "white cell"])[0].phrases == ("red cell", "white cell")
        kept = [one.image_rgb is not None for one in detect(several)]
    assert kept == [True, True, True, False]
    assert expected.image_rgb is None


def test_a_list_is_read_and_asked_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medprompt.runtime.detector.AT_ONCE", 2)
    engine = script([(0.9, 0, 0)])
    found = detector(engine)([image(10, 10 + number) for number in range(5)])
    assert [one.size_hw for one in found] == [(10, 10 + number) for number in range(5)]
    assert [len(feeds["image"]) for feeds in engine.fed] == [2, 2, 1]


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "I;16", "CMYK"])
def test_a_picture_is_read_as_its_file_is(mode: str, tmp_path: Path) -> None:
    levels = np.arange(24, dtype=np.uint16).reshape(4, 6) * 2000
    drawn = Image.fromarray(levels) if mode == "I;16" else Image.fromarray((levels >> 8).astype(np.uint8)).convert(mode)
    name = tmp_path / ("x.tif" if mode == "CMYK" else "x.png")
    drawn.save(name)
    of_file, of_picture = detector(script([]))([name, drawn])
    assert of_file.image_rgb is not None and of_picture.image_rgb is not None
    np.testing.assert_array_equal(of_picture.image_rgb, of_file.image_rgb)


def test_a_picture_is_turned_upright() -> None:
    drawn = Image.new("RGB", (6, 4))
    drawn.getexif()[0x0112] = 6  # turned by a quarter
    assert detector(script([]))(drawn).size_hw == (6, 4)


@pytest.mark.parametrize("wrong", [None, 3, {"image": 1}, b"x.png", ["x.png", 3]])
def test_what_is_no_image_at_all_names_the_parameter(
    wrong: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (6, 4)).save("x.png")
    with pytest.raises(InputError, match="not an image") as caught:
        detector(script([]))(wrong)
    assert caught.value.where == "image"


def test_the_frame_of_a_dicom_file(tmp_path: Path) -> None:
    write_dicom(
        tmp_path / "two.dcm", np.stack([np.full((4, 6), level, np.uint8) for level in (0, 200)]), NumberOfFrames=2
    )
    first, second = (detector(script([]))(tmp_path / "two.dcm", frame=frame) for frame in (1, 2))
    assert first.image_rgb is not None and second.image_rgb is not None
    assert first.image_rgb.max() < second.image_rgb.min()


@pytest.mark.parametrize("kind", ["file", "picture", "array"])
def test_a_frame_of_what_has_none_is_refused(kind: str, bundle: Bundle, tmp_path: Path) -> None:
    pages = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    pages[0].save(tmp_path / "two.tif", save_all=True, append_images=pages[1:])
    given = {"file": tmp_path / "two.tif", "picture": pages[0], "array": np.asarray(pages[0])}[kind]
    with Detector.load(bundle) as detect, pytest.raises(InputError, match="frame"):
        detect(given, frame=2)


@pytest.mark.parametrize("phrases", ["red cell", 5, [5]])
def test_what_are_no_phrases_is_refused(phrases: Any, bundle: Bundle) -> None:
    with Detector.load(bundle) as detect, pytest.raises(BankError):
        detect(image(8, 8), phrases)


def test_a_path_with_a_null_byte_is_no_image(bundle: Bundle) -> None:
    with Detector.load(bundle) as detect, pytest.raises(ImageError, match="null"):
        detect("a\0b.png")


def test_a_batch_may_be_made_as_it_goes(bundle: Bundle) -> None:
    with Detector.load(bundle) as detect:
        assert len(detect.batch(image(8, 8 + number) for number in range(2))) == 2
