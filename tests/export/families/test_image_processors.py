"""Every family with each of transformers' image processors: the pixels are the processor's, and so are the decisions.

Where torchvision is missing, its half is skipped; ``.ci/run`` runs this file a second time with it.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from medprompt.core.errors import InputError
from medprompt.core.manifest import Postprocess, Preprocess, Tolerance
from medprompt.export.checkpoint import ImageProcessor, family_from_checkpoint
from medprompt.export.embed import bank_from_prompts
from medprompt.export.families.base import Family
from medprompt.export.families.owlv2 import Owlv2
from medprompt.export.families.owlvit import OwlViT
from medprompt.export.graph.detection_graph import Normalise, input_specs
from medprompt.export.parity.images import drawn_image
from medprompt.export.parity.stages import compare_stages, stages_of_image
from medprompt.images.resize import resize_on_host
from medprompt.runtime.image_feeds import image_inputs
from tests.export.exported import prompts
from tests.tiny import TINY

POST = Postprocess(top_k=20)
HAS_TORCHVISION = find_spec("torchvision") is not None
needs_torchvision = pytest.mark.skipif(not HAS_TORCHVISION, reason="torchvision is not installed")
BACKENDS = ["pil", pytest.param("torchvision", marks=needs_torchvision)]
IMAGES = [drawn_image(size_hw, seed) for seed, size_hw in enumerate([(150, 200), (300, 90), (40, 50), (97, 331)])]


@pytest.fixture(params=BACKENDS, scope="module")
def backend(request: pytest.FixtureRequest) -> ImageProcessor:
    chosen: ImageProcessor = request.param
    return chosen


@pytest.fixture(params=TINY, scope="module")
def family(request: pytest.FixtureRequest, backend: ImageProcessor, tiny_checkpoint: Callable[[str], Path]) -> Family:
    if "sam3" in request.param and backend == "pil" and HAS_TORCHVISION:
        with pytest.raises(InputError, match="has not this image processor"):
            family_from_checkpoint(tiny_checkpoint(request.param), image_processor=backend)
        pytest.skip("transformers has SAM 3's processor with torchvision alone; Pillow stands in where that is missing")
    size_hw = (96, 128) if "grounding" in request.param or request.param == "glip" else None
    return family_from_checkpoint(tiny_checkpoint(request.param), size_hw, image_processor=backend)


def pixels_of_processor(family: Family, image_rgb: Any) -> Any:
    size = dict(zip(("height", "width"), family.image_size.size_hw, strict=True))
    made = family.processor.image_processor(images=Image.fromarray(image_rgb), size=size, return_tensors="np")
    return np.asarray(made["pixel_values"])


def assert_same_pixels(family: Family) -> None:
    spec = family.preprocess()
    for image in IMAGES:
        made = Normalise(spec)(torch.from_numpy(resize_on_host(image, spec))[None]).numpy()
        wanted = pixels_of_processor(family, image)
        np.testing.assert_allclose(made, wanted, rtol=0, atol=1e-3 * spec.rescale_factor / min(spec.std))


def test_the_pixels_are_the_processors(family: Family, backend: ImageProcessor) -> None:
    assert family.preprocess().backend == {"pil": "pillow", "torchvision": "torchvision"}[backend]
    assert_same_pixels(family)


@pytest.mark.parametrize("resample", [0, 1, 2, 3])
def test_the_pixels_are_the_processors_with_every_filter(
    family: Family, resample: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if isinstance(family, Owlv2):
        pytest.skip("OWLv2's processor has a resize of its own")
    monkeypatch.setattr(family.processor.image_processor, "resample", resample)
    assert_same_pixels(family)


def test_the_decisions_are_the_processors(family: Family) -> None:
    bank = bank_from_prompts(family, prompts(2, 2))
    for image in IMAGES[:2]:
        stages = compare_stages(stages_of_image(family, bank, POST, image), 0.2, Tolerance())
        assert stages["preprocess"].kept == 1
        assert stages["preprocess"].max_score_delta < 1e-4


def test_the_graph_takes_what_the_processor_makes(family: Family) -> None:
    spec = input_specs(family)[0]
    assert spec.dtype == ("float32" if isinstance(family, Owlv2) else "uint8")
    assert image_inputs(IMAGES[:2], family.preprocess())["image"].dtype == spec.dtype


def test_a_bundle_that_does_not_say_is_pillows_and_rounds() -> None:
    spec = Preprocess.model_validate({"size_hw": (8, 8), "resample": "zoom", "pad": "square"})
    assert (spec.backend, spec.pad_value) == ("pillow", 0)
    assert image_inputs(IMAGES[:1], spec)["image"].dtype == np.uint8


@pytest.mark.parametrize("border", [0.0, 0.5], ids=["black", "grey"])
def test_owlv2_pads_with_what_was_asked_for(
    backend: ImageProcessor, border: float, tiny_checkpoint: Callable[[str], Path]
) -> None:
    owl = family_from_checkpoint(tiny_checkpoint("owlv2"), image_processor=backend)
    owl.pad_with(border)
    spec = owl.preprocess()
    assert spec.pad_value == pytest.approx(255 * border)
    corner = pixels_of_processor(owl, IMAGES[0])[0, :, -1, -1] * np.array(spec.std) + np.array(spec.mean)
    np.testing.assert_allclose(corner, border, atol=1e-6)
    assert_same_pixels(owl)


def test_grey_padding_is_no_more_warned_of(tiny_checkpoint: Callable[[str], Path]) -> None:
    owl = family_from_checkpoint(tiny_checkpoint("owlv2"))
    owl.model.config.transformers_version = "4.57.1"
    assert "grey" in owl.warnings(POST)[0]
    owl.pad_with(0.5)
    assert not owl.warnings(POST)


def test_a_family_that_does_not_pad_refuses_a_border(tiny_checkpoint: Callable[[str], Path]) -> None:
    with pytest.raises(InputError, match="adds no border"):
        family_from_checkpoint(tiny_checkpoint("owlvit")).pad_with(0.5)


@pytest.mark.parametrize(
    ("asked", "loaded", "expected"),
    [("torchvision", "pil", "torchvision"), ("pil", "torchvision", "pil"), (None, "custom", "pil or torchvision")],
)
def test_transformers_falling_back_is_refused(
    asked: ImageProcessor | None,
    loaded: str,
    expected: str,
    tiny_checkpoint: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = SimpleNamespace(image_processor=SimpleNamespace(backend=loaded))
    monkeypatch.setattr(OwlViT, "load_processor", lambda *_, **__: found)
    with pytest.raises(InputError, match="has not this image processor") as caught:
        family_from_checkpoint(tiny_checkpoint("owlvit"), image_processor=asked)
    assert (caught.value.expected, caught.value.got) == (expected, loaded)


@pytest.mark.skipif(HAS_TORCHVISION, reason="torchvision is installed")
def test_torchvision_is_not_replaced_where_it_is_missing(tiny_checkpoint: Callable[[str], Path]) -> None:
    with pytest.raises(InputError, match="has not this image processor") as caught:
        family_from_checkpoint(tiny_checkpoint("omdet-turbo"), image_processor="torchvision")
    assert "install the torchvision" in caught.value.fix
