"""The images that a bundle is compared on: the user's own, or drawn ones where none are given."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from medprompt.images.read import find_images, load_image
from medprompt.images.sources import spread

GOLDEN_COUNT = 4
"""Images kept in the bundle for its self-test."""

MAX_IMAGES = 200
"""Images compared at most; more cost time and add little."""

DRAWN_SIZES_HW = ((240, 320), (320, 240), (256, 256), (199, 301))
"""Landscape, portrait, square and odd: a mistake in the box scale shows in at least one."""


@dataclass(frozen=True)
class ParityImages:
    """Images to compare on; files are read each time they are requested, so that many large ones fit.

    Attributes:
        items: Files, or uint8 arrays ``[H, W, 3]``.
        source: Which images these are, for the record.
    """

    items: tuple[Path | NDArray[np.uint8], ...]
    source: str

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """Yield each image as uint8 ``[H, W, 3]`` RGB."""
        return (load_image(item) if isinstance(item, Path) else item for item in self.items)

    def __len__(self) -> int:
        return len(self.items)

    def golden_indices(self) -> list[int]:
        """Which images go into the bundle for its self-test: a few, spread evenly."""
        return spread(len(self), GOLDEN_COUNT)


def parity_images(folder: Path | None) -> ParityImages:
    """Choose the images to compare on: those of a folder, one image, or drawn ones for None.

    Raises:
        ImageError: No image there, or one that cannot be read.
    """
    if folder is None:
        drawn = tuple(drawn_image(size_hw, seed) for seed, size_hw in enumerate(DRAWN_SIZES_HW))
        return ParityImages(drawn, f"{len(drawn)} drawn images (no real images were given): not medical, a weak check")
    paths = find_images([folder])
    if paths == [folder]:
        return ParityImages((folder,), f"the image {folder.name}")
    chosen = tuple(paths[index] for index in spread(len(paths), MAX_IMAGES))
    share = f"{len(chosen)}" if len(chosen) == len(paths) else f"{len(chosen)} of {len(paths)}"
    return ParityImages(chosen, f"{share} images of {folder.name}/")


def drawn_image(size_hw: tuple[int, int], seed: int) -> NDArray[np.uint8]:
    """Draw soft-edged discs and noise on a pale ground, the same for a seed: structure at several scales."""
    random = np.random.default_rng(seed)
    height, width = size_hw
    ground = tuple(int(value) for value in random.integers(190, 235, 3))
    image = Image.new("RGB", (width, height), ground)
    pen = ImageDraw.Draw(image)
    for _ in range(24):
        x, y, radius = random.uniform(0, width), random.uniform(0, height), random.uniform(3, min(size_hw) / 6)
        squash = random.uniform(0.6, 1.4)
        colour = tuple(int(value) for value in random.integers(30, 220, 3))
        pen.ellipse((x - radius, y - radius * squash, x + radius, y + radius * squash), fill=colour)
    soft = np.asarray(image.filter(ImageFilter.GaussianBlur(1.2)), dtype=np.float32)
    grain = random.normal(0, 4, (height, width, 1)).astype(np.float32)
    drawn: NDArray[np.uint8] = np.clip(soft + grain, 0, 255).astype(np.uint8)
    return drawn
