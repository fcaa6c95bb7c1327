"""Every file mode becomes upright uint8 RGB by a stated rule, and what cannot be read says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medprompt.core import picture
from medprompt.core.errors import ImageError
from medprompt.images.read import find_images, load_image, load_picture


def save(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def pixel(path: Path) -> list[int]:
    return list(map(int, load_image(path)[0, 0]))


@pytest.mark.parametrize(
    ("image", "suffix", "expected"),
    [
        pytest.param(Image.new("RGB", (2, 2), (10, 20, 30)), "png", [10, 20, 30], id="RGB"),
        pytest.param(Image.new("L", (2, 2), 77), "png", [77, 77, 77], id="grey"),
        pytest.param(Image.new("1", (2, 2), 1), "png", [255, 255, 255], id="bilevel"),
        pytest.param(Image.new("RGBA", (2, 2), (10, 20, 30, 255)), "png", [10, 20, 30], id="opaque"),
        pytest.param(Image.new("RGBA", (2, 2), (10, 20, 30, 0)), "png", [255, 255, 255], id="clear over white"),
        pytest.param(Image.new("RGBA", (2, 2), (0, 0, 0, 51)), "png", [204, 204, 204], id="a fifth black"),
        pytest.param(Image.new("LA", (2, 2), (0, 51)), "png", [204, 204, 204], id="grey with alpha"),
        pytest.param(Image.new("RGB", (2, 2), (9, 200, 40)).quantize(4), "png", [9, 200, 40], id="palette"),
        pytest.param(Image.new("CMYK", (2, 2), (0, 255, 255, 0)), "tif", [255, 0, 0], id="CMYK"),
        pytest.param(Image.fromarray(np.full((2, 2), 65535, np.uint16)), "png", [255] * 3, id="16-bit white"),
        pytest.param(Image.fromarray(np.full((2, 2), 257 * 100, np.uint16)), "tif", [100] * 3, id="16-bit grey"),
        pytest.param(Image.fromarray(np.full((2, 2), 257 * 100 + 129, np.uint16)), "png", [101] * 3, id="rounds up"),
        pytest.param(Image.fromarray(np.full((2, 2), 257 * 100 + 128, np.uint16)), "png", [100] * 3, id="rounds down"),
        pytest.param(Image.fromarray(np.full((2, 2), 65535, np.int32)), "tif", [255] * 3, id="32-bit within 16"),
    ],
)
def test_modes(tmp_path: Path, image: Image.Image, suffix: str, expected: list[int]) -> None:
    path = save(tmp_path / f"x.{suffix}", image)
    loaded = load_image(path)
    assert loaded.shape == (2, 2, 3)
    assert loaded.dtype == np.uint8
    assert loaded.flags.writeable
    assert pixel(path) == expected


def test_a_transparent_palette_lies_over_white(tmp_path: Path) -> None:
    path = save(tmp_path / "x.png", Image.new("P", (2, 2), 0), transparency=0)
    assert pixel(path) == [255, 255, 255]


@pytest.mark.parametrize(
    ("orientation", "corner_xy"),
    [(1, (0, 0)), (2, (3, 0)), (3, (3, 1)), (4, (0, 1)), (6, (1, 0)), (8, (0, 3))],
)
def test_exif_orientation_turns_the_image(tmp_path: Path, orientation: int, corner_xy: tuple[int, int]) -> None:
    """Where the stored upper left pixel goes."""
    stored = Image.new("RGB", (4, 2))
    stored.putpixel((0, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = orientation
    loaded = load_image(save(tmp_path / "x.png", stored, exif=exif))
    assert loaded.shape == ((4, 2, 3) if orientation in (6, 8) else (2, 4, 3))
    assert tuple(map(int, np.argwhere(loaded[:, :, 0])[0][::-1])) == corner_xy


def test_the_first_page_is_read(tmp_path: Path) -> None:
    pages = [Image.new("L", (2, 2), level) for level in (50, 200)]
    path = save(tmp_path / "x.tif", pages[0], save_all=True, append_images=pages[1:])
    assert pixel(path) == [50, 50, 50]
    assert load_picture(path).warnings == ("page 1 of 2 was read",)
    assert load_picture(save(tmp_path / "y.tif", pages[0])).warnings == ()


def whole_png(folder: Path) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    return save(folder / "whole.png", Image.fromarray(noise)).read_bytes()


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("empty", "not_an_image"),
        ("text", "not_an_image"),
        ("cut off", "damaged"),
        ("header only", "damaged"),
        ("missing", None),
        ("folder", None),
        ("float", "unsupported_pixels"),
        ("32-bit", "unsupported_pixels"),
    ],
)
def test_unreadable_files(tmp_path: Path, kind: str, code: str | None) -> None:
    path = tmp_path / ("x.tif" if kind in ("float", "32-bit") else "x.png")
    whole = whole_png(tmp_path)
    {
        "empty": lambda: path.write_bytes(b""),
        "text": lambda: path.write_text("not an image"),
        "cut off": lambda: path.write_bytes(whole[: len(whole) // 2]),
        "header only": lambda: path.write_bytes(whole[:33]),
        "missing": lambda: None,
        "folder": path.mkdir,
        "float": lambda: Image.fromarray(np.zeros((2, 2), np.float32)).save(path),
        "32-bit": lambda: Image.fromarray(np.full((2, 2), 65536, np.int32)).save(path),
    }[kind]()
    with pytest.raises(ImageError) as caught:
        load_image(path)
    assert caught.value.where == str(path)
    assert caught.value.got
    assert caught.value.code == code


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "x.png", Image.new("1", (400, 300)))
    monkeypatch.setattr(picture, "MAX_PIXELS", 119_999)
    with pytest.raises(ImageError, match="too many pixels") as caught:
        load_image(path)
    assert (caught.value.got, caught.value.code) == ("400 x 300", "too_large")
    monkeypatch.setattr(picture, "MAX_PIXELS", 120_000)
    assert load_image(path).shape == (300, 400, 3)


def test_pillows_own_limit_is_an_image_error_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "x.png", Image.new("1", (400, 300)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ImageError, match="cannot be read"):
        load_image(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)  # only a warning, which is not ours to pass on
    assert load_image(path).shape == (300, 400, 3)


def test_find_images(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", "deep/c.tiff", "notes.txt", "odd.dcm"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    names = [path.relative_to(tmp_path).as_posix() for path in find_images([tmp_path])]
    assert names == ["a.jpg", "b.PNG", "deep/c.tiff", "odd.dcm"]
    assert find_images([tmp_path / "odd.dcm", str(tmp_path / "odd.dcm")]) == [tmp_path / "odd.dcm"]
    assert find_images([]) == []


@pytest.mark.parametrize("name", ["absent.png", "empty"])
def test_nothing_to_find_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("")
    with pytest.raises(ImageError) as caught:
        find_images([tmp_path / name])
    assert caught.value.where == str(tmp_path / name)
