"""Host resize and matrices against the image processors of transformers, from one pixel to 4K."""

from __future__ import annotations

import itertools
import time
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from PIL import __version__ as PILLOW_VERSION
from transformers.image_transforms import get_size_with_aspect_ratio
from transformers.image_utils import get_image_size_for_max_height_width

from medprompt.core.errors import ImageError
from medprompt.core.manifest import OwnSize, Preprocess
from medprompt.images.resampling import resample_weights
from medprompt.images.resize import box_scale, own_size_hw, resize_matrices, resize_on_host

SOURCES_HW = [(1, 1), (1, 9), (9, 1), (2, 3), (31, 47), (64, 64), (97, 61), (480, 640), (1000, 750)]
FOUR_K = [(2160, 3840), (3840, 2160)]


def noise(height: int, width: int) -> NDArray[np.uint8]:
    """The hardest image for a resize: neighbouring pixels have nothing in common."""
    return np.random.default_rng(height * 10_000 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)


def waves(height: int, width: int) -> NDArray[np.uint8]:
    """A smooth image, as photographs mostly are."""
    y, x, channel = np.mgrid[:height, :width, :3]
    return (127 + 80 * np.sin(x / 9 + channel) * np.cos(y / 11)).astype(np.uint8)


def processor_of(name: str, size_hw: tuple[int, int]) -> tuple[Any, Preprocess]:
    """A processor as the family's checkpoints have it, and the same said in a manifest."""
    from transformers.models.grounding_dino.image_processing_pil_grounding_dino import (
        GroundingDinoImageProcessorPil,
    )
    from transformers.models.owlv2.image_processing_pil_owlv2 import Owlv2ImageProcessorPil
    from transformers.models.owlvit.image_processing_pil_owlvit import OwlViTImageProcessorPil

    size = {"height": size_hw[0], "width": size_hw[1]}
    return {
        "owlvit": (OwlViTImageProcessorPil(size=size), Preprocess(size_hw=size_hw, resample="bicubic")),
        "grounding-dino": (
            GroundingDinoImageProcessorPil(size=size, do_pad=False),
            Preprocess(size_hw=size_hw, resample="bilinear"),
        ),
        "owlv2": (
            Owlv2ImageProcessorPil(size=size),
            Preprocess(size_hw=size_hw, resample="zoom", pad="square", rounds=False),
        ),
    }[name]


