"""Drawn training data, and a short recipe, for the tests of training runs."""

import csv
import json

import numpy as np
from PIL import Image

from medprompt.export.finetune.recipe import Recipe
from medprompt.prompts.schema import Prompts

PROMPTS = Prompts.model_validate(
    {"classes": [{"label": "disc", "phrases": ["red cell", "a cell"]}, {"label": "spot", "phrases": ["dot"]}]}
)


def drawn_coco(folder, count=6, suffix="png", outlines=True):
    """Images of 60 x 80 with a disc and a spot each, and their outlines; returns the path of the COCO file."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for n in range(count):
        pixels = rng.integers(180, 220, (60, 80, 3)).astype(np.uint8)
        for category, side in ((1, 20), (2, 6)):
            left, top = rng.integers(0, 80 - side), rng.integers(0, 60 - side)
            pixels[top : top + side, left : left + side] = (200, 40 * category, 90)
            box = [int(left), int(top), side, side]
            right, bottom = left + side, top + side
            corners = [int(value) for value in (left, top, right, top, right, bottom, left, bottom)]
            outline = {"segmentation": [corners]} if outlines else {}
            named = {"id": len(annotations), "image_id": n, "category_id": category}
            annotations.append({**named, "bbox": box, **outline})
        Image.fromarray(pixels).save(folder / f"{n}.{suffix}")
        images.append({"id": n, "file_name": f"{n}.{suffix}", "height": 60, "width": 80})
    categories = [{"id": 1, "name": "disc"}, {"id": 2, "name": "spot"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "set.json").write_text(json.dumps(content))
    return str(folder / "set.json")


def recipe_of(labels, **changes):
    fields = {
        "data": [{"train": labels, "val": labels}],
        "steps": 6,
        "batch": 2,
        "learning_rate": 1e-3,
        "warmup_steps": 1,
        "decay_steps": 2,
        "evaluate_every": 3,
        "save_every": 2,
        "threads": 1,
    }
    return Recipe.model_validate(fields | changes)


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


def killer(step):
    """A report that kills the run at a step."""

    def report(row):
        if row["step"] >= step:
            raise Killed

    return report


def read_log(path):
    with path.open(newline="") as handle:
        return list(csv.DictReader(handle))
