"""Pictures in which only words tell which objects are asked for: coloured objects drawn on real slides."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 96
"""Of a picture, in pixels: 6 × 6 patches of the small OWL-ViT."""

CELLS = 3
"""Places for objects in a row and in a column."""

COLOURS = {"red": (205, 45, 50), "blue": (45, 75, 205), "green": (45, 160, 65), "yellow": (225, 200, 50)}
SHAPES = ("disc", "ring", "bar")
CLASSES = ("red disc", "yellow disc", "blue disc", "green disc")
"""What the bundle looks for: two warm colours, two cool ones."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Thing:
    """A drawn object: its looks, and its box in pixels of the picture."""

    colour: str
    shape: str
    box_xyxy: tuple[float, float, float, float]

    @property
    def name(self) -> str:
        """Colour and shape."""
        return f"{self.colour} {self.shape}"


def slides(images: Sequence[Path], side: int = 2 * SIDE) -> list[Pixels]:
    """Backgrounds: the middle of real pictures, uint8 ``[side, side, 3]``."""
    found = []
    for path in images:
        with Image.open(path) as picture:
            half = min(picture.size) // 2
            x, y = picture.width // 2, picture.height // 2
            middle = picture.convert("RGB").crop((x - half, y - half, x + half, y + half))
            found.append(np.asarray(middle.resize((side, side), Image.Resampling.BILINEAR)))
    return found


def scene(
    backgrounds: Sequence[Pixels], names: Sequence[str], rng: np.random.Generator
) -> tuple[Pixels, tuple[Thing, ...]]:
    """A picture, uint8 ``[SIDE, SIDE, 3]``, with one object for each name, each in a cell of its own."""
    background = backgrounds[rng.integers(len(backgrounds))]
    top, left = rng.integers(0, len(background) - SIDE + 1, size=2)
    picture = background[top : top + SIDE, left : left + SIDE].astype(np.float32)
    if rng.random() < 0.5:
        picture = picture[:, ::-1].copy()
    places = rng.permutation(CELLS * CELLS)[: len(names)]
    things = tuple(_drawn(picture, name, int(place), rng) for name, place in zip(names, places, strict=True))
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8), things


def _drawn(picture: NDArray[np.float32], name: str, place: int, rng: np.random.Generator) -> Thing:
    colour, shape = name.split()
    cell = SIDE / CELLS
    width = rng.uniform(0.55, 0.8) * cell
    height = width * rng.uniform(0.9, 1.1)
    if shape == "bar":
        height, width = (height * 0.4, width) if rng.random() < 0.5 else (height, width * 0.4)
    x = (place % CELLS + 0.5) * cell + rng.uniform(-1, 1) * (cell - width) / 2
    y = (place // CELLS + 0.5) * cell + rng.uniform(-1, 1) * (cell - height) / 2
    top, left = int(max(y - height / 2 - 1, 0)), int(max(x - width / 2 - 1, 0))
    part = picture[top : int(y + height / 2 + 2), left : int(x + width / 2 + 2)]
    rows, columns = np.mgrid[top : top + part.shape[0], left : left + part.shape[1]] + 0.5
    across, down = (columns - x) / (width / 2), (rows - y) / (height / 2)
    distance = np.maximum(abs(across), abs(down)) if shape == "bar" else np.hypot(across, down)
    cover = np.clip((1 - distance) * width / 2 + 0.5, 0, 1)
    if shape == "ring":
        cover *= np.clip((distance - 0.55) * width / 2 + 0.5, 0, 1)
    paint = np.array(COLOURS[colour]) * rng.uniform(0.85, 1.1) + rng.normal(0, 10, 3)
    part += cover[..., None].astype(np.float32) * (paint.astype(np.float32) - part)
    return Thing(colour, shape, (x - width / 2, y - height / 2, x + width / 2, y + height / 2))


def write_scenes(folder: Path, backgrounds: Sequence[Pixels], count: int, seed: int) -> Path:
    """Labelled pictures as a COCO file. Every class is absent from about half of them."""
    rng = np.random.default_rng((seed, 1))
    folder.mkdir(parents=True, exist_ok=True)
    images, boxes = [], []
    for number in range(count):
        own = [name for name in CLASSES for _ in range(int(rng.integers(0, 3))) if rng.random() < 0.6]
        picture, things = scene(backgrounds, own, rng)
        Image.fromarray(picture).save(folder / f"{number:03d}.png")
        images.append({"id": number, "file_name": f"{number:03d}.png", "height": SIDE, "width": SIDE})
        for thing in things:
            left, top, right, bottom = thing.box_xyxy
            box = [round(value, 2) for value in (left, top, right - left, bottom - top)]
            entry = {"id": len(boxes) + 1, "image_id": number, "category_id": CLASSES.index(thing.name), "bbox": box}
            boxes.append({**entry, "area": round(box[2] * box[3], 2), "iscrowd": 0})
    categories = [{"id": index, "name": name} for index, name in enumerate(CLASSES)]
    path = folder / "labels.json"
    path.write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}), encoding="utf-8")
    return path
