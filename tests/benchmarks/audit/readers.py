"""A bundle that finds what its phrase vectors say, and text encoders that read, cannot read, or know by heart."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from medprompt.prompts.bank import PromptBank
from medprompt.prompts.schema import Prompts
from tests.runtime.bundles import BOXES_XYXY, ENCODER, make_folder, record

SIDE, IMAGES = 80, 24
LABELS = ("red disc", "blue disc", "red ring")
"""Objects of class i lie at box i: there query i answers channel i of a phrase vector."""

Encoder = Callable[[str], list[float]]


def reading(text: str) -> list[float]:
    """Words decide, whichever of the known ones stand for them."""
    words = set(text.split())
    red, blue = words & {"red", "crimson"}, words & {"blue", "azure"}
    disc, ring = words & {"disc", "circle", "disk"}, words & {"ring", "hoop", "annulus"}
    return [float(bool(one)) for one in (red and disc, blue and disc, red and ring)]


def ignoring(text: str) -> list[float]:
    """Whatever is asked, everything is found."""
    return [1.0, 0.95, 0.9]


def half_reading(text: str) -> list[float]:
    """Colours are read, shapes are not."""
    words = set(text.split())
    red, blue = words & {"red", "crimson"}, words & {"blue", "azure"}
    return [float(bool(red)), float(bool(blue)), float(bool(red))]


def by_heart(text: str) -> list[float]:
    """The own phrases are known as they stand, and nothing else."""
    return [float(text == label) for label in LABELS]


def bank_of(encoder: Encoder, prompts: Prompts) -> PromptBank:
    """What an encoder makes of a prompts file."""
    vectors = np.array([encoder(text) for text in prompts.texts], dtype=np.float32).reshape(-1, 3) * 0.8
    return PromptBank(prompts, ENCODER, {"vectors": vectors}, {"vectors": "phrase"}, np.zeros(0, dtype=np.int64))


def write_bundle(folder: Path, encoder: Encoder, labels: tuple[str, ...] = LABELS) -> Path:
    """A bundle whose own phrases are its labels."""
    prompts = Prompts.model_validate({"classes": [{"label": label, "phrases": [label]} for label in labels]})
    return make_folder(folder, bank_of(encoder, prompts), engines=(record("ort-cpu"),))


def write_images(folder: Path, labels: tuple[str, ...] = LABELS, count: int = IMAGES) -> Path:
    """White pictures; class i is labelled in all but every (i + 2)th, a COCO file."""
    folder.mkdir(parents=True)
    images, boxes = [], []
    for number in range(count):
        Image.new("RGB", (SIDE, SIDE), "white").save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": SIDE, "width": SIDE})
        for place in range(len(labels)):
            if number % (place + 2):
                left, top, right, bottom = (float(value) * SIDE for value in BOXES_XYXY[place])
                box = [left, top, right - left, bottom - top]
                boxes.append({"id": len(boxes) + 1, "image_id": number, "category_id": place, "bbox": box})
    categories = [{"id": place, "name": name} for place, name in enumerate(labels)]
    path = folder / "labels.json"
    path.write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}))
    return path
