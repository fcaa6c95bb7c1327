"""Drawn shapes: objects of no class, so that boxes and attribute words are learned apart from the labelled classes.

A model that has only seen cells learns their sizes with their looks: where a platelet lies it draws a box as large as a
red cell, and no wording can find it (docs/novel-classes.md). Soft ellipses of any size, colour and elongation are to a
step's composed phrases what natural images are to a pretrained detector: other things that the same words are true of.
"""

from __future__ import annotations

import colorsys

import numpy as np
from numpy.typing import NDArray

NO_CLASS = -1
"""Class id of what is drawn."""
SIDE = (0.03, 0.35)
"""Least and greatest size (side of the square of equal area, in shares of the picture's side), drawn log-uniformly."""
ELONGATION = (0.5, 2.0)
TRIES = 8
"""Places that are tried for a shape before it is left out."""
APART = 0.1
"""Largest share of a shape, or of an object, that may lie under the other's box."""


def draw_shapes(
    image: NDArray[np.uint8], taken_cxcywh: NDArray[np.float32], most: int, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Draw up to ``most`` ellipses where nothing that is boxed lies.

    Args:
        image: uint8 ``[h, w, 3]``; it is not changed.
        taken_cxcywh: float32 ``[N, 4]`` in 0 … 1: objects, held-out ones among them.
        most: 0 … ``most`` are drawn, each number as likely.
        rng: Decides everything.

    Returns:
        The picture, and float32 ``[M, 4]`` the boxes of what was drawn.
    """
    drawn = image.astype(np.float32)
    taken = taken_cxcywh
    for _ in range(rng.integers(most + 1)):
        box = _free_place(taken, rng)
        if box is not None:
            _blend(drawn, box, _colour(rng), rng)
            taken = np.concatenate([taken, box[None]])
    return np.rint(drawn).clip(0, 255).astype(np.uint8), taken[len(taken_cxcywh) :]


def _free_place(taken: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32] | None:
    """A box ``[4]``, cxcywh in 0 … 1, apart from those that are there; None where no try finds one."""
    side = np.exp(rng.uniform(*np.log(SIDE)))
    stretch = np.sqrt(np.exp(rng.uniform(*np.log(ELONGATION))))
    size = np.array([side * stretch, side / stretch])
    for _ in range(TRIES):
        centre = rng.uniform(size / 2, 1 - size / 2)
        near = np.minimum(taken[:, :2] + taken[:, 2:] / 2, centre + size / 2)
        far = np.maximum(taken[:, :2] - taken[:, 2:] / 2, centre - size / 2)
        shared = (near - far).clip(min=0).prod(axis=1)
        if not (shared > APART * np.minimum(size.prod(), taken[:, 2:].prod(axis=1))).any():
            return np.concatenate([centre, size]).astype(np.float32)
    return None


def _colour(rng: np.random.Generator) -> NDArray[np.float32]:
    """RGB ``[3]`` in 0 … 255 of any hue; a third without colour."""
    saturation = 0.0 if rng.random() < 1 / 3 else rng.uniform(0.1, 0.7)
    rgb = colorsys.hsv_to_rgb(rng.random(), saturation, rng.uniform(0.2, 1.0))
    return np.array(rgb, dtype=np.float32) * 255


def _blend(
    image: NDArray[np.float32], box: NDArray[np.float32], colour: NDArray[np.float32], rng: np.random.Generator
) -> None:
    """Lay an ellipse with a soft edge and some grain over ``image`` ``[h, w, 3]`` (0 … 255), in place."""
    height, width = image.shape[:2]
    x, y, w, h = box * np.array([width, height, width, height], dtype=np.float32)
    rows, columns = np.ogrid[:height, :width]
    distance = np.hypot((columns + 0.5 - x) / (w / 2), (rows + 0.5 - y) / (h / 2))
    cover = ((1 - distance) * np.sqrt(w * h) / 3 + 0.5).clip(0, 1)[..., None] * rng.uniform(0.7, 1.0)
    grain = rng.normal(0, rng.uniform(0, 12), image.shape).astype(np.float32)
    image += cover * (colour + grain - image)
