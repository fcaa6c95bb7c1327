"""Figures of images: each planted change moves the figure that is named after it."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from medprompt.export.parity.images import drawn_image
from medprompt.site.image_statistics import IMAGE_STATISTICS, image_statistics

Pixels = NDArray[np.uint8]
PLAIN = drawn_image((240, 320), 1)


def figures(image: Pixels) -> dict[str, float]:
    return dict(zip(IMAGE_STATISTICS, image_statistics(image).tolist(), strict=True))


def jpeg(image: Pixels) -> Pixels:
    stored = io.BytesIO()
    Image.fromarray(image).save(stored, "JPEG", quality=20)
    return np.asarray(Image.open(stored).convert("RGB"))


def blurred(image: Pixels) -> Pixels:
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(2)))


def noisy(image: Pixels) -> Pixels:
    return np.clip(image + np.random.default_rng(0).normal(0, 20, image.shape), 0, 255).astype(np.uint8)


def times(*factors: float) -> Callable[[Pixels], Pixels]:
    return lambda image: np.clip(image * np.array(factors), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("figure", "change", "rises"),
    [
        ("width", lambda image: image[:, :200], False),
        ("height", lambda image: image[:200], False),
        ("brightness", times(0.8, 0.8, 0.8), False),
        ("contrast", lambda image: image // 2 + 64, False),
        ("clipped bright", times(1.5, 1.5, 1.5), True),
        ("clipped dark", times(0.05, 0.05, 0.05), True),
        ("red share", times(1, 0.8, 0.8), True),
        ("blue share", times(1, 1, 0.7), False),
        ("red share of dark parts", times(1, 0.8, 0.8), True),
        ("saturation", lambda image: np.repeat(image[..., :1], 3, axis=2), False),
        ("edges", blurred, False),
        ("fine detail", blurred, False),
        ("middle detail", blurred, False),
        ("noise", noisy, True),
        ("block edges", jpeg, True),
    ],
)
def test_a_change_moves_its_figure(figure: str, change: Callable[[Pixels], Pixels], rises: bool) -> None:
    before, after = figures(PLAIN)[figure], figures(change(PLAIN))[figure]
    assert (after > before) == rises
    assert abs(after - before) > 0.05 * abs(before)


def test_noise_is_in_levels() -> None:
    level = np.random.default_rng(0).normal(128, 10, (200, 200, 1)).round()
    assert figures(np.repeat(level, 3, axis=2).astype(np.uint8))["noise"] == pytest.approx(10, rel=0.05)


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 500), (500, 1), (2, 2), (3, 9), (5, 40_000), (700, 900)])
@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (7, 31, 100)])
def test_any_size_has_finite_figures(size_hw: tuple[int, int], colour: tuple[int, int, int]) -> None:
    found = figures(np.full((*size_hw, 3), colour, np.uint8))
    assert np.isfinite(list(found.values())).all()
    assert (found["height"], found["width"], found["noise"]) == (*size_hw, 0)


def test_a_large_image_is_looked_at_in_pieces_of_its_own_scale() -> None:
    small, large = figures(PLAIN), figures(np.tile(PLAIN, (5, 5, 1)))
    assert large["width"] == 5 * small["width"]
    for figure in ("brightness", "contrast", "edges", "fine detail", "noise"):
        assert large[figure] == pytest.approx(small[figure], rel=0.15)
