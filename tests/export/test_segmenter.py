"""The SAM 3 tracker as a segmenter: its two graphs are transformers' forward, and a bundle is proven on boxes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from medprompt.bundles.load import load_golden, load_segmenter
from medprompt.core.errors import CheckpointError, ParityError
from medprompt.core.masks import Masks
from medprompt.core.progress import Silent
from medprompt.export.checkpoint import family_from_checkpoint, segmenter_from_checkpoint
from medprompt.export.graph.detection_graph import Normalise
from medprompt.export.parity.images import drawn_image
from medprompt.export.segmenter import export_segmenter, prompting_boxes, prove_segmenter
from medprompt.export.segmenters.base import BoxSegmenter
from medprompt.runtime.segmenter import Segmenter
from medprompt.runtime.verify import verify_segmenter
from tests.runtime.segmenters import golden, make_segmenter
from tests.tiny.segmenter import LICENCE, tiny_sam3_tracker


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tracker")
    tiny_sam3_tracker(folder)
    return folder


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> BoxSegmenter:
    return segmenter_from_checkpoint(checkpoint)


def test_the_graphs_are_transformers_forward(model: BoxSegmenter) -> None:
    image = drawn_image((199, 301), 3)
    boxes = prompting_boxes((199, 301))
    own, side = model.processor, model.preprocess().size_hw[0]
    pixels = own.image_processor(Image.fromarray(image), return_tensors="pt")["pixel_values"]
    prompts = own(input_boxes=[boxes.tolist()], original_sizes=[[199, 301]], return_tensors="pt")["input_boxes"]
    resized = np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR))
    with torch.no_grad():
        expected = model.model(pixel_values=pixels, input_boxes=prompts, multimask_output=False).pred_masks[0, :, 0]
        features = model.encoder(Normalise(model.preprocess()))(torch.from_numpy(resized.copy())[None])
        got = model.decoder()(torch.from_numpy(boxes / np.array([301, 199] * 2, dtype=np.float32)), *features)
    torch.testing.assert_close(got, expected, atol=2e-4, rtol=0)
    assert expected.std() > 0.1 and len(torch.unique(expected.flatten(1) > 0, dim=0)) > 5  # boxes differ
    assert [tuple(one.shape) for one in features] == [spec.shape for spec in model.feature_specs()]
    assert got.shape[1:] == model.mask_hw


def test_masks_of_boxes_are_transformers(model: BoxSegmenter) -> None:
    image = drawn_image((120, 90), 1)
    masks = model.reference(image, prompting_boxes((120, 90)))
    assert masks.size_hw == (120, 90)
    assert 0 < masks.areas.min() and masks.areas.max() < 120 * 90


@pytest.mark.parametrize(("size_hw", "count"), [((10, 10), 13), ((480, 640), 13)])
def test_boxes_to_prove_on_lie_in_the_image(size_hw: tuple[int, int], count: int) -> None:
    boxes = prompting_boxes(size_hw)
    assert boxes.shape == (count, 4)
    assert (boxes[:, :2] < boxes[:, 2:]).all() and (boxes >= 0).all()
    assert (boxes[:, 2:] <= [size_hw[1], size_hw[0]]).all()


def test_one_kind_of_checkpoint_is_told_from_the_other(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="medprompt export-segmenter takes this one"):
        family_from_checkpoint(checkpoint)
    (tmp_path / "config.json").write_text('{"model_type": "owlvit"}')
    with pytest.raises(CheckpointError, match="medprompt export takes this one"):
        segmenter_from_checkpoint(tmp_path)


def test_weights_without_their_terms_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for path in checkpoint.iterdir():
        if path.name != "LICENSE":
            (bare / path.name).write_bytes(path.read_bytes())
    with pytest.raises(CheckpointError, match="licence of the weights is not beside them"):
        export_segmenter(bare, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_masks_than_pytorchs_make_no_segmenter(tmp_path: Path) -> None:
    folder = make_segmenter(tmp_path / "bundle")
    manifest = load_segmenter(folder).manifest
    image, found = golden()
    records = prove_segmenter(folder, manifest, [(image, found)], "the golden image", Silent())
    assert {record.device for record in records if record.parity and record.parity.passed} >= {"ort-cpu"}
    other = replace(found, masks=Masks.of(np.roll(np.stack(list(found.masks or ())), 1, axis=2)))
    with pytest.raises(ParityError, match="other masks than PyTorch"):
        prove_segmenter(folder, manifest, [(image, other)], "the golden image", Silent())


@pytest.mark.slow
def test_a_segmenter_is_exported_and_proven(checkpoint: Path, model: BoxSegmenter, tmp_path: Path) -> None:
    out = tmp_path / "tracker.bundle"
    report = export_segmenter(checkpoint, out)
    proven = [record for record in report.manifest.engines if record.parity]
    assert proven and all(record.parity and record.parity.passed for record in proven)
    assert {record.parity.decisions for record in proven if record.parity} == {4 * 13}
    assert (out / "LICENSE").read_text() == LICENCE
    assert all(item.reference.masks is not None for item in load_golden(out / "golden.safetensors", None))
    assert verify_segmenter(out).parity.passed
    image, boxes = drawn_image((199, 301), 3), prompting_boxes((199, 301))
    with Segmenter.load(out) as segmenter:
        for count in (1, len(boxes)):
            ious = np.diag(segmenter(image, boxes[:count]).ious(model.reference(image, boxes[:count])))
            assert ious.min() > 0.98
