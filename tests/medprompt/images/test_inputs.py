"""The table of docs/how-to/images.md and dicom.md: what becomes of every kind of file, one row a test."""

from __future__ import annotations

import resource
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medprompt.results.run import Item
from medprompt.runtime import Detector
from medprompt.runtime.batch import infer_images
from tests.medprompt.dicom.made import write_dicom
from tests.runtime.bundles import make_folder, record

PLAIN = Image.new("RGB", (30, 20), (200, 210, 220))
GREY = np.full((20, 30), 200, np.uint8)


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Detector:
    return Detector.load(make_folder(tmp_path_factory.mktemp("made") / "bundle", engines=(record("fake"),)))


def item(detector: Detector, path: Path) -> Item:
    (one,) = infer_images(detector, [path]).items
    return one


def save(image: Image.Image, **options: object) -> Callable[[Path], object]:
    return lambda path: image.save(path, **options)


def torn(image: Image.Image) -> Callable[[Path], object]:
    """Half of a picture of noise, which does not compress."""

    def write(path: Path) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (image.height, image.width, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])

    return write


def spoilt(kind: str, spoil: Callable[[bytearray], None], **options: object) -> Callable[[Path], object]:
    """A picture of noise with something changed in its bytes; Pillow alone shows all of these."""

    def write(path: Path) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path, kind, **options)
        content = bytearray(path.read_bytes())
        spoil(content)
        path.write_bytes(content)
        with warnings.catch_warnings(action="ignore"):
            assert Image.open(path).convert("RGB").size == (30, 20)

    return write


def lost_block(content: bytearray) -> None:
    """Forty zeros in the middle of the coefficients."""
    at = len(content) * 6 // 10
    content[at : at + 40] = bytes(40)


def wrong_checksum(content: bytearray) -> None:
    """Of the pixels' last chunk, which IEND's twelve bytes follow."""
    content[-13] ^= 1


def endless_tag(content: bytearray) -> None:
    """The tag of the compression says that it has 2,147,483,647 values."""
    at = content.index(b"\x03\x01\x03\x00\x01\x00\x00\x00")
    content[at + 4 : at + 8] = b"\xff\xff\xff\x7f"


def no_change(content: bytearray) -> None:
    """As it was saved."""


HALF_EXIF = b"Exif\0\0II*\0\x08\0\0\0\x05\0"
"""Five tags, says the header, and there it ends."""


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def dicom(stored: np.ndarray, **elements: object) -> Callable[[Path], object]:
    return lambda path: write_dicom(path, stored, **elements)


