"""A file is what its first bytes say, whatever it is called."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from PIL import Image

from medprompt.core.kinds import FORMATS, kind_of

ROOT = Path(__file__).parents[3]
ROOMS = ("medprompt", "runtime", "export", "benchmarks")  # but for research, which is not in the wheel


@pytest.mark.parametrize(
    ("head", "name", "formats"),
    [
        (b"", "", ()),
        (b"\0" * 200, "", ()),
        (b"\x89PNG\r\n\x1a\n", "PNG", ("PNG",)),
        (b"\xff\xd8\xff\xe0", "JPEG", ("JPEG",)),
        (b"\xff\xd8\xff\xf7", "JPEG-LS", ()),
        (b"MM\0+", "TIFF", ("TIFF",)),
        (b"RIFF\0\0\0\0WEBPVP8 ", "WebP", ("WEBP",)),
        (b"RIFF\0\0\0\0WAVE", "", ()),
        (b"RIFF\0\0\0\0AVI LIST", "video", ()),
        (b"P5\n9 9\n255\n", "PNM", ("PPM",)),
        (b"P7\nWIDTH 9", "text", ()),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000", ("JPEG2000",)),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL", ()),
        (b"\xff\x0a\x00", "JPEG XL", ()),
        (b"\0\0\0\x1cftypavif\0\0\0\0", "AVIF", ("AVIF",)),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avif", "AVIF", ("AVIF",)),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1heic", "HEIC", ()),
        (b"\0\0\0\x1cftypheic\0\0\0\0mif1heic", "HEIC", ()),
        (b"\0\0\0\x1cftypisom\0\0\0\0isomavc1", "video", ()),
        (b"\0\0\0\x1cftyp3gp4\0\0\0\0", "video", ()),
        (b"G" + bytes(187) + b"G", "video", ()),
        (b"\0\0\0\0G" + bytes(191) + b"G", "video", ()),
        (b"G" + bytes(300), "", ()),
        (b"\x1a\x45\xdf\xa3", "video", ()),
        (b"\0\0\0\x01\x67", "video", ()),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "PostScript", ()),
        (b"\xc5\xd0\xd3\xc6", "PostScript", ()),
        (b"%PDF-1.7", "PDF", ()),
        (b"<html>not found", "text", ()),
        ("größer".encode()[:-3], "text", ()),
        (b"text\0", "", ()),
    ],
)
def test_kinds(head: bytes, name: str, formats: tuple[str, ...]) -> None:
    kind = kind_of(head)
    assert (kind.name, kind.formats) == (name, formats)
    assert set(kind.formats) <= set(FORMATS)


def test_pillow_has_every_format() -> None:
    Image.init()
    assert set(FORMATS) <= set(Image.OPEN)


def test_every_image_open_names_its_formats() -> None:
    """Pillow knows formats that run programs: PostScript starts Ghostscript, under any name."""
    files = [path for folder in ROOMS for path in (ROOT / folder).rglob("*.py") if "research" not in path.parts]
    calls = [
        (path.name, node.lineno, {word.arg for word in node.keywords})
        for path in files
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("Image.open", "PIL.Image.open")
    ]
    assert calls
    assert [call for call in calls if "formats" not in call[2]] == []