def levels_of_processor(processor: Any, image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """What the processor makes of an image, before it normalises, in 0 … 255 ``[h, w, 3]``."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*channel dimension.*")
        pixels = processor(
            images=Image.fromarray(image),
            do_normalize=False,
            return_tensors="np",
            input_data_format="channels_last",
        )["pixel_values"][0]
    return np.asarray(pixels, dtype=np.float64).transpose(1, 2, 0) * 255


def levels_of_matrices(image: NDArray[np.uint8], spec: Preprocess, rows_first: bool = False) -> NDArray[np.float64]:
    """Apply the matrices, rounding after each pass where Pillow does."""
    rows, cols = resize_matrices((image.shape[0], image.shape[1]), spec)
    levels = image.astype(np.float64)
    passes = [("wW,HWc->Hwc", cols), ("hH,Hwc->hwc", rows)]
    for formula, matrix in reversed(passes) if rows_first else passes:
        levels = np.einsum(formula, matrix.astype(np.float64), levels, optimize=True)
        if spec.resample != "zoom":
            levels = np.clip(np.floor(levels + 0.5), 0, 255)
    return levels


def pillow_starts_with_rows(source_hw: tuple[int, int], size_hw: tuple[int, int]) -> bool:
    """Pillow's rule from version 13 on, found by trying 1,483 pairs of sizes."""
    lost_rows, lost_columns = source_hw[0] - size_hw[0], source_hw[1] - size_hw[1]
    return int(PILLOW_VERSION.split(".")[0]) >= 13 and lost_rows > 0 and lost_rows > 2 * lost_columns


MOST_LEVELS = 2.001
"""Pillow's weights have 22 bits, so a value on the edge may fall to the other side in each pass."""

# Measured over these sizes: Pillow's filters are equal (it is Pillow on both sides); OWLv2's processor and ours sum
# in single precision, each in its own order.
HOST_MAX = {"owlvit": 1e-4, "grounding-dino": 1e-4, "owlv2": 1e-3}


@pytest.mark.parametrize("source_hw", SOURCES_HW, ids=str)
@pytest.mark.parametrize("size_hw", [(64, 64), (60, 92)], ids=str)
@pytest.mark.parametrize("name", HOST_MAX)
def test_host_resize_equals_the_processor(name, size_hw, source_hw):
    if name == "owlv2" and size_hw[0] != size_hw[1]:
        size_hw = (96, 96)
    processor, spec = processor_of(name, size_hw)
    image = noise(*source_hw)
    difference = np.abs(resize_on_host(image, spec) - levels_of_processor(processor, image))
    assert difference.max() <= HOST_MAX[name]
    if not spec.rounds:  # as bundles have it whose image input is uint8
        halved = resize_on_host(image, spec.model_copy(update={"rounds": True}))
        assert halved.dtype == np.uint8
        assert np.abs(halved - resize_on_host(image, spec)).max() <= 0.501


@pytest.mark.parametrize("source_hw", SOURCES_HW, ids=str)
@pytest.mark.parametrize("name", HOST_MAX)
def test_matrices_equal_the_processor(name, source_hw):
    processor, spec = processor_of(name, (64, 64))
    image = noise(*source_hw)
    levels = levels_of_matrices(image, spec, pillow_starts_with_rows(source_hw, (64, 64)))
    difference = np.abs(levels - levels_of_processor(processor, image))
    assert difference.max() <= (1e-3 if name == "owlv2" else 1.001)
    # Pillow rounds halves up, rint (as ONNX's Round) to even: ties are common where bilinear enlarges little.
    assert difference.mean() <= (1e-4 if name == "owlv2" else 0.02)


@pytest.mark.parametrize("resample", ["bicubic", "bilinear"])
@pytest.mark.parametrize(
    ("source_hw", "size_hw"), [((97, 61), (64, 64)), ((200, 150), (154, 154)), ((300, 40), (64, 64))]
)
def test_the_order_of_passes_matters_little(source_hw, size_hw, resample):
    assert PILLOW_VERSION < "13" or pillow_starts_with_rows(source_hw, size_hw)
    spec = Preprocess(size_hw=size_hw, resample=resample)
    for image, most, average in ((noise(*source_hw), 30, 0.5), (waves(*source_hw), 2, 0.3)):
        difference = np.abs(levels_of_matrices(image, spec) - resize_on_host(image, spec))
        assert difference.max() <= most
        assert difference.mean() <= average


@pytest.mark.parametrize("source_hw", FOUR_K, ids=str)
@pytest.mark.parametrize(
    ("name", "size_hw"), [("owlvit", (768, 768)), ("grounding-dino", (800, 800)), ("owlv2", (960, 960))]
)
@pytest.mark.slow
def test_4k_at_the_models_own_size(name, size_hw, source_hw):
    processor, spec = processor_of(name, size_hw)
    image = noise(*source_hw)
    difference = np.abs(resize_on_host(image, spec) - levels_of_processor(processor, image))
    assert difference.max() <= HOST_MAX[name]


@given(
    source=st.integers(1, 200),
    target=st.integers(1, 200),
    resample=st.sampled_from(["bicubic", "bilinear", "lanczos", "nearest", "zoom"]),
    backend=st.sampled_from(["pillow", "torchvision"]),
)
@settings(deadline=None, max_examples=200)
def test_taps_make_an_average(source, target, resample, backend):
    matrix = resample_weights(source, target, resample, backend).dense(source)
    assert matrix.shape == (target, source)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-5 if backend == "pillow" else 2e-3)
    if resample not in ("bicubic", "lanczos"):
        assert matrix.min() >= 0


@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    size_hw=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    resample=st.sampled_from(["bicubic", "bilinear", "zoom"]),
    pad=st.sampled_from(["none", "square"]),
)
@settings(deadline=None, max_examples=200)
def test_host_and_matrices_agree_on_any_size(height, width, size_hw, resample, pad):
    spec = Preprocess(size_hw=size_hw, resample=resample, pad=pad)
    image = noise(height, width)
    host = resize_on_host(image, spec)
    assert host.shape == (*size_hw, 3)
    assert host.dtype == np.uint8
    assert host.flags.writeable
    padded_hw = (max(height, width),) * 2 if pad == "square" else (height, width)
    difference = np.abs(host - levels_of_matrices(image, spec, pillow_starts_with_rows(padded_hw, size_hw)))
    assert difference.max() <= (0.501 if resample == "zoom" else MOST_LEVELS)


