"""One tiny demo a session: its bundle and report serve every test here."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medprompt.benchmarks.demo import DemoReport, run_demo
from medprompt.export.parity.images import drawn_image

SIZES_HW = {"smear": ((48, 64), (64, 48)), "tissue": ((56, 56),)}
LABELS = {"smear": ("RBC", "WBC"), "tissue": ("nucleus",)}
PROMPTS = """
classes:
  - {label: RBC, phrases: [red blood cell]}
  - {label: WBC, phrases: [white blood cell]}
  - {label: nucleus, phrases: [nucleus]}
"""


@dataclass(frozen=True)
class TinyDemo:
    """A finished demo, and what it was made from."""

    report: DemoReport
    checkpoint: Path
    prompts: Path
    samples: Path


def write_samples(folder: Path) -> Path:
    """Two data sets of drawn images; every image has one box of each class of its set."""
    for name, sizes in SIZES_HW.items():
        (folder / name).mkdir(parents=True)
        images, boxes = [], []
        for number, (height, width) in enumerate(sizes, start=1):
            file = f"{name}{number}.png"
            Image.fromarray(drawn_image((height, width), number)).save(folder / name / file)
            images.append({"id": number, "file_name": file, "height": height, "width": width})
            for place in range(len(LABELS[name])):
                box = {"bbox": [4 + 20 * place, 6, 18, 20], "area": 360, "iscrowd": 0}
                boxes.append({"id": len(boxes) + 1, "image_id": number, "category_id": place + 1, **box})
        categories = [{"id": place, "name": label} for place, label in enumerate(LABELS[name], start=1)]
        content = {"images": images, "annotations": boxes, "categories": categories}
        (folder / name / "labels.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="session")
def tiny_demo(tiny_checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> TinyDemo:
    """The demo on a tiny OWL-ViT."""
    folder = tmp_path_factory.mktemp("demo")
    prompts = folder / "prompts.yaml"
    prompts.write_text(PROMPTS)
    samples = write_samples(folder / "samples")
    checkpoint = tiny_checkpoint("owlvit")
    report = run_demo(folder / "out", checkpoint=checkpoint, prompts=prompts, samples=samples, threads=1, rounds=3)
    return TinyDemo(report, checkpoint, prompts, samples)


@pytest.fixture(scope="session")
def picture() -> np.ndarray:
    """An image that no test is about."""
    return drawn_image((40, 60), 7)
