"""A bundle on the fake engine and images whose quarters it finds: accuracy that can be told beforehand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from medprompt.core.manifest import Postprocess
from medprompt.core.masks import Masks
from tests.runtime.bundles import make_bank, make_folder, record

WIDTH, HEIGHT = 60, 40
QUARTERS = ((0, 0), (1, 0), (0, 1), (1, 1))
"""Column and row of each quarter, in the fake engine's order: its classes are RBC, WBC, RBC, WBC."""


def fake_bundle(folder: Path, **changes: Any) -> Path:
    """RBC and WBC, served by the fake engine alone."""
    return make_folder(folder, make_bank(), engines=(record("fake"),), **changes)


MASKED = Postprocess(top_k=4, queries=4, mask_threshold=0.5)
"""Of a bundle with masks: those of the fake engine are whole quarters."""


def write_image(path: Path, levels: Sequence[float]) -> Path:
    """Quarters of these brightnesses, 0 … 1: what the fake engine scores them."""
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for (column, row), level in zip(QUARTERS, levels, strict=True):
        top, left = row * HEIGHT // 2, column * WIDTH // 2
        picture[top : top + HEIGHT // 2, left : left + WIDTH // 2] = round(level * 255)
    Image.fromarray(picture).save(path)
    return path


def write_set(
    folder: Path,
    levels: Sequence[Sequence[float]],
    names: Sequence[str] = ("RBC", "WBC"),
    bright: float = 0.5,
    part: float | None = None,
) -> Path:
    """A COCO file: quarters brighter than ``bright`` are labelled, left ones as the first name, right as the second.

    ``part``: how much of each quarter's height is of its mask, from the top; None: there are no masks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    boxes = []
    for number, one in enumerate(levels):
        write_image(folder / f"{number}.png", one)
        for (column, row), level in zip(QUARTERS, one, strict=True):
            if level > bright:
                box = [column * WIDTH / 2, row * HEIGHT / 2, WIDTH / 2, HEIGHT / 2]
                entry = {"id": len(boxes) + 1, "image_id": number, "category_id": column, "bbox": box}
                corners = [[*box[:2], box[0] + box[2], box[1] + box[3] * (part or 1)]]
                mask = Masks.of_boxes(np.array(corners).astype(int), (HEIGHT, WIDTH)).rle(0)
                boxes.append(entry if part is None else {**entry, "segmentation": mask})
    images = [{"id": n, "file_name": f"{n}.png", "height": HEIGHT, "width": WIDTH} for n in range(len(levels))]
    categories = [{"id": place, "name": name} for place, name in enumerate(names)]
    path = folder / "labels.json"
    path.write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}))
    return path


LEVELS = ((0.9, 0.2, 0.8, 0.1), (0.1, 0.1, 0.1, 0.1), (0.8, 0.9, 0.1, 0.7), (0.6, 0.1, 0.3, 0.9))
"""Four images: every labelled quarter scores over 0.5, every other one under 0.4; the second has no label."""
