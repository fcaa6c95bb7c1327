"""The table of decisions kept with each image processor: it can say no."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medprompt.benchmarks.research import image_processors
from medprompt.benchmarks.research.image_processors import mixed_images, pixels_of_file, row_of
from medprompt.export.checkpoint import family_from_checkpoint
from medprompt.export.families.owlvit import OwlViT
from medprompt.export.parity.images import drawn_image


def test_twenty_sizes_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_processors, "drawn_image", lambda size_hw, seed: size_hw)
    assert len(set(mixed_images(None))) == 20  # type: ignore[call-overload]


@pytest.mark.parametrize(("resample", "passed"), [(None, "yes"), ("nearest", "NO")])
def test_another_resize_does_not_pass(
    resample: str | None, passed: str, tiny_checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    family = family_from_checkpoint(tiny_checkpoint("owlvit"), image_processor="pil")
    if resample:
        spec = family.preprocess().model_copy(update={"resample": resample})
        monkeypatch.setattr(OwlViT, "preprocess", lambda _: spec)
    row = row_of("tiny", family, [drawn_image((60, 80), 1)], 0.2)
    assert row[-1] == passed


@pytest.mark.parametrize(("brighter", "passed"), [(0.0, "yes"), (1.0, "NO")])
def test_pixels_of_another_version_are_compared(
    brighter: float, passed: str, tiny_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    family = family_from_checkpoint(tiny_checkpoint("owlv2"), image_processor="pil")
    image = drawn_image((60, 80), 1)
    pixels = family.processor.image_processor(images=Image.fromarray(image), return_tensors="np")["pixel_values"][0]
    path = tmp_path / "pixels.npz"
    np.savez(path, pixels + np.float32(brighter), processor=np.array("Owlv2ImageProcessor of 4.57.1"))
    row = row_of("tiny", family, [image], 0.2, pixels_of_file(path))
    assert (row[2], row[-1]) == ("Owlv2ImageProcessor of 4.57.1 (pillow, zoom)", passed)
