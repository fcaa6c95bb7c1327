"""OWL-ViT and OWLv2: image size, padding, refusals, phrases that do not touch each other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from medprompt.core.errors import CheckpointError, InputError
from medprompt.export.checkpoint import family_from_checkpoint
from medprompt.export.families.owlv2 import Owlv2
from medprompt.export.families.owlvit import OwlViT, _resampled_grid
from medprompt.export.parity.images import drawn_image
from medprompt.images.resize import box_scale, resize_matrices

TEXTS = ("red blood cell", "polyp", "small purple platelet")


@pytest.fixture(params=["owlvit", "owlv2"])
def family(request: pytest.FixtureRequest, tiny_checkpoint: Callable[[str], Path]) -> OwlViT:
    loaded = family_from_checkpoint(tiny_checkpoint(request.param))
    assert isinstance(loaded, OwlViT)
    return loaded


def test_what_each_reads_from_its_processor(family: OwlViT) -> None:
    spec, own = family.preprocess(), family.processor.image_processor
    wanted = ("zoom", "square") if isinstance(family, Owlv2) else ("bicubic", "none")
    assert (spec.resample, spec.pad) == wanted
    assert spec.size_hw == family.image_size.size_hw == (64, 64)
    assert (spec.mean, spec.std) == (tuple(own.image_mean), tuple(own.image_std))
    assert spec.rescale_factor == 1 / 255


@pytest.mark.parametrize("size_hw", [(64, 96), (32, 32), (0, 0)])
def test_another_image_size_is_refused(family: OwlViT, size_hw: tuple[int, int]) -> None:
    assert type(family)(family.model, family.processor, (64, 64)).image_size.size_hw == (64, 64)
    with pytest.raises(InputError, match="one image size") as caught:
        type(family)(family.model, family.processor, size_hw)
    assert (caught.value.expected, caught.value.got) == ("64x64", "{}x{}".format(*size_hw))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"size": {"height": 64, "width": 48}}, "does not fit the model"),
        ({"do_center_crop": True}, "does not fit the model"),
    ],
)
def test_a_processor_that_does_not_fit_is_refused(family: OwlViT, changes: dict[str, Any], match: str) -> None:
    for name, value in changes.items():
        setattr(family.processor.image_processor, name, value)
    with pytest.raises(CheckpointError, match=match):
        family.preprocess()


@pytest.mark.parametrize(
    ("step", "off"),
    [
        ("do_pad", False),
        ("do_resize", False),
        ("do_rescale", False),
        ("resample", 0),
    ],
)
def test_owlv2_refuses_a_processor_without_a_step(tiny_checkpoint: Callable[[str], Path], step: str, off: Any) -> None:
    family = family_from_checkpoint(tiny_checkpoint("owlv2"), image_processor="pil")
    setattr(family.processor.image_processor, step, off)
    with pytest.raises(CheckpointError, match="leaves out a step") as caught:
        family.preprocess()
    assert caught.value.got == f"{step}: {off}"


def test_resample_0_turns_owlv2s_blur_off_in_transformers(tiny_checkpoint: Callable[[str], Path]) -> None:
    """Why ``resample`` is among the steps: if this fails, transformers has mended it."""
    processor = family_from_checkpoint(tiny_checkpoint("owlv2"), image_processor="pil").processor.image_processor
    image = Image.fromarray(drawn_image((300, 300), 1))
    blurred, bare, other = (
        processor(images=image, resample=resample, return_tensors="np")["pixel_values"] for resample in (2, 0, 3)
    )
    assert np.abs(blurred - bare).max() > 0.1
    np.testing.assert_array_equal(blurred, other)


@pytest.mark.parametrize(("source_hw", "padded"), [((40, 80), "bottom"), ((80, 40), "right")])
def test_owlv2_pads_with_black_at_the_bottom_or_right(
    tiny_checkpoint: Callable[[str], Path], source_hw: tuple[int, int], padded: str
) -> None:
    family = family_from_checkpoint(tiny_checkpoint("owlv2"))
    spec = family.preprocess()
    white = Image.fromarray(np.full((*source_hw, 3), 255, dtype=np.uint8))
    pixels = family.processor.image_processor(images=white, return_tensors="np")["pixel_values"][0]
    grey = pixels * np.array(spec.std)[:, None, None] + np.array(spec.mean)[:, None, None]
    far = grey[:, 36:] if padded == "bottom" else grey[:, :, 36:]
    near = grey[:, :28] if padded == "bottom" else grey[:, :, :28]
    np.testing.assert_allclose(far, 0.0, atol=1e-6)
    np.testing.assert_allclose(near, 1.0, atol=1e-6)
    rows, cols = resize_matrices(source_hw, spec)
    assert (rows.shape, cols.shape) == ((64, source_hw[0]), (64, source_hw[1]))
    assert box_scale(source_hw, spec) == (80.0, 80.0)


def test_objectness_has_no_part_in_the_graph(tiny_checkpoint: Callable[[str], Path]) -> None:
    family = family_from_checkpoint(tiny_checkpoint("owlv2"))
    tensors = family.encode(TEXTS).tensors
    raw = family.core()(torch.rand(1, 3, 64, 64), {"query_embeds": tensors["query_embeds"][None]})
    (raw.logits.sum() + raw.boxes_cxcywh.sum()).backward()
    unused = {name.split(".")[0] for name, parameter in family.model.named_parameters() if parameter.grad is None}
    # The two of the backbone are CLIP's contrastive head: projection of the image and temperature.
    assert unused == {"objectness_head", "owlv2"}


def test_phrases_are_unit_vectors_that_do_not_touch_each_other(family: OwlViT) -> None:
    with torch.no_grad():
        together = family.encode(TEXTS).tensors["query_embeds"]
        alone = torch.cat([family.encode([text]).tensors["query_embeds"] for text in TEXTS])
    torch.testing.assert_close(together.norm(dim=1), torch.ones(3), rtol=0, atol=1e-6)
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)
    similar = together @ together.T
    assert similar[~torch.eye(3, dtype=torch.bool)].abs().max() < 0.99


def test_queries_lie_at_patch_centres(family: OwlViT) -> None:
    centres = family.core().query_centres()
    assert centres is not None
    assert tuple(centres.shape) == (64, 2)
    assert centres[0].tolist() == [1 / 16, 1 / 16]
    assert centres[1].tolist() == [3 / 16, 1 / 16]
    assert centres[8].tolist() == [1 / 16, 3 / 16]
    assert centres[-1].tolist() == [15 / 16, 15 / 16]


def test_another_training_size_resamples_the_positions_only(family: OwlViT, tmp_path: Path) -> None:
    before = {name: tensor.clone() for name, tensor in family.model.named_parameters()}
    patch = family.model.config.vision_config.patch_size
    family.resize_images(96)
    assert family.preprocess().size_hw == (96, 96)
    changed = [n for n, t in family.model.named_parameters() if t.shape != before[n].shape or (t != before[n]).any()]
    assert changed == [family._positions]
    assert len(family.model.get_parameter(family._positions)) == 1 + (96 // patch) ** 2
    family.model.save_pretrained(tmp_path)
    family.processor.save_pretrained(tmp_path)
    image = drawn_image((60, 80), 0)
    loaded = family_from_checkpoint(tmp_path)
    assert torch.equal(loaded.reference(image, TEXTS).logits, family.reference(image, TEXTS).logits)


def test_a_resampled_grid_keeps_its_size_and_directions() -> None:
    rows = torch.arange(4.0)[:, None].expand(4, 4)
    positions = torch.cat([torch.full((1, 2), 9.0), torch.stack([rows, rows.T], dim=2).reshape(16, 2)])
    assert torch.allclose(_resampled_grid(positions, 4), positions)
    finer = _resampled_grid(positions, 8)
    assert finer[0].tolist() == [9.0, 9.0]
    grid = finer[1:].reshape(8, 8, 2)
    assert (grid[1:, :, 0] > grid[:-1, :, 0]).all()
    assert (grid[:, 1:, 1] > grid[:, :-1, 1]).all()


def test_a_training_size_of_broken_patches_is_refused(family: OwlViT) -> None:
    with pytest.raises(CheckpointError, match="multiple of"):
        family.resize_images(97)


def test_bytes_are_all_known_and_a_mark_is_no_padding(family: OwlViT) -> None:
    texts = ["憩室", "腺瘤", "😀", "polyp!", "μm"]
    family.check_phrases(texts)
    assert [family.unknown_words(text) for text in texts] == [()] * len(texts)
