"""A warning where next to nothing can be seen, in images, DICOM and video; none where a picture has dark borders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medprompt.images import shown
from medprompt.images.read import load_picture
from medprompt.images.shown import remarks_on_shown
from tests.medprompt.dicom.made import write_dicom


def share(of: int, rest: int, percent: float, side: int = 100) -> np.ndarray:
    """A square of level ``of`` in ``percent`` of its pixels, and of ``rest`` in the others."""
    flat = np.full((side * side, 3), rest, np.uint8)
    flat[: round(side * side * percent / 100)] = of
    return flat.reshape(side, side, 3)


SLIDE = np.random.default_rng(0).integers(235, 256, (100, 100, 3)).astype(np.uint8)

PICTURES: dict[str, tuple[np.ndarray, str]] = {
    "black": (share(0, 0, 100), "black"),
    "99 % black": (share(7, 200, 99), "black"),
    "98.9 % black": (share(7, 200, 98.9), ""),
    "dark grey": (share(8, 200, 99), ""),
    "white": (share(255, 255, 100), "white"),
    "99 % white": (share(248, 30, 99), "white"),
    "light grey": (share(247, 30, 99.5), ""),
    "a round field of view": (share(0, 120, 60), ""),
    "a white slide": (SLIDE, ""),
    "half black, half white": (share(0, 255, 50), ""),
    "red": (np.full((100, 100, 3), (255, 0, 0), np.uint8), "equal"),
    "grey": (share(128, 128, 100), "equal"),
    "grey but for one pixel": (share(128, 129, 99.99), ""),
    "a small one of one grey": (share(128, 128, 100, side=63), ""),
    "a small black one": (np.zeros((1, 1, 3), np.uint8), "black"),
    "one row": (np.zeros((1, 9000, 3), np.uint8), "black"),
}


@pytest.mark.parametrize("case", PICTURES)
@pytest.mark.parametrize("piece", [shown._PIECE, 1000, 1])
def test_what_is_said(monkeypatch: pytest.MonkeyPatch, case: str, piece: int) -> None:
    pixels, expected = PICTURES[case]
    monkeypatch.setattr(shown, "_PIECE", piece)
    said = list(remarks_on_shown(pixels))
    assert len(said) == bool(expected)
    assert expected in "".join(said)


def test_of_each_kind_of_file(tmp_path: Path) -> None:
    Image.fromarray(np.full((20, 30), 3, np.uint8)).save(tmp_path / "x.png")
    write_dicom(tmp_path / "x.dcm", np.full((20, 30), 900, np.uint16), WindowCenter=9000, WindowWidth=100)
    for name in ("x.png", "x.dcm"):
        (said,) = load_picture(tmp_path / name).warnings
        assert "99% of it is black (below level 8)" in said
