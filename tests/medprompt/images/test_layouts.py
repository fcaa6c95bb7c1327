"""Each layout of a file is shown within one grey level of what its levels mean, or refused with the right code."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medprompt.core.errors import ImageError
from medprompt.data.sizes import size_of_image
from medprompt.images import jpeg2000, tiff
from medprompt.images.decode import pixels_of_picture
from medprompt.images.read import load_image, load_picture
from tests.medprompt.images import made

PALETTE_TAG = 320


@pytest.mark.parametrize(
    ("files", "count"),
    [
        pytest.param(made.tiff_files, 480, id="TIFF"),
        pytest.param(made.jpeg2000_files, 24, id="JPEG 2000"),
        pytest.param(made.pnm_files, 36, id="PNM"),
        pytest.param(made.png_files, 25, id="PNG"),
    ],
)
def test_every_layout(tmp_path: Path, files: Callable[[Path], Iterator[made.Made]], count: int) -> None:
    """All are shown: none more than one level off, none with a warning."""
    tried = list(files(tmp_path))
    assert len(tried) == count
    wrong = {}
    for name, right in tried:
        found = load_picture(tmp_path / name)
        off = np.abs(found.pixels - np.round(right)).max()
        if off > 1 or found.warnings:
            wrong[name] = off, found.warnings
    assert not wrong


@pytest.mark.parametrize("files", [made.tiff_files, made.jpeg2000_files])
def test_without_the_extra_a_layout_is_right_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: Callable[[Path], Iterator[made.Made]]
) -> None:
    tried = list(files(tmp_path))
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    refused = 0
    for name, right in tried:
        try:
            assert np.abs(load_image(tmp_path / name) - np.round(right)).max() <= 1, name
        except ImageError as error:
            refused += 1
            assert error.code in ("unsupported_encoding", "unsupported_pixels")
            assert "imagecodecs" in str(error)
    assert 0 < refused < len(tried)


def tiff_of(path: Path, stored: np.ndarray, **options: object) -> Path:
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(path, stored, **{"metadata": None, **options})
    return path


GREY = made.levels(1, 8)[..., 0]
RGB = made.levels(3, 8)
REFUSED: dict[str, tuple[np.ndarray, dict[str, object], str]] = {
    "float16": (GREY.astype(np.float16), {}, "unsupported_pixels"),
    "float32": (GREY.astype(np.float32), {}, "unsupported_pixels"),
    "float64": (GREY.astype(np.float64), {}, "unsupported_pixels"),
    "signed 8": (GREY.astype(np.int8), {}, "unsupported_pixels"),
    "signed 16": (GREY.astype(np.int16), {}, "unsupported_pixels"),
    "unsigned 32": (GREY.astype(np.uint32) << 20, {}, "unsupported_pixels"),
    "five channels": (np.dstack([RGB, GREY, GREY]), {"photometric": "rgb"}, "unsupported_pixels"),
    "grey channels": (
        np.dstack([GREY, GREY]),
        {"photometric": "minisblack", "planarconfig": "contig"},
        "unsupported_pixels",
    ),
    "CIELAB": (RGB, {"photometric": "cielab"}, "unsupported_pixels"),
    "YCbCr, not JPEG": (RGB, {"photometric": "ycbcr"}, "unsupported_pixels"),
    "CMYK 16": (made.levels(4, 16), {"photometric": "separated"}, "unsupported_pixels"),
    "JPEG of 12 bits": (made.levels(1, 12)[..., 0], {"compression": "jpeg"}, "unsupported_encoding"),
    "preview": (GREY, {"subfiletype": 1}, "unsupported_encoding"),
    "volume": (
        np.stack([np.pad(GREY, ((0, 15), (0, 8)))] * 16),
        {"volumetric": True, "tile": (16, 16, 16)},
        "unsupported_pixels",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_layout_without_a_stated_meaning_is_refused(tmp_path: Path, case: str) -> None:
    stored, options, code = REFUSED[case]
    with pytest.raises(ImageError) as caught:
        load_image(tiff_of(tmp_path / "x.tif", stored, **options))
    assert caught.value.code == code
    assert caught.value.got
    assert caught.value.fix


@pytest.mark.parametrize(("scale", "pixel"), [(1, [10, 20, 30]), (257, [10, 20, 30])], ids=["low bytes", "16 bits"])
def test_a_colour_map_of_8_bits_is_taken_as_it_is(tmp_path: Path, scale: int, pixel: list[int]) -> None:
    colours = np.zeros((3, 256), np.uint16)
    colours[:, 7] = np.array([10, 20, 30]) * scale
    path = tiff_of(tmp_path / "x.tif", np.full((4, 4), 7, np.uint8), photometric="palette", colormap=colours)
    assert load_image(path)[0, 0].tolist() == pixel


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("planes", [False, True])
def test_both_readers_turn_alike(tmp_path: Path, orientation: int, planes: bool) -> None:
    stored = made.levels(3, 16)
    written = np.ascontiguousarray(np.moveaxis(stored, -1, 0)) if planes else stored
    more = {"planarconfig": "separate" if planes else "contig", "extratags": [(274, "H", 1, orientation, True)]}
    turned = load_image(tiff_of(tmp_path / "x.tif", written, photometric="rgb", **more))
    upright = Image.fromarray(np.round(made.shown(stored, 16)).astype(np.uint8))
    ways = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}
    right = upright.transpose(Image.Transpose(ways[orientation])) if orientation > 1 else upright
    assert turned.shape == np.asarray(right).shape
    assert np.abs(turned - np.asarray(right).astype(int)).max() <= 1


BITS = [(200, 8), (255, 8), (256, 10), (1023, 10), (1024, 12), (4095, 12), (4096, 14), (16383, 14)]


@pytest.mark.parametrize(("highest", "bits"), BITS)
@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_few_bits_in_16(tmp_path: Path, highest: int, bits: int, suffix: str) -> None:
    stored = np.linspace(0, highest, 64).round().astype(np.uint16).reshape(8, 8)
    Image.fromarray(stored).save(tmp_path / f"x.{suffix}")
    found = load_picture(tmp_path / f"x.{suffix}")
    assert np.abs(found.pixels[..., 0] - stored / ((1 << bits) - 1) * 255).max() <= 0.5
    assert found.warnings == (
        f"levels up to {highest} in a 16-bit file: read as {bits}-bit, {(1 << bits) - 1} is white",
    )


@pytest.mark.parametrize("highest", [0, 16384, 65535])
def test_16_bits_in_16(tmp_path: Path, highest: int) -> None:
    Image.fromarray(np.full((8, 8), highest, np.uint16)).save(tmp_path / "x.png")
    found = load_picture(tmp_path / "x.png")
    assert found.pixels[0, 0, 0] == round(highest / 257)
    assert not [note for note in found.warnings if "next to nothing" not in note]


def test_dark_16_bit_colours_are_said(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(made.png(made.COLOUR, 16, made.levels(3, 14)))
    assert load_picture(tmp_path / "x.png").warnings[0].startswith("the 16-bit colours fill 14 bits at most")


def test_a_clear_colour_of_16_bits_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(made.png(made.COLOUR, 16, made.levels(3, 16), tRNS=bytes(6)))
    with pytest.raises(ImageError) as caught:
        load_image(tmp_path / "x.png")
    assert caught.value.code == "unsupported_pixels"


def test_a_picture_of_few_bits_is_warned_of(tmp_path: Path) -> None:
    stored = np.full((4, 4), 4095, np.uint16)
    with pytest.warns(UserWarning, match="read as 12-bit"):
        assert pixels_of_picture(Image.fromarray(stored)).max() == 255


@pytest.mark.parametrize("name", ["planes.tif", "colour.jp2"])
def test_the_size_of_what_another_reader_shows(tmp_path: Path, name: str) -> None:
    stored = made.levels(3, 12)
    if name == "planes.tif":
        tiff_of(tmp_path / name, np.ascontiguousarray(np.moveaxis(stored, -1, 0)), photometric="rgb", bitspersample=12)
    else:
        (tmp_path / name).write_bytes(pytest.importorskip("imagecodecs").jpeg2k_encode(stored, level=0))
    assert size_of_image(tmp_path / name) == (made.HEIGHT, made.WIDTH)


STACKS = {
    "ImageJ": {"description": "ImageJ=1.54f\nimages=3\nchannels=3\nhyperstack=true\n"},
    "tifffile": {"description": '{"shape": [3, 33, 40]}'},
    "MetaMorph": {"extratags": [(33628, "I", 3, (1, 2, 3), True), (33629, "I", 3, (1, 2, 3), True)]},
    "one picture": {"description": '{"shape": [33, 40]}'},
    "no words": {"description": '{"shape": broken'},
}


@pytest.mark.parametrize("writer", STACKS)
def test_a_stack_of_one_page_is_said(tmp_path: Path, writer: str) -> None:
    found = load_picture(tiff_of(tmp_path / "x.tif", GREY, **STACKS[writer]))
    stack = writer in ("ImageJ", "tifffile", "MetaMorph")
    assert found.warnings == (("page 1 of 3 was read",) if stack else ())


def test_jpegs_behind_one_another_are_said(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "one.jpg")
    one = (tmp_path / "one.jpg").read_bytes()
    (tmp_path / "three.jpg").write_bytes(one * 3)
    assert load_picture(tmp_path / "one.jpg").warnings == ()
    assert load_picture(tmp_path / "three.jpg").warnings == ("page 1 of 3 was read",)


def zeros_in_the_scan(content: bytearray) -> None:
    at = content.rindex(b"\xff\xda") + 200
    content[at : at + 40] = bytes(40)


def test_a_damaged_jpeg_in_a_tiff_is_damaged(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    for tables in (False, True):
        path = tmp_path / "x.tif"
        if tables:  # as libtiff writes it: the tables stand in a tag of their own
            Image.fromarray(noise).save(path, compression="jpeg")
        else:
            tiff_of(path, noise, photometric="rgb", compression="jpeg", tile=(32, 32))
        assert load_image(path).shape == (64, 64, 3)
        content = bytearray(path.read_bytes())
        zeros_in_the_scan(content)
        path.write_bytes(content)
        with pytest.raises(ImageError) as caught:
            load_image(path)
        assert caught.value.code == "damaged"


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.98])
@pytest.mark.parametrize("name", ["planes.tif", "jpeg2000.tif", "12.tif", "colour.jp2"])
def test_what_breaks_off_is_damaged(tmp_path: Path, name: str, share: float) -> None:
    path = tmp_path / name
    stored = np.random.default_rng(0).integers(0, 4096, (64, 64, 3)).astype(np.uint16)
    if name == "colour.jp2":
        path.write_bytes(pytest.importorskip("imagecodecs").jpeg2k_encode(stored, level=0, bitspersample=12))
    else:
        options: dict[str, object] = {"planarconfig": "separate"} if name == "planes.tif" else {"bitspersample": 12}
        if name == "jpeg2000.tif":
            options = {"compression": "jpeg2000", "tile": (32, 32)}
        data = np.ascontiguousarray(np.moveaxis(stored, -1, 0)) if name == "planes.tif" else stored
        tiff_of(path, data, photometric="rgb", **options)
    whole = path.read_bytes()
    assert load_image(path).shape == (64, 64, 3)
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ImageError) as caught:
        load_image(path)
    assert caught.value.code == "damaged"


def test_what_tifffile_remarks_is_damage(tmp_path: Path) -> None:
    """It would fill the tiles that are missing with zeros."""
    path = tiff_of(tmp_path / "x.tif", made.levels(1, 10)[..., 0], bitspersample=10, tile=(16, 16))
    content = bytearray(path.read_bytes())
    at = content.index(struct.pack("<HHLL", 257, 4, 1, made.HEIGHT))  # ImageLength
    content[at + 8 : at + 12] = struct.pack("<L", 97)
    path.write_bytes(content)
    with pytest.raises(ImageError) as caught:
        load_image(path)
    assert caught.value.code == "damaged"


@pytest.mark.parametrize(
    ("process", "bits", "code"),
    [(0xC3, 8, "unsupported_encoding"), (0xC1, 12, "unsupported_encoding"), (0xF7, 8, "unsupported_encoding")],
)
def test_a_jpeg_of_another_process(tmp_path: Path, process: int, bits: int, code: str) -> None:
    Image.fromarray(RGB).save(tmp_path / "x.jpg")
    content = bytearray((tmp_path / "x.jpg").read_bytes())
    at = content.index(b"\xff\xc0")
    content[at + 1], content[at + 4] = process, bits
    (tmp_path / "x.jpg").write_bytes(content)
    with pytest.raises(ImageError) as caught:
        load_image(tmp_path / "x.jpg")
    assert caught.value.code == code


def test_libtiff_is_silent(tmp_path: Path) -> None:
    """Its lines would stand among those of the command."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    Image.fromarray(noise).save(tmp_path / "x.tif", compression="tiff_lzw")
    content = bytearray((tmp_path / "x.tif").read_bytes())
    content[100:160] = b"\xff" * 60
    (tmp_path / "x.tif").write_bytes(content)
    code = f"from medprompt.images.read import load_image\nload_image({str(tmp_path / 'x.tif')!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "The image cannot be read" in done.stderr
    assert "tempfile.tif" not in done.stderr


def test_a_mask_before_the_picture_is_refused() -> None:
    tiff.check_first_page({254: (2,)}, Path("x"))
    with pytest.raises(ImageError, match="a preview or a mask"):
        tiff.check_first_page({254: (4,)}, Path("x"))


@pytest.mark.parametrize("tags", [{279: (10, 0)}, {325: (0,)}, {322: (65536,), 323: (65536,)}])
def test_an_empty_part_or_an_immense_one_is_damage(tags: dict[int, tuple[int, ...]]) -> None:
    tiff.check_parts({279: (10, 20), 322: (16,), 323: (16,)})
    with pytest.raises(ValueError, match=r"strip or tile is empty|too many pixels"):
        tiff.check_parts(tags)


def test_the_tables_name_each_layout_once() -> None:
    layout = tiff.layout_from_tags({258: (8, 8, 8), 277: (3,), 262: (2,), 284: (2,), 259: (5,)})
    assert (layout.planes, layout.fits_pillow, layout.fits_tifffile) == (True, True, True)
    assert not tiff.layout_from_tags({}).fits_pillow
    assert not tiff.layout_from_tags({}).fits_tifffile
    assert not jpeg2000.Codestream((1, 1), (8, 5, 8), plain=True).fits_pillow
