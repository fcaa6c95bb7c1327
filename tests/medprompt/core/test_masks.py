import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pycocotools import mask as cocoapi

from medprompt.core.masks import Masks

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools
SHAPES = arrays.array_shapes(min_dims=2, max_dims=2, max_side=9)
MASKS = SHAPES.flatmap(lambda size: arrays.arrays(bool, st.integers(0, 3).map(lambda n: (n, *size))))
EDGES = [
    np.zeros((1, 4, 5), bool),
    np.ones((1, 4, 5), bool),
    np.ones((1, 1, 7), bool),
    np.eye(5, dtype=bool)[None],
    np.arange(6).reshape(1, 6, 1) == 5,
    np.zeros((0, 4, 5), bool),
]


def check_round_trip(pixels):
    masks = Masks.of(pixels)
    assert np.array_equal(np.array(list(masks)).reshape(pixels.shape), pixels)
    assert masks.areas.tolist() == pixels.sum(axis=(1, 2)).tolist()
    written = json.loads(json.dumps([masks.rle(row) for row in range(len(masks))]))
    assert Masks.of_rle(written, masks.size_hw) == masks
    for rle, own, box in zip(written, pixels, masks.boxes_xyxy, strict=True):
        theirs = cocoapi.encode(np.asfortranarray(own, np.uint8))
        assert rle["counts"] == theirs["counts"].decode()
        assert np.array_equal(cocoapi.decode(rle), own)
        assert cocoapi.area(rle) == own.sum()
        left, top, width, height = cocoapi.toBbox(theirs)
        assert box.tolist() == ([left, top, left + width, top + height] if own.any() else [0] * 4)


@pytest.mark.parametrize("pixels", EDGES)
def test_pycocotools_reads_what_is_written(pixels):
    check_round_trip(pixels)


@settings(deadline=None, max_examples=40)
@given(MASKS)
def test_masks_survive_their_encoding(pixels):
    check_round_trip(pixels)


@settings(deadline=None, max_examples=40)
@given(MASKS, st.integers(0, 3), st.integers(0, 3))
def test_overlaps_parts_and_unions_are_those_of_the_pixels(pixels, top, left):
    masks = Masks.of(pixels)
    flat = pixels.reshape(len(pixels), np.prod(pixels.shape[1:])).astype(int)
    assert np.array_equal(masks.intersections(masks), flat @ flat.T)
    union = np.maximum((flat[:, None] | flat[None]).sum(axis=2), 1)
    assert np.array_equal(masks.ious(masks), flat @ flat.T / union)
    height, width = masks.size_hw
    whole = np.pad(pixels, ((0, 0), (top, 1), (left, 2)))
    assert masks.placed(top, left, (height + top + 1, width + left + 2)) == Masks.of(whole)
    assert masks.united([range(len(masks)), []]) == Masks.of(
        np.array([pixels.any(axis=0), np.zeros((height, width), bool)])
    )


def test_it_reads_as_a_sequence():
    pixels = np.arange(3)[:, None, None] == np.arange(3)[None, :, None] * np.ones((3, 2), int)
    masks = Masks.of(pixels)
    assert np.array_equal(masks[-1], pixels[-1])
    for index in (slice(1, None), [2, 0], np.array([False, True, True]), np.array([1])):
        assert masks[index] == Masks.of(pixels[index])
    assert masks[[]] == Masks.of(pixels[:0])
    assert Masks.joined([masks[:1], masks[1:]], masks.size_hw) == masks
    assert masks != masks[::-1]
    assert masks != Masks.of(pixels.transpose(0, 2, 1))
    assert masks != "masks"
    assert repr(masks) == "<3 masks of 2 x 3 pixels>"


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        ({"size": [3, 2], "counts": [6]}, "mask for a"),
        ({"size": [2, 3], "counts": [5]}, "5 pixels for an image of 6"),
        ({"size": [2, 3], "counts": [7, -1]}, "for an image"),
        ({"size": [2, 3], "counts": [2**62, 2**62, 2**62, 2**62, 6]}, "for an image"),
        ({"size": [2, 3], "counts": "é"}, "run lengths"),
        ({"size": [2, 3], "counts": "P"}, "break off"),
    ],
)
def test_what_is_no_mask_of_the_image_is_refused(rle, message):
    with pytest.raises(ValueError, match=message):
        Masks.of_rle([rle], (2, 3))


def test_counts_may_be_numbers_bytes_and_not_the_shortest():
    wanted = Masks.of(np.array([[[False, True], [True, True]]]))
    for counts in ([1, 3], [1, 2, 0, 1], [1, 3, 0], wanted.rle(0)["counts"].encode()):
        assert Masks.of_rle([{"size": [2, 2], "counts": counts}], (2, 2)) == wanted


def test_masks_of_other_sizes_are_not_compared_nor_placed():
    small, large = (Masks.of(np.ones((1, side, side), bool)) for side in (2, 3))
    with pytest.raises(ValueError, match="compared"):
        small.ious(large)
    with pytest.raises(ValueError, match="within"):
        large.placed(0, 0, (2, 2))
    with pytest.raises(ValueError, match="4 pixels for a mask of 9"):
        Masks.joined([small], (3, 3))
