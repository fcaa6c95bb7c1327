"""Drawn shapes: objects of no class, so that boxes and attribute words are learned apart from the labelled classes.

A model that has only seen cells learns size and appearance together: where a platelet lies it draws a box as large as a
red cell, and no phrase can find it (docs/research/). Soft ellipses of any size, colour and elongation, plain or
filled with one of the picture's own objects, are to a step's composed phrases what natural images are to a pretrained
detector: other things that the same words are true of.
"""

from __future__ import annotations

import colorsys

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medprompt.core.boxes import intersection_matrix, xyxy_from_cxcywh

NO_CLASS = -1
"""Class id of what is drawn."""
SIDE = (0.03, 0.35)
"""Minimum and maximum size (side of the square of equal area, in shares of the picture's side), drawn log-uniformly."""
ELONGATION = (0.5, 2.0)
TRIES = 8
"""Positions that are tried for a shape before it is left out."""
APART = 0.1
"""Largest share of a shape, or of an object, that may lie under the other's box."""


def draw_shapes(
    image: NDArray[np.uint8],
    objects_cxcywh: NDArray[np.float32],
    held_out_cxcywh: NDArray[np.float32],
    limit: int,
    rng: np.random.Generator,
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Draw up to ``limit`` ellipses where nothing that is boxed lies, every second filled from an object.

    Args:
        image: uint8 ``[h, w, 3]``; it is not changed.
        objects_cxcywh: float32 ``[N, 4]`` in 0 … 1: objects that may be copied.
        held_out_cxcywh: float32 ``[M, 4]``: objects that are left alone; nothing that overlaps one is copied.
        limit: 0 … ``limit`` are drawn, each number as likely.
        rng: Decides everything.

    Returns:
        The picture, and float32 ``[M, 4]`` the boxes of what was drawn.
    """
    drawn = image.astype(np.float32)
    taken = there = np.concatenate([objects_cxcywh, held_out_cxcywh])
    models = objects_cxcywh[_shared_areas(objects_cxcywh, held_out_cxcywh).sum(axis=1) == 0]
    for _ in range(rng.integers(limit + 1)):
        box = _free_box(taken, rng)
        if box is None:
            continue
        copied = len(models) and rng.random() < 0.5
        _blend(drawn, box, _picture_of(image, models, rng) if copied else _plain(rng), rng)
        taken = np.concatenate([taken, box[None]])
    return np.rint(drawn).clip(0, 255).astype(np.uint8), taken[len(there) :]


def _free_box(taken: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32] | None:
    """A box ``[4]``, cxcywh in 0 … 1, apart from those that are there; None where no try finds one."""
    side = np.exp(rng.uniform(*np.log(SIDE)))
    stretch = np.sqrt(np.exp(rng.uniform(*np.log(ELONGATION))))
    size = np.array([side * stretch, side / stretch])
    for _ in range(TRIES):
        centre = rng.uniform(size / 2, 1 - size / 2)
        box = np.concatenate([centre, size]).astype(np.float32)
        shared = _shared_areas(taken, box[None])[:, 0]
        if not (shared > APART * np.minimum(size.prod(), taken[:, 2:].prod(axis=1))).any():
            return box
    return None


def _shared_areas(a_cxcywh: NDArray[np.float32], b_cxcywh: NDArray[np.float32]) -> NDArray[np.floating]:
    """``[N, 4]`` and ``[M, 4]`` to ``[N, M]``."""
    return intersection_matrix(xyxy_from_cxcywh(a_cxcywh), xyxy_from_cxcywh(b_cxcywh))


def _plain(rng: np.random.Generator) -> Image.Image:
    """One pixel of any hue; a third without colour."""
    saturation = 0.0 if rng.random() < 1 / 3 else rng.uniform(0.1, 0.7)
    rgb = colorsys.hsv_to_rgb(rng.random(), saturation, rng.uniform(0.2, 1.0))
    return Image.new("RGB", (1, 1), tuple(round(channel * 255) for channel in rgb))


def _picture_of(image: NDArray[np.uint8], objects: NDArray[np.float32], rng: np.random.Generator) -> Image.Image:
    """One of the objects, cut out, every second time in another hue."""
    x, y, w, h = objects[rng.integers(len(objects))] * np.array([*image.shape[1::-1]] * 2)
    left, top = int(max(x - w / 2, 0)), int(max(y - h / 2, 0))
    part = Image.fromarray(image[top : max(top + 1, round(y + h / 2)), left : max(left + 1, round(x + w / 2))])
    hue, saturation, value = part.convert("HSV").split()
    turn = int(rng.integers(256) * rng.integers(2))
    turned = hue.point([(degree + turn) % 256 for degree in range(256)])
    return Image.merge("HSV", (turned, saturation, value)).convert("RGB")


def _blend(
    image: NDArray[np.float32], box: NDArray[np.float32], filling: Image.Image, rng: np.random.Generator
) -> None:
    """Lay an ellipse with a soft edge and some grain over ``image`` ``[h, w, 3]`` (0 … 255), in place."""
    height, width = image.shape[:2]
    x, y, w, h = box * np.array([width, height, width, height], dtype=np.float32)
    left, top = int(x - w / 2), int(y - h / 2)
    part = image[top : int(y + h / 2) + 1, left : int(x + w / 2) + 1]
    size_hw = part.shape[:2]
    rows, columns = np.ogrid[: size_hw[0], : size_hw[1]]
    distance = np.hypot((columns + left + 0.5 - x) / (w / 2), (rows + top + 0.5 - y) / (h / 2))
    cover = ((1 - distance) * np.sqrt(w * h) / 3 + 0.5).clip(0, 1)[..., None] * rng.uniform(0.7, 1.0)
    filled = np.asarray(filling.resize(size_hw[::-1], Image.Resampling.BOX), dtype=np.float32)
    grain = rng.normal(0, rng.uniform(0, 12), part.shape).astype(np.float32)
    part += cover * (filled + grain - part)