ROWS: dict[str, tuple[str, Callable[[Path], object], str, tuple[int, int] | None]] = {
    "1 x 1": ("x.png", save(Image.new("RGB", (1, 1), "grey")), "OK", (1, 1)),
    "1 x 4000": ("x.png", save(Image.new("RGB", (1, 4000), "grey")), "OK", (4000, 1)),
    "4000 x 1": ("x.png", save(Image.new("RGB", (4000, 1), "grey")), "OK", (1, 4000)),
    "over the limit": ("x.png", save(Image.new("1", (14_000, 13_000))), "REJECTED too_large", None),
    "0 bytes": ("x.png", lambda path: path.write_bytes(b""), "REJECTED not_an_image", None),
    "text": ("x.jpg", lambda path: path.write_text("<html>not found"), "REJECTED not_an_image", None),
    "truncated PNG": ("x.png", torn(PLAIN), "REJECTED damaged", None),
    "truncated JPEG": ("x.jpg", torn(PLAIN), "REJECTED damaged", None),
    "truncated header": ("x.png", lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n\0"), "REJECTED damaged", None),
    "JPEG with a lost block": ("x.jpg", spoilt("JPEG", lost_block), "REJECTED damaged", None),
    "PNG with a wrong checksum": ("x.png", spoilt("PNG", wrong_checksum), "REJECTED damaged", None),
    "TIFF with a damaged tag": ("x.tif", spoilt("TIFF", endless_tag), "REJECTED damaged", None),
    "damaged EXIF": ("x.jpg", spoilt("JPEG", no_change, exif=HALF_EXIF), "OK_WITH_WARNINGS", (20, 30)),
    "missing": ("x.png", lambda path: None, "ERROR", None),
    "CMYK": ("x.jpg", save(PLAIN.convert("CMYK")), "OK", (20, 30)),
    "16-bit grey": ("x.png", save(Image.fromarray(np.full((20, 30), 40_000, np.uint16))), "OK", (20, 30)),
    "12 bits in 16": ("x.png", save(Image.fromarray(np.full((20, 30), 4000, np.uint16))), "OK_WITH_WARNINGS", (20, 30)),
    "GIF": ("x.gif", save(PLAIN), "OK", (20, 30)),
    "JPEG 2000": ("x.jp2", save(PLAIN), "OK", (20, 30)),
    "AVIF": ("x.avif", save(PLAIN), "OK", (20, 30)),
    "PNM": ("x.pgm", save(PLAIN.convert("L")), "OK", (20, 30)),
    "HEIC": ("x.heic", lambda path: path.write_bytes(b"\0\0\0\x1cftypheic"), "REJECTED unsupported_encoding", None),
    "PostScript": ("x.jpg", lambda path: path.write_text("%!PS-Adobe-3.0"), "REJECTED not_an_image", None),
    "a video": ("x.png", lambda path: path.write_bytes(b"\0\0\0\x1cftypisom"), "REJECTED not_an_image", None),
    "floating point": ("x.tif", save(Image.new("F", (30, 20))), "REJECTED unsupported_pixels", None),
    "transparent": ("x.png", save(PLAIN.convert("RGBA")), "OK", (20, 30)),
    "animated": (
        "x.gif",
        save(PLAIN, save_all=True, append_images=[Image.new("RGB", (30, 20))]),
        "OK_WITH_WARNINGS",
        (20, 30),
    ),
    "pages": ("x.tif", save(PLAIN, save_all=True, append_images=[PLAIN]), "OK_WITH_WARNINGS", (20, 30)),
    "EXIF-rotated": ("x.jpg", save(PLAIN, exif=turned()), "OK", (30, 20)),
    "WebP": ("x.webp", save(PLAIN), "OK", (20, 30)),
    "BMP": ("x.bmp", save(PLAIN), "OK", (20, 30)),
    "an image of another suffix": ("x.dcm", save(PLAIN, format="PNG"), "OK", (20, 30)),
    "DICOM of 8 bits": ("x.dcm", dicom(GREY), "OK", (20, 30)),
    "DICOM without a suffix": ("IM0001", dicom(GREY), "OK", (20, 30)),
    "DICOM of 16 bits": ("x.dcm", dicom(GREY.astype(np.uint16)), "OK_WITH_WARNINGS", (20, 30)),
    "DICOM with oblong pixels": ("x.dcm", dicom(GREY, PixelAspectRatio=[2, 1]), "OK_WITH_WARNINGS", (20, 30)),
    "DICOM without pixels": (
        "x.dcm",
        lambda path: write_dicom(path, SOPClassUID="1.2.840.10008.5.1.4.1.1.88.33"),  # Comprehensive SR
        "REJECTED no_pixels",
        None,
    ),
    "DICOM image without its pixels": ("x.dcm", lambda path: write_dicom(path), "REJECTED damaged", None),
    "DICOM, truncated": (
        "x.dcm",
        lambda path: path.write_bytes(write_dicom(path, GREY).read_bytes()[:-50]),
        "REJECTED damaged",
        None,
    ),
    "DICOM without its marker": ("x.dcm", lambda path: path.write_bytes(b"\0" * 200), "REJECTED not_an_image", None),
}


@pytest.mark.parametrize("case", ROWS)
def test_rows(detector: Detector, tmp_path: Path, case: str) -> None:
    name, write, expected, size_hw = ROWS[case]
    write(tmp_path / name)
    found = item(detector, tmp_path / name)
    assert " ".join(filter(None, [found.status, found.code])) == expected
    assert (None if found.detections is None else found.detections.size_hw) == size_hw
    assert bool(found.error) == (size_hw is None)
    assert bool(found.warnings) == (found.status == "OK_WITH_WARNINGS")


def test_what_no_one_foresaw_is_an_error_of_that_image(
    detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    PLAIN.save(tmp_path / "x.png")
    for error, said in ((RuntimeError("Doe^Jane"), "RuntimeError"), (MemoryError(), "memory")):
        monkeypatch.setattr(
            "medprompt.images.file.ImageFile.picture", lambda *_, error=error: (_ for _ in ()).throw(error)
        )
        found = item(detector, tmp_path / "x.png")
        assert (found.status, found.code) == ("ERROR", None)
        assert said in found.error
        assert "Doe" not in found.error


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["png", "dcm"])
def test_twelve_thousand_squared(detector: Detector, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    if suffix == "png":
        Image.new("L", (12_000, 12_000), 200).save(path)
    else:
        write_dicom(path, np.full((12_000, 12_000), 3000, np.uint16), WindowCenter=2000, WindowWidth=4000)
    start = time.monotonic()
    found = item(detector, path)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"12,000 x 12,000 {suffix}: {time.monotonic() - start:.1f} s, peak {peak:.0f} MiB")
    assert found.status == "OK"
    assert found.detections is not None and found.detections.size_hw == (12_000, 12_000)
