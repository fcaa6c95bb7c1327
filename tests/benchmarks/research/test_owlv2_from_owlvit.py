"""An OWLv2 of an OWL-ViT's weights sees the same pixels alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers

from medprompt.benchmarks.research.owlv2_from_owlvit import owlv2_from_owlvit
from medprompt.core.errors import CheckpointError


def test_the_same_pixels_get_the_same_boxes_and_scores(tiny_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    one = tiny_checkpoint("owlvit")
    other = owlv2_from_owlvit(one, tmp_path / "owlv2")
    processors = [transformers.AutoProcessor.from_pretrained(folder) for folder in (one, other)]
    assert processors[0].image_processor.image_mean == processors[1].image_processor.image_mean
    asked = [
        dict(processor.tokenizer(["a cell", "polyp"], padding="max_length", max_length=16, return_tensors="pt"))
        for processor in processors
    ]
    torch.testing.assert_close(asked[0], asked[1], rtol=0, atol=0)
    size = processors[0].image_processor.size
    pixels = torch.rand(1, 3, size["height"], size["width"], generator=torch.Generator().manual_seed(0))
    models = [getattr(transformers, f"{name}ForObjectDetection") for name in ("OwlViT", "Owlv2")]
    with torch.no_grad():
        found = [
            model.from_pretrained(folder, dtype=torch.float32)(pixel_values=pixels, **asked[0])
            for model, folder in zip(models, (one, other), strict=True)
        ]
    for name in ("logits", "pred_boxes"):
        torch.testing.assert_close(getattr(found[0], name), getattr(found[1], name), rtol=0, atol=1e-6)


def test_weights_without_a_place_are_refused(
    tiny_checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medprompt.benchmarks.research.owlv2_from_owlvit.NEW", "nothing.")
    with pytest.raises(CheckpointError, match="differ") as caught:
        owlv2_from_owlvit(tiny_checkpoint("owlvit"), tmp_path / "owlv2")
    assert "objectness_head" in caught.value.got
    assert not (tmp_path / "owlv2").exists()
