"""What ``medprompt`` offers of the PyTorch side: one script from a checkpoint to a picture with boxes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import medprompt

PROMPTS = "classes: [{label: RBC, phrases: [red blood cell]}, {label: WBC, phrases: [white blood cell]}]"
MORE = "classes: [{label: P, phrases: [tiny dot]}]"


def test_a_checkpoint_becomes_boxes_in_a_picture(
    tiny_checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tiny_checkpoint("owlvit")
    monkeypatch.chdir(tmp_path)
    Path("prompts.yaml").write_text(PROMPTS)
    Path("more.yaml").write_text(MORE)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)).save("x.png")

    report = medprompt.export_bundle(str(checkpoint), "prompts.yaml", "cells.bundle", images="x.png", threshold=0.0)
    assert report.path == Path("cells.bundle")
    assert report.manifest.default_threshold == 0.0
    with medprompt.Detector.load("cells.bundle", device="ort-cpu", threads=1) as detector:
        found = detector("x.png")
    assert len(found) and {one.label for one in found} <= {"RBC", "WBC"}
    found.plot().save("boxes.png")
    assert medprompt.verify_bundle("cells.bundle", "ort-cpu").passed

    medprompt.embed_prompts(checkpoint, "more.yaml").save("more.safetensors")
    run = medprompt.infer("cells.bundle", "x.png", prompts="more.safetensors", device="ort-cpu", threads=1)
    assert run.labels == ("P",)
    content = medprompt.load_prompts("more.yaml")
    assert medprompt.embed_prompts(checkpoint, content).content_hash() == run.bank_sha256
