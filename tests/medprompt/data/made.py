"""Small data sets in each format, made on the spot."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Box = tuple[str, float, float, float, float]
"""Label, left, top, right, bottom."""


def picture(path: Path, size_hw: tuple[int, int] = (10, 20), seed: int = 0) -> Path:
    """Write an image of noise, so that pictures of other seeds have other pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size_hw, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def coco(
    path: Path, images: Mapping[str, tuple[tuple[int, int], Sequence[Box]]], labels: Sequence[str], /, **more: Any
) -> str:
    """Write a COCO file; images by name, with size and boxes. ``more`` replaces parts of it."""
    annotations = [
        {"image_id": n, "category_id": labels.index(label), "bbox": [x, y, right - x, bottom - y]}
        for n, (_, boxes) in enumerate(images.values())
        for label, x, y, right, bottom in boxes
    ]
    content = {
        "images": [
            {"id": n, "file_name": name, "height": height, "width": width}
            for n, (name, ((height, width), _)) in enumerate(images.items())
        ],
        "categories": [{"id": n, "name": label} for n, label in enumerate(labels)],
        "annotations": [{"id": n, **entry} for n, entry in enumerate(annotations)],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**content, **more}))
    return str(path)


def voc(folder: Path, split: str, images: Mapping[str, tuple[tuple[int, int], Sequence[Box]]]) -> str:
    """Write the labels of a VOC split; images by stem, with size and boxes."""
    for name in ("ImageSets/Main", "Annotations", "JPEGImages"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / f"ImageSets/Main/{split}.txt").write_text("".join(f"{stem}\n" for stem in images))
    for stem, ((height, width), boxes) in images.items():
        objects = "".join(
            f"<object><name>{label}</name><bndbox><xmin>{x}</xmin><ymin>{y}</ymin>"
            f"<xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>"
            for label, x, y, right, bottom in boxes
        )
        size = f"<size><width>{width}</width><height>{height}</height></size>"
        (folder / f"Annotations/{stem}.xml").write_text(f"<annotation>{size}{objects}</annotation>")
    return f"{folder}:{split}"


def yolo(
    folder: Path, split: str, images: Mapping[str, tuple[tuple[int, int], Sequence[Box]]], labels: Sequence[str]
) -> str:
    """Write the labels of a YOLO split; images by name, with size and boxes."""
    for kind in ("images", "labels"):
        (folder / kind / split).mkdir(parents=True, exist_ok=True)
    (folder / "data.yaml").write_text(json.dumps({split: f"images/{split}", "names": list(labels)}))
    for name, ((height, width), boxes) in images.items():
        lines = [
            f"{labels.index(label)} {(x + right) / 2 / width!r} {(y + bottom) / 2 / height!r} "
            f"{(right - x) / width!r} {(bottom - y) / height!r}\n"
            for label, x, y, right, bottom in boxes
        ]
        (folder / f"labels/{split}/{Path(name).stem}.txt").write_text("".join(lines))
    return f"{folder / 'data.yaml'}:{split}"