@given(height=st.integers(1, 40), width=st.integers(1, 40), level=st.integers(0, 255))
@settings(deadline=None, max_examples=50)
def test_a_flat_image_stays_flat(height, width, level):
    image = np.full((height, width, 3), level, dtype=np.uint8)
    for resample, backend in itertools.product(("bicubic", "lanczos", "nearest", "zoom"), ("pillow", "torchvision")):
        spec = Preprocess(size_hw=(20, 24), resample=resample, backend=backend)
        assert (resize_on_host(image, spec) == level).all()


@pytest.mark.parametrize("backend", ["pillow", "torchvision"])
@pytest.mark.parametrize("resample", ["bicubic", "bilinear", "lanczos", "nearest", "zoom"])
def test_the_right_size_is_left_alone(resample, backend):
    image = noise(20, 24)
    spec = Preprocess(size_hw=(20, 24), resample=resample, backend=backend)
    copy = resize_on_host(image, spec)
    np.testing.assert_array_equal(copy, image)
    assert not np.shares_memory(copy, image)
    for matrix in resize_matrices((20, 24), spec):
        np.testing.assert_allclose(matrix, np.eye(len(matrix)), atol=1e-6)


def test_views_resize_like_copies():
    view = noise(50, 80)[::-1, ::2]
    for resample in ("bilinear", "zoom"):
        spec = Preprocess(size_hw=(30, 30), resample=resample, pad="square")
        np.testing.assert_array_equal(resize_on_host(view, spec), resize_on_host(view.copy(), spec))


@pytest.mark.parametrize(
    ("source_hw", "pad", "scale_xy"),
    [
        ((480, 640), "none", (640, 480)),
        ((480, 640), "square", (640, 640)),
        ((9, 1), "square", (9, 9)),
        ((1, 1), "none", (1, 1)),
    ],
)
def test_box_scale(source_hw, pad, scale_xy):
    assert box_scale(source_hw, Preprocess(size_hw=(8, 8), resample="zoom", pad=pad)) == scale_xy


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 0, 3), np.uint8),
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        [[1, 2, 3]],
    ],
    ids=["no rows", "no columns", "grey", "four channels", "float", "list"],
)
def test_what_is_no_image_is_refused(image):
    with pytest.raises(ImageError, match="not an RGB image"):
        resize_on_host(image, Preprocess(size_hw=(8, 8), resample="bilinear"))


@pytest.mark.slow
def test_owlv2_resize_is_far_faster_than_the_processor():
    processor, spec = processor_of("owlv2", (960, 960))
    image = noise(480, 640)
    resize_on_host(image, spec)
    ours, theirs = [], []
    for _ in range(5):
        started = time.process_time()
        resize_on_host(image, spec)
        ours.append(time.process_time() - started)
        started = time.process_time()
        levels_of_processor(processor, image)
        theirs.append(time.process_time() - started)
    assert np.median(ours) < np.median(theirs) / 5


SOURCE_SIDES = [1, 2, 63, 64, 65, 96, 100, 480, 563, 799, 800, 1000, 1080, 1333, 1920, 4000]


@pytest.mark.parametrize(("short", "long"), [(800, 1333), (96, 192), (64, None), (64, 64), (100, 101)])
def test_the_processors_own_size_is_transformers(short: int, long: int | None) -> None:
    own = OwnSize(shortest_edge=short, longest_edge=long)
    for source_hw in ((height, width) for height in SOURCE_SIDES for width in SOURCE_SIDES):
        assert own_size_hw(source_hw, own) == get_size_with_aspect_ratio(source_hw, short, long)


@pytest.mark.parametrize(("height", "width"), [(800, 1333), (96, 64), (64, 64), (1, 5)])
def test_the_largest_size_that_a_processor_allows_is_transformers(height: int, width: int) -> None:
    own = OwnSize(max_height=height, max_width=width)
    for source_hw in ((height, width) for height in SOURCE_SIDES for width in SOURCE_SIDES):
        assert own_size_hw(source_hw, own) == get_image_size_for_max_height_width(source_hw, height, width)


@pytest.mark.parametrize("source_hw", [(1, 1), (48, 80), (80, 48)])
def test_a_fixed_size_is_every_sources(source_hw: tuple[int, int]) -> None:
    assert own_size_hw(source_hw, OwnSize(height=48, width=80)) == (48, 80)
