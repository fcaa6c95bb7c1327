"""Resizes by taps against what they reproduce: torchvision's, which is torch's ``interpolate``, and Pillow's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch.nn.functional import conv2d, interpolate, pad

from medprompt.core.manifest import Preprocess
from medprompt.images.resize import PILLOW_FILTERS, resize_on_host, resize_taps
from medprompt.images.taps import axis_pass, resize_by_taps
from tests.medprompt.images.test_resize import noise, pillow_starts_with_rows

FILTERS = ["bicubic", "bilinear", "lanczos", "nearest"]
SIZES = st.tuples(st.integers(1, 60), st.integers(1, 60))
MODEL_SIZES = st.tuples(st.integers(2, 60), st.integers(2, 60))
"""torch itself fails (an internal assertion) on outputs one pixel wide."""


def by_torchvision(image: NDArray[np.uint8], size_hw: tuple[int, int], resample: str) -> NDArray[np.uint8]:
    """What ``torchvision.transforms.v2.functional.resize`` calls for a uint8 tensor on a CPU, antialiased."""
    options: dict[str, Any] = {"mode": resample, "align_corners": False, "antialias": True}
    if resample == "nearest":  # transformers' mapping of Pillow's NEAREST
        options = {"mode": "nearest-exact"}
    planes = torch.from_numpy(image).permute(2, 0, 1).contiguous()[None]
    resized: NDArray[np.uint8] = interpolate(planes, size=size_hw, **options)[0].permute(1, 2, 0).numpy()
    return resized


def assert_as_torchvision(image: NDArray[np.uint8], size_hw: tuple[int, int], resample: Any) -> None:
    resized = resize_on_host(image, Preprocess(size_hw=size_hw, resample=resample, backend="torchvision"))
    assert resized.dtype == np.uint8
    np.testing.assert_array_equal(resized, by_torchvision(image, size_hw, resample))


@given(source_hw=SIZES, size_hw=MODEL_SIZES, resample=st.sampled_from(FILTERS), extreme=st.booleans())
@settings(deadline=None, max_examples=60)
def test_torchvisions_resize_to_the_last_level(
    source_hw: tuple[int, int], size_hw: tuple[int, int], resample: str, extreme: bool
) -> None:
    image = noise(*source_hw)
    assert_as_torchvision(np.where(image > 127, 255, 0).astype(np.uint8) if extreme else image, size_hw, resample)


# Beyond a scale of 8 a sum of whole weights needs more bits than float32 has.
@pytest.mark.parametrize("source_hw", [(1080, 1920), (31, 700), (1500, 40)])
@pytest.mark.parametrize("resample", FILTERS)
def test_torchvisions_resize_of_large_images(resample: str, source_hw: tuple[int, int]) -> None:
    assert_as_torchvision(noise(*source_hw), (75, 133), resample)


@pytest.mark.slow
@pytest.mark.parametrize("source_hw", [(2160, 3840), (3840, 2160), (9000, 6000)])
@pytest.mark.parametrize("resample", FILTERS)
def test_torchvisions_resize_of_huge_images(resample: str, source_hw: tuple[int, int]) -> None:
    assert_as_torchvision(noise(*source_hw), (800, 800), resample)


@given(source_hw=SIZES, size_hw=SIZES, resample=st.sampled_from(FILTERS))
@settings(deadline=None, max_examples=40)
def test_pillows_resize_by_its_taps(source_hw: tuple[int, int], size_hw: tuple[int, int], resample: Any) -> None:
    image, (height, width) = noise(*source_hw), size_hw
    rows, cols = resize_taps(source_hw, Preprocess(size_hw=size_hw, resample=resample))
    if pillow_starts_with_rows(source_hw, size_hw):
        rows, cols = cols, rows
        image, source_hw = np.ascontiguousarray(image.transpose(1, 0, 2)), source_hw[::-1]
        wanted = Image.fromarray(noise(*source_hw[::-1])).resize((width, height), PILLOW_FILTERS[resample])
        wanted_array = np.asarray(wanted).transpose(1, 0, 2)
    else:
        wanted_array = np.asarray(Image.fromarray(image).resize((width, height), PILLOW_FILTERS[resample]))
    passes = axis_pass(rows, source_hw[0], interleaved=False), axis_pass(cols, source_hw[1], interleaved=True)
    np.testing.assert_array_equal(resize_by_taps(image, *passes), wanted_array)


def by_torchvisions_owlv2(image: NDArray[np.uint8], side: int, border: float) -> NDArray[np.float32]:
    """The steps of transformers' OWLv2 processor on torchvision, in levels: square, blur where it shrinks, linear."""
    height, width = image.shape[:2]
    longest = max(height, width)
    square = pad(
        torch.from_numpy(image).permute(2, 0, 1) / 255, (0, longest - width, 0, longest - height), value=border
    )
    sigma = float((torch.tensor(longest) / torch.tensor(side) - 1) / 2)
    if sigma > 0:
        reach = int(np.ceil(np.float32(3) * np.float32(sigma)))
        kernel = torch.softmax(-((torch.arange(-reach, reach + 1) / sigma) ** 2) / 2, dim=0)
        reflected = pad(square[:, None], [reach] * 4, mode="reflect")
        square = conv2d(conv2d(reflected, kernel[None, None, None, :]), kernel[None, None, :, None])[:, 0]
    resized = interpolate(square[None], size=(side, side), mode="bilinear", align_corners=False, antialias=False)[0]
    return 255 * resized.permute(1, 2, 0).numpy()


@pytest.mark.parametrize("pad_value", [0.0, 127.5], ids=["black", "grey"])
@pytest.mark.parametrize("source_hw", [(1, 1), (9, 1), (31, 47), (64, 64), (64, 30), (200, 150), (700, 701)])
def test_owlv2s_resize_on_torchvision(source_hw: tuple[int, int], pad_value: float) -> None:
    image = noise(*source_hw)
    spec = Preprocess(
        size_hw=(64, 64), resample="zoom", pad="square", pad_value=pad_value, rounds=False, backend="torchvision"
    )
    resized = resize_on_host(image, spec)
    assert resized.dtype == np.float32
    np.testing.assert_allclose(resized, by_torchvisions_owlv2(image, 64, pad_value / 255), rtol=0, atol=2e-3)


def test_a_right_sized_image_that_is_not_rounded_is_float32() -> None:
    image = noise(8, 8)
    resized = resize_on_host(image, Preprocess(size_hw=(8, 8), resample="zoom", pad="square", rounds=False))
    assert resized.dtype == np.float32
    np.testing.assert_array_equal(resized, image)


@pytest.mark.parametrize("resample", ["bilinear", "zoom"])
@pytest.mark.parametrize("backend", ["pillow", "torchvision"])
def test_a_border_has_its_own_level(backend: Any, resample: Any) -> None:
    spec = Preprocess(size_hw=(8, 8), resample=resample, backend=backend, pad="square", pad_value=100)
    resized = resize_on_host(np.full((40, 20, 3), 250, np.uint8), spec)
    assert (resized[:, :2] == 250).all()
    assert (resized[:, 7:] == 100).all()
