"""A labelled set that several tests of this folder use."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from medprompt.data import DetectionSet, LabelledImage
from medprompt.export.parity.images import drawn_image


def drawn_set(folder: Path) -> DetectionSet:
    """Two drawn images of different size, one box of each class."""
    images = []
    for seed, size_hw in enumerate([(50, 80), (64, 40)]):
        path = folder / f"{seed}.png"
        Image.fromarray(drawn_image(size_hw, seed)).save(path)
        boxes = np.array([[2, 3, 20, 30], [10, 10, 30, 25]], dtype=np.float32)
        images.append(LabelledImage(path, size_hw, boxes, np.array([0, 1])))
    return DetectionSet("drawn", ("disc", "spot"), tuple(images))
